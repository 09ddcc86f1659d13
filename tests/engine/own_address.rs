//! The address at which others see a node: who has a vote, which address wins, and what follows when
//! another one does.

use std::sync::Arc;
use std::time::Duration;

use chacha20::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use crate::net::{Network, local, public};
use crate::scripted::{Stage, bytes};
use kadepy::dht::own::{Own, voter};
use kadepy::dht::protocol::Event;
use kadepy::wire::message::{Body, Message, Trailer};
use kadepy::wire::native::{self, Lists};
use kadepy::{Config, Endpoint, NodeId, Time};

const SECOND: Duration = Duration::from_secs(1);
const TOPIC: NodeId = NodeId([0x77; 32]);
const ANNOUNCE: u8 = 4;

const TRUE: fn() -> Endpoint = || Endpoint::new([5, 6, 7, 8], 4_000);
const LIE: fn() -> Endpoint = || Endpoint::new([66, 6, 6, 6], 666);

/// A node on every address of its host, which knows none of them.
fn stage() -> Stage {
    Stage::bound_to(Endpoint::new([0; 4], 4_000), Config::default())
}

/// Has the node ping somebody, who answers that it sees the node at this address.
fn vote(stage: &mut Stage, by: Endpoint, seen_at: Endpoint) {
    stage
        .network
        .command(stage.at, |node, now, out| node.ping(now, by, None, out))
        .expect("there is room");
    let question = stage.sent(by).pop().expect("a PING");
    let txid =
        native::decode(&question, &mut Lists::default()).expect("a node sends what decodes").txid();
    // Not to be listed, for a new contact has memberships announce too.
    let trailer = Trailer { txid, endpoint: Some(seen_at), read_only: true, ..Trailer::default() };
    let id = NodeId::of_topic(format!("{by}").as_bytes());
    stage.inject(by, &bytes(&Message::new(id, Body::Pong, Some(trailer))));
}

fn external(stage: &Stage) -> Option<Endpoint> {
    stage.network.nodes[&stage.at].external()[0]
}

fn changes(stage: &Stage) -> Vec<(Option<Endpoint>, Option<Endpoint>)> {
    let events = stage.network.events.get(&stage.at).into_iter().flatten();
    events
        .filter_map(|event| match event {
            Event::External { former, address } => Some((*former, *address)),
            _ => None,
        })
        .collect()
}

#[test]
fn two_networks_that_agree_are_the_least_that_win() {
    let mut stage = stage();
    vote(&mut stage, public(1), TRUE());
    assert_eq!(external(&stage), None, "one alone");
    vote(&mut stage, public(2), TRUE());
    assert_eq!(external(&stage), Some(TRUE()));
    assert_eq!(changes(&stage), [(None, Some(TRUE()))]);
}

#[test]
fn one_liar_wins_nothing_and_hinders_only_as_long_as_there_is_one_other() {
    let mut stage = stage();
    vote(&mut stage, public(1), LIE());
    vote(&mut stage, public(1), LIE());
    vote(&mut stage, public(2), TRUE());
    assert_eq!(external(&stage), None);
    vote(&mut stage, public(3), TRUE());
    assert_eq!(external(&stage), Some(TRUE()));
}

#[test]
fn a_thousand_addresses_of_one_network_have_one_vote() {
    let mut stage = stage();
    let liar = |host: u32| Endpoint::new([198, 51, 100, host as u8], 4_000 + (host / 256) as u16);
    for host in 0..1_000 {
        vote(&mut stage, liar(host), LIE());
    }
    assert_eq!(external(&stage), None);
    for index in 1..=2 {
        vote(&mut stage, public(index), TRUE());
    }
    for host in 0..1_000 {
        vote(&mut stage, liar(host), LIE());
    }
    assert_eq!(external(&stage), Some(TRUE()));
    let ipv6 = |host| Endpoint::new([0x2001, 0xdb8, 7, host, 0, 0, 0, host], 4_000);
    assert_eq!(voter(&ipv6(1)), voter(&ipv6(2)), "a /48");
}

#[test]
fn local_nodes_win_nothing_whatever_they_say() {
    let mut stage = stage();
    for index in 1..=8 {
        let seen_at = if index % 2 == 0 { local(200) } else { TRUE() };
        vote(&mut stage, local(index), seen_at);
        vote(&mut stage, local(index), TRUE());
    }
    assert_eq!(external(&stage), None);
    // Nor does a public node that names a local one.
    for index in 1..=8 {
        vote(&mut stage, public(index), local(200));
    }
    assert_eq!(external(&stage), None);
}

#[test]
fn an_answer_to_no_question_is_no_vote() {
    let mut stage = stage();
    for index in 1..=8 {
        let trailer = Trailer { endpoint: Some(LIE()), ..Trailer::default() };
        let pong = Message::new(NodeId([index as u8; 32]), Body::Pong, Some(trailer));
        stage.inject(public(index), &bytes(&pong));
    }
    assert_eq!(external(&stage), None);
}

/// The vote after `rounds` in which each network votes once, in an order that the seed decides.
fn voted(networks: u32, liars: u32, rounds: usize, seed: u64) -> Option<Endpoint> {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let mut own = Own::default();
    for round in 0..rounds {
        let mut order: Vec<u32> = (0..networks).collect();
        for at in (1..order.len()).rev() {
            order.swap(at, (rng.next_u64() % (at as u64 + 1)) as usize);
        }
        for index in order {
            let seen_at = if index < liars { LIE() } else { TRUE() };
            own.told(Time::from_micros(round as u64), public(index), seen_at, false);
            own.check_invariants();
        }
    }
    own.external()[0]
}

#[test]
fn the_vote_is_right_in_each_of_a_hundred_runs_where_nineteen_of_forty_networks_lie_alike() {
    for seed in 0..100 {
        assert_eq!(voted(40, 19, 3, seed), Some(TRUE()), "seed {seed}");
    }
}

#[test]
fn each_family_has_a_vote_of_its_own() {
    let mut own = Own::default();
    let ipv6 = |net| Endpoint::new([0x2a00, net, 0, 0, 0, 0, 0, 1], 4_000);
    for index in 1..=5 {
        own.told(Time::ZERO, public(index), TRUE(), false);
        own.told(Time::ZERO, ipv6(index as u16), ipv6(99), false);
        // Nobody sees a packet of one family come from an address of the other.
        own.told(Time::ZERO, ipv6(50 + index as u16), LIE(), false);
    }
    assert_eq!(own.external(), [Some(TRUE()), Some(ipv6(99))]);
}

#[test]
fn a_new_address_wins_with_the_majority_and_the_old_one_stays_until_then() {
    let mut stage = stage();
    let moved = Endpoint::new([5, 6, 7, 8], 5_555);
    for index in 1..=40 {
        vote(&mut stage, public(index), TRUE());
    }
    for index in 41..=60 {
        vote(&mut stage, public(index), moved);
    }
    assert_eq!(external(&stage), Some(TRUE()), "20 of 40 are no majority");
    vote(&mut stage, public(61), moved);
    assert_eq!(external(&stage), Some(moved));
    assert_eq!(changes(&stage), [(None, Some(TRUE())), (Some(TRUE()), Some(moved))]);
}

#[test]
fn an_address_that_nobody_names_any_more_is_given_up() {
    let mut stage = stage();
    for index in 1..=2 {
        vote(&mut stage, public(index), TRUE());
    }
    // As behind a translator that gives another port towards each destination.
    for index in 1..=2 {
        vote(&mut stage, public(index), TRUE().with_port(5_000 + index as u16));
    }
    assert_eq!(external(&stage), None);
    assert_eq!(changes(&stage), [(None, Some(TRUE())), (Some(TRUE()), None)]);
}

/// How often a member announces within a minute after it is seen elsewhere, a minute after it joined.
fn announces_after_a_move(port: Option<u16>, moved: Endpoint) -> usize {
    let mut network = Network::new(7);
    let config = Arc::new(Config::default());
    for index in 0..4 {
        network.add(public(index), &config);
        network.command(public(index), |node, now, out| {
            node.stay_joined(now, vec![public(0)], false, out);
        });
    }
    network.run(30 * SECOND);
    network
        .command(public(1), |node, now, _| node.join_topic(now, TOPIC, port))
        .expect("there is room");
    network.run(100 * SECOND);
    let Network { nodes, now, .. } = &mut network;
    assert_eq!(nodes[&public(1)].external()[0], Some(public(1)));
    let now = *now;
    network.records = true;
    let mut stage = Stage { network, at: public(1), own: NodeId::ZERO };
    for index in 100..104 {
        vote(&mut stage, public(index), moved);
    }
    assert_eq!((external(&stage), stage.network.now), (Some(moved), now));
    stage.network.sent.clear();
    stage.network.run(10 * SECOND);
    let sent = &stage.network.sent;
    sent.iter().filter(|(from, _, sent)| *from == public(1) && sent[0] == ANNOUNCE).count()
}

#[test]
fn a_member_announces_again_when_it_is_seen_elsewhere() {
    let elsewhere = Endpoint::new([7, 7, 7, 7], 4_000);
    assert!(announces_after_a_move(Some(80), elsewhere) > 0);
    assert!(announces_after_a_move(None, public(1).with_port(5_000)) > 0);
    // The record says the port that the member has named, whatever the node's is.
    assert_eq!(announces_after_a_move(Some(80), public(1).with_port(5_000)), 0);
}
