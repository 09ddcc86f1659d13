//! Memberships on virtual time: when rounds come and how they are paced, what counts as a peer, and
//! how a topic stays announced whatever becomes of the network.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;

use crate::net::{Network, public, seed};
use crate::scripted::{Stage, bytes};
use kadepy::dht::protocol::{Event, Membership, Outbox};
use kadepy::wire::message::{Body, Contact, Message, Trailer};
use kadepy::wire::native::{self, Lists};
use kadepy::wire::seal;
use kadepy::{Config, Endpoint, Legacy, NetworkKey, NodeId, Time};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const TOPIC: NodeId = NodeId([0x77; 32]);

/// The types of ANNOUNCE_PEER and GET_PEERS.
const ANNOUNCE: u8 = 4;
const GET_PEERS: u8 = 5;

/// `count` nodes, all of which join through the first one.
fn network(seed: u64, count: u32, config: Config) -> Network {
    let mut network = Network::new(seed);
    let config = Arc::new(config);
    for index in 0..count {
        network.add(public(index), &config);
        if index > 0 {
            network.command(public(index), |node, now, out| {
                node.stay_joined(now, vec![public(0)], false, out)
            });
            network.run(SECOND);
        }
    }
    network.run(30 * SECOND);
    network.records = true;
    network
}

fn join(network: &mut Network, at: Endpoint, topic: NodeId, port: Option<u16>) -> u64 {
    network.command(at, |node, now, _| node.join_topic(now, topic, port)).expect("there is room")
}

fn announce(network: &mut Network, at: Endpoint, topic: NodeId, port: u16) {
    let op = network
        .command(at, |node, now, out| node.announce_peer(now, topic, Some(port), None, out))
        .expect("there is room");
    network.finish(at, op);
}

fn membership(network: &Network, at: Endpoint, op: u64) -> Membership {
    network.nodes[&at].membership(op).expect("it is not cancelled")
}

/// The records that all nodes store together.
fn records(network: &Network) -> usize {
    network.nodes.values().map(|node| node.stats(network.now).records).sum()
}

/// The peers of a membership, in the order in which they came.
fn members(network: &Network, at: Endpoint, op: u64) -> Vec<Endpoint> {
    network.nodes[&at].members(op, 0).into_iter().map(|(_, peer)| peer).collect()
}

/// How often the owner was told of new members.
fn signals(network: &Network, at: Endpoint, op: u64) -> usize {
    let events = network.events.get(&at).into_iter().flatten();
    events.filter(|event| **event == Event::Members { op }).count()
}

/// When a node sent packets of this type within `span`, each moment once.
fn moments(network: &mut Network, at: Endpoint, kind: u8, span: Duration) -> Vec<Time> {
    let mut moments = Vec::new();
    network.sent.clear();
    network.run_until(span, |network| {
        let sent = std::mem::take(&mut network.sent);
        if sent.iter().any(|(from, _, datagram)| *from == at && datagram[0] == kind) {
            moments.push(network.now);
        }
        None::<()>
    });
    moments.dedup();
    moments
}

/// The pauses between moments, which are some round trips shorter than those between rounds.
fn pauses(moments: &[Time]) -> Vec<f64> {
    moments.windows(2).map(|two| (two[1] - two[0]).as_secs_f64()).collect()
}

/// A pause of so many seconds, jittered, and what a round itself takes.
fn about(seconds: f64) -> RangeInclusive<f64> {
    0.8 * seconds..=1.2 * seconds + 1.0
}

#[test]
fn a_topic_is_announced_as_soon_as_it_is_joined() {
    let mut network = network(seed(1), 5, Config::default());
    let op = join(&mut network, public(3), TOPIC, Some(80));
    assert_eq!(membership(&network, public(3), op).confirmed, None, "no round is over");
    network.run(SECOND);
    let stands = Membership { topic: TOPIC, port: Some(80), confirmed: Some(4), peers: 0 };
    assert_eq!(membership(&network, public(3), op), stands);
}

#[test]
fn rounds_come_after_1_2_4_minutes_up_to_a_third_of_a_records_life() {
    let mut network = network(seed(2), 2, Config::default());
    join(&mut network, public(1), TOPIC, Some(80));
    let announced = pauses(&moments(&mut network, public(1), ANNOUNCE, 2 * HOUR));
    for (pause, minutes) in announced.iter().zip([1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0]) {
        assert!(about(60.0 * minutes).contains(pause), "{pause} for {minutes} min");
    }
    let spread =
        announced[4..].iter().fold(0.0, |most: f64, pause| most.max((pause - 600.0).abs()));
    assert!(announced.len() >= 11 && spread > 10.0, "not jittered: {announced:?}");
}

#[test]
fn no_pause_is_longer_than_a_third_of_a_short_life() {
    let config = Config { record_life: 9 * SECOND, ..Config::default() };
    let mut network = network(seed(3), 2, config);
    join(&mut network, public(1), TOPIC, Some(80));
    let confirmed = pauses(&moments(&mut network, public(1), ANNOUNCE, MINUTE));
    assert!(confirmed.len() >= 13 && confirmed.iter().all(|pause| about(3.0).contains(pause)));
    network.dead = vec![public(0)];
    network.run(MINUTE);
    let failed = pauses(&moments(&mut network, public(1), GET_PEERS, MINUTE));
    assert!(failed.len() >= 13 && failed.iter().all(|pause| *pause < 7.0), "{failed:?}");
}

#[test]
fn what_is_joined_never_expires_though_a_fifth_of_datagrams_is_lost() {
    let mut network = network(seed(4), 10, Config::default());
    join(&mut network, public(1), TOPIC, Some(80));
    network.run(SECOND);
    network.loss = 0.2;
    for minute in 0..300 {
        network.run(MINUTE);
        network.sent.clear();
        assert!(records(&network) >= 7, "{} of 9 after {minute} min", records(&network));
    }
}

/// Has a node sleep, by a clock that goes on, and wake.
fn suspend(network: &mut Network, at: Endpoint, span: Duration) {
    network.dead = vec![at];
    network.run(span);
    network.dead.clear();
    network.sent.clear();
    network.command(at, |node, now, out| node.resumed(now, out));
}

#[test]
fn after_a_suspend_of_any_length_a_topic_is_announced_at_once() {
    for span in [MINUTE, 5 * MINUTE, HOUR, 100 * HOUR] {
        let mut network = network(seed(30), 5, Config::default());
        let op = join(&mut network, public(3), TOPIC, Some(80));
        // In the middle of the longest pause.
        network.run(HOUR);
        suspend(&mut network, public(3), span);
        network.run(10 * SECOND);
        let stands = Membership { topic: TOPIC, port: Some(80), confirmed: Some(4), peers: 0 };
        assert_eq!(membership(&network, public(3), op), stands);
        let announced = network
            .sent
            .iter()
            .filter(|(from, _, datagram)| *from == public(3) && datagram[0] == ANNOUNCE);
        assert_eq!(announced.count(), 4, "after {span:?}");
        network.nodes[&public(3)].check_invariants();
    }
}

#[test]
fn a_round_that_a_suspend_has_cut_is_made_anew() {
    let mut network = network(seed(31), 5, Config::default());
    let op = join(&mut network, public(3), TOPIC, Some(80));
    // Its questions are under way.
    network.command(public(3), |_, _, _| ());
    assert_eq!(membership(&network, public(3), op).confirmed, None);
    suspend(&mut network, public(3), HOUR);
    network.run(5 * SECOND);
    assert_eq!(membership(&network, public(3), op).confirmed, Some(4));
}

#[test]
fn a_node_that_was_suspended_asks_its_contacts_whether_they_are_still_there() {
    const PING: u8 = 0;
    let mut network = network(seed(34), 5, Config::default());
    suspend(&mut network, public(3), MINUTE);
    let contacts: BTreeSet<Endpoint> =
        network.nodes[&public(3)].table().entries().map(|entry| entry.contact.endpoint).collect();
    let mut asked = BTreeSet::new();
    for (from, to, datagram) in &network.sent {
        if (*from, datagram[0]) == (public(3), PING) {
            asked.insert(*to);
        }
    }
    assert_eq!((asked.len(), &asked), (4, &contacts));
}

#[test]
fn a_node_that_was_suspended_asks_its_seed_whoever_it_knows() {
    const FIND_NODE: u8 = 2;
    let mut network = network(seed(32), 5, Config::default());
    suspend(&mut network, public(3), MINUTE);
    let asked = |to: Endpoint| {
        let mut sent = network.sent.iter();
        sent.any(|(from, at, datagram)| (*from, *at, datagram[0]) == (public(3), to, FIND_NODE))
    };
    assert!(asked(public(0)));
}

#[test]
fn a_peer_is_new_once_and_again_after_it_was_forgotten() {
    let life = 30 * SECOND;
    let mut network = network(seed(5), 5, Config { record_life: life, ..Config::default() });
    let (at, peer) = (public(1), public(2).with_port(80));
    let op = join(&mut network, at, TOPIC, Some(80));
    network.run(SECOND);
    announce(&mut network, public(2), TOPIC, 80);
    network.run(13 * SECOND);
    assert_eq!(network.nodes[&at].members(op, 0), [(1, peer)]);
    network.run(12 * SECOND);
    assert_eq!(network.nodes[&at].members(op, 0), [(1, peer)], "seen in several rounds");
    assert_eq!((membership(&network, at, op).peers, signals(&network, at, op)), (1, 1));

    // Its record expires, and then a whole life passes in which nobody names it.
    network.run(2 * life + 14 * SECOND);
    assert_eq!(network.nodes[&at].members(op, 0), []);
    announce(&mut network, public(2), TOPIC, 80);
    network.run(13 * SECOND);
    assert_eq!(network.nodes[&at].members(op, 1), [(2, peer)]);
    assert_eq!(signals(&network, at, op), 2);
}

#[test]
fn a_peer_that_stays_announced_stays_known() {
    let config = Config { record_life: 30 * SECOND, ..Config::default() };
    let mut network = network(seed(22), 30, config);
    let at = public(1);
    let op = join(&mut network, at, TOPIC, Some(80));
    join(&mut network, public(2), TOPIC, Some(80));
    network.run(10 * MINUTE);
    assert_eq!(network.nodes[&at].members(op, 0), [(1, public(2).with_port(80))]);
    assert_eq!(signals(&network, at, op), 1);
}

#[test]
fn a_cursor_gives_each_peer_once_in_the_order_of_arrival() {
    let mut network = network(seed(6), 6, Config { record_life: 30 * SECOND, ..Config::default() });
    let at = public(1);
    let op = join(&mut network, at, TOPIC, Some(80));
    let (mut cursor, mut seen) = (0, Vec::new());
    for index in 2..6 {
        announce(&mut network, public(index), TOPIC, 80);
        network.run(13 * SECOND);
        for (number, peer) in network.nodes[&at].members(op, cursor) {
            assert!(number > cursor);
            cursor = number;
            seen.push(peer);
        }
    }
    assert_eq!(seen, [2, 3, 4, 5].map(|index| public(index).with_port(80)));
    assert_eq!(network.nodes[&at].members(op, cursor), []);
}

#[test]
fn one_signal_waits_however_many_peers_come() {
    let mut stage = Stage::new(Config { record_life: 30 * SECOND, ..Config::default() });
    let storer = listed_storer(&mut stage);
    let mut engine = stage.network.nodes.remove(&stage.at).expect("it is there");
    let (mut now, mut out) = (stage.network.now, Outbox::default());
    let op = engine.join_topic(now, TOPIC, None).expect("there is room");
    let mut peers = (100..).map(public);
    for _ in 0..20 {
        engine.tick(now, &mut out);
        let asked = out.iter().find(|(_, datagram)| datagram[0] == GET_PEERS);
        let question = asked.map(|(_, datagram)| datagram.to_vec());
        out.clear();
        if let (Some(question), Some(peer)) = (question, peers.next()) {
            let mut answer = answer(storer, &question, None, &[peer]);
            engine.receive(now, storer.endpoint, &mut answer, &mut out);
        }
        now = now + 15 * SECOND;
    }
    assert!(peers.next() >= Some(public(103)), "several came");
    let events: Vec<Event> = std::iter::from_fn(|| engine.poll_event()).collect();
    assert_eq!(events, [Event::Members { op }]);
}

#[test]
fn peers_that_the_node_itself_stores_count_too() {
    let mut network = network(seed(7), 2, Config::default());
    announce(&mut network, public(1), TOPIC, 80);
    let op = join(&mut network, public(0), TOPIC, Some(80));
    network.dead = vec![public(1)];
    network.run(SECOND);
    assert_eq!(members(&network, public(0), op), [public(1).with_port(80)]);
}

#[test]
fn members_of_a_network_of_two_meet_at_once() {
    let mut network = network(seed(19), 2, Config::default());
    let first = join(&mut network, public(0), TOPIC, Some(80));
    network.run(SECOND);
    let second = join(&mut network, public(1), TOPIC, Some(99));
    network.run(SECOND);
    assert_eq!(members(&network, public(0), first), [public(1).with_port(99)]);
    assert_eq!(members(&network, public(1), second), [public(0).with_port(80)]);
}

#[test]
fn whoever_comes_into_a_small_network_gets_its_topics_at_once() {
    let mut network = network(seed(23), 1, Config::default());
    let (first, newcomer) = (public(0), public(1));
    let op = join(&mut network, first, TOPIC, Some(80));
    network.run(10 * MINUTE);
    network.add(newcomer, &Arc::new(Config::default()));
    network.command(newcomer, |node, now, out| node.stay_joined(now, vec![first], false, out));
    network.run(3 * SECOND);
    assert_eq!(membership(&network, first, op).confirmed, Some(1));
    let own = join(&mut network, newcomer, TOPIC, Some(80));
    network.run(SECOND);
    assert_eq!(members(&network, newcomer, own), [first.with_port(80)]);
}

#[test]
fn a_topic_is_announced_to_all_of_a_small_network_and_else_to_the_k_nearest() {
    for (nodes, told) in [(21, 20), (33, 32), (80, 20)] {
        let mut network = network(seed(24), nodes, Config::default());
        let op = join(&mut network, public(5), TOPIC, Some(80));
        network.run(5 * SECOND);
        assert_eq!(membership(&network, public(5), op).confirmed, Some(told), "{nodes} nodes");
    }
}

/// The answer of `storer` in the run that has this boot number.
fn answer_of_run(storer: Contact, question: &[u8], boot: u16) -> Vec<u8> {
    let mut lists = Lists::default();
    let question = native::decode(question, &mut lists).expect("a node sends what decodes");
    let body = match question.body {
        Body::Ping => Body::Pong,
        Body::AnnouncePeer { topic, .. } => Body::Announced { topic },
        _ => Body::FoundNodes,
    };
    let (txid, token) = (question.txid(), Some(&[1; 16][..]));
    let trailer = Trailer { txid, token, boot: Some(boot), ..Trailer::default() };
    bytes(&Message::new(storer.id, body, Some(trailer)))
}

/// Rounds out of turn are 32 at once, then one every 30 seconds, whatever a contact says.
#[test]
fn a_contact_that_says_again_and_again_that_it_has_started_anew_causes_few_rounds() {
    let mut stage = Stage::new(Config::default());
    let storer = listed_storer(&mut stage);
    join(&mut stage.network, stage.at, TOPIC, Some(80));
    // Every 20 ms: an answer must come within the short wait.
    for boot in 100..30_100 {
        for question in stage.sent(storer.endpoint) {
            let answer = answer_of_run(storer, &question, boot);
            stage.inject(storer.endpoint, &answer);
        }
        stage.network.run(SECOND / 50);
    }
    let rounds = stage.network.nodes[&stage.at].stats(stage.network.now).counters.lookups;
    assert!((40..=60).contains(&rounds), "{rounds} rounds in ten minutes");
}

#[test]
fn a_membership_is_no_peer_of_its_own() {
    for port in [Some(80), None] {
        let config = Config { record_life: 30 * SECOND, ..Config::default() };
        let mut network = network(seed(8), 4, config);
        let op = join(&mut network, public(1), TOPIC, port);
        network.run(MINUTE);
        let own = public(1).with_port(port.unwrap_or(public(1).port()));
        let other = join(&mut network, public(2), TOPIC, Some(99));
        network.run(MINUTE);
        assert_eq!(members(&network, public(2), other), [own]);
        assert_eq!(members(&network, public(1), op), [public(2).with_port(99)], "port {port:?}");
    }
}

/// The only contact of the node on a stage, which answers as a test has it.
fn listed_storer(stage: &mut Stage) -> Contact {
    let storer = Contact { id: TOPIC.with_flipped_bit(3), endpoint: public(2) };
    stage.list(storer);
    storer
}

/// The answer of `storer` to a GET_PEERS from an address that it sees as `seen_at`.
fn answer(
    storer: Contact,
    question: &[u8],
    seen_at: Option<Endpoint>,
    peers: &[Endpoint],
) -> Vec<u8> {
    let mut lists = Lists::default();
    let question = native::decode(question, &mut lists).expect("a node sends what decodes");
    let Body::GetPeers { topic } = question.body else {
        panic!("no GET_PEERS: {question:?}");
    };
    let txid = question.txid();
    let trailer = Trailer { txid, endpoint: seen_at, token: Some(&[1; 16]), ..Trailer::default() };
    let body = Body::Peers { topic };
    bytes(&Message { peers, ..Message::new(storer.id, body, Some(trailer)) })
}

#[test]
fn the_own_record_is_the_one_at_the_address_that_the_same_answer_reports() {
    let outside = public(500).with_port(7_777);
    for (port, own) in [(Some(80), outside.with_port(80)), (None, outside)] {
        let mut stage = Stage::new(Config::default());
        let storer = listed_storer(&mut stage);
        let op = join(&mut stage.network, stage.at, TOPIC, port);
        let question = stage.sent(storer.endpoint).pop().expect("a GET_PEERS");
        let beside = [own.with_port(81), public(501).with_port(own.port()), stage.at.with_port(82)];
        let peers = [&[own][..], &beside].concat();
        stage.inject(storer.endpoint, &answer(storer, &question, Some(outside), &peers));
        assert_eq!(members(&stage.network, stage.at, op), beside, "port {port:?}");
    }
}

#[test]
fn an_answer_of_v01_lists_the_own_record_where_another_node_sees_it() {
    let mut stage = Stage::new(Config { legacy: Legacy::Always, ..Config::default() });
    let storer = listed_storer(&mut stage);
    let old = Contact { id: TOPIC.with_flipped_bit(9), endpoint: public(4) };
    let outside = public(500).with_port(7_777);
    let op = join(&mut stage.network, stage.at, TOPIC, Some(80));
    let question = stage.sent(storer.endpoint).pop().expect("a GET_PEERS");
    let mut lists = Lists::default();
    let txid = native::decode(&question, &mut lists).expect("a node sends what decodes").txid();
    let trailer = Trailer { txid, endpoint: Some(outside), ..Trailer::default() };
    let named = Message::new(storer.id, Body::FoundNodes, Some(trailer));
    stage.inject(storer.endpoint, &bytes(&Message { nodes: &[old], ..named }));
    assert_eq!(stage.sent(old.endpoint).len(), 1, "a GET_PEERS");
    let peers = [outside.with_port(80), public(501)];
    let answer = Message::new(old.id, Body::Peers { topic: TOPIC }, None);
    stage.inject(old.endpoint, &bytes(&Message { peers: &peers, ..answer }));
    assert_eq!(members(&stage.network, stage.at, op), [public(501)]);
}

#[test]
fn the_own_port_at_the_own_address_is_no_peer_whoever_announced_it() {
    let at = |port| Endpoint::new([127, 0, 0, 1], port);
    let mut network = Network::new(seed(20));
    let config = Arc::new(Config::default());
    network.add(at(4_000), &config);
    network.add(at(4_001), &config);
    network.command(at(4_001), |node, now, out| node.stay_joined(now, vec![at(4_000)], false, out));
    let op = join(&mut network, at(4_000), TOPIC, Some(80));
    network.run(SECOND);
    for port in [80, 81] {
        announce(&mut network, at(4_001), TOPIC, port);
    }
    assert_eq!(members(&network, at(4_000), op), [at(81)]);
}

#[test]
fn a_liar_hides_a_peer_from_no_answer_but_its_own() {
    let mut stage = Stage::new(Config::default());
    let liar = Contact { id: TOPIC.with_flipped_bit(1), endpoint: public(3) };
    stage.list(liar);
    let honest = listed_storer(&mut stage);
    let victim = public(600).with_port(80);
    let op = join(&mut stage.network, stage.at, TOPIC, Some(80));
    for (who, seen_at) in [(liar, victim), (honest, stage.at)] {
        assert_eq!(members(&stage.network, stage.at, op), []);
        let question = stage.sent(who.endpoint).pop().expect("a GET_PEERS");
        stage.inject(who.endpoint, &answer(who, &question, Some(seen_at), &[victim]));
    }
    assert_eq!(members(&stage.network, stage.at, op), [victim]);
}

#[test]
fn a_membership_keeps_no_more_peers_than_its_cap_the_last_to_come() {
    let mut stage = Stage::new(Config { lookup_peers: 10, ..Config::default() });
    let storer = listed_storer(&mut stage);
    let op = join(&mut stage.network, stage.at, TOPIC, None);
    let question = stage.sent(storer.endpoint).pop().expect("a GET_PEERS");
    let peers: Vec<Endpoint> = (100..130).map(public).collect();
    stage.inject(storer.endpoint, &answer(storer, &question, None, &peers));
    assert_eq!(members(&stage.network, stage.at, op), peers[20..]);
}

#[test]
fn memberships_together_keep_no_more_peers_than_records() {
    // A node that stores both topics meets whoever is announced to it.
    let mut network = network(seed(21), 2, Config { records: 10, ..Config::default() });
    let ops = [0, 1].map(|topic| join(&mut network, public(0), NodeId([topic; 32]), Some(80)));
    for port in 1..=10 {
        for topic in [0, 1] {
            announce(&mut network, public(1), NodeId([topic; 32]), 1_000 + port);
        }
    }
    let known = ops.map(|op| membership(&network, public(0), op).peers);
    assert_eq!(known.iter().sum::<usize>(), 10, "{known:?}");
    network.nodes[&public(0)].check_invariants();
}

#[test]
fn a_node_full_of_memberships_and_operations_comes_home() {
    let config = Config { memberships: 2, operations: 8, ..Config::default() };
    let mut network = network(seed(22), 1, config.clone());
    let (at, seed) = (public(0), public(1));
    network.command(at, |node, now, out| node.stay_joined(now, vec![seed], false, out));
    for topic in 0..2 {
        join(&mut network, at, NodeId([topic; 32]), None);
    }
    // They wait for the join; one more is refused at last.
    while network.command(at, |node, now, out| node.find_node(now, TOPIC, None, out).is_ok()) {}
    network.run(5 * MINUTE);
    network.add(seed, &Arc::new(config));
    network.run(2 * MINUTE);
    assert_eq!(network.nodes[&at].table().len(), 1);
}

#[test]
fn a_round_that_nobody_confirms_is_repeated_after_1_2_4_up_to_60_seconds() {
    let mut network = network(seed(9), 1, Config::default());
    let op = join(&mut network, public(0), TOPIC, None);
    // Nobody is known, so a round is over when it has begun.
    let mut lookups = 0;
    let mut rounds = Vec::new();
    network.run_until(10 * MINUTE, |network| {
        let so_far = network.nodes[&public(0)].stats(network.now).counters.lookups;
        if so_far > std::mem::replace(&mut lookups, so_far) {
            rounds.push(network.now);
        }
        None::<()>
    });
    let pauses = pauses(&rounds);
    for (pause, seconds) in pauses.iter().zip([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]) {
        assert!((0.8 * seconds..=1.2 * seconds).contains(pause), "{pause} for {seconds}");
    }
    assert!(pauses.len() >= 12);
    assert_eq!(membership(&network, public(0), op).confirmed, Some(0));
}

#[test]
fn pauses_begin_anew_when_rounds_fail_and_when_they_succeed_again() {
    let mut network = network(seed(23), 2, Config::default());
    let at = public(1);
    join(&mut network, at, TOPIC, Some(80));
    network.run(HOUR);
    network.dead = vec![public(0)];
    let asked = pauses(&moments(&mut network, at, GET_PEERS, 15 * MINUTE));
    assert!(asked[..6].iter().all(|pause| *pause < 6.0), "{asked:?}");
    network.dead.clear();
    let announced = pauses(&moments(&mut network, at, ANNOUNCE, 5 * MINUTE));
    assert!(about(60.0).contains(&announced[0]), "{announced:?}");
}

#[test]
fn a_topic_is_announced_again_when_the_network_is_back() {
    let mut network = network(seed(10), 20, Config::default());
    let at = public(7);
    let op = join(&mut network, at, TOPIC, Some(80));
    network.run(SECOND);
    network.loss = 1.0;
    network.run(2 * HOUR);
    assert_eq!(membership(&network, at, op).confirmed, Some(0));
    assert_eq!(records(&network), 0, "all have expired");

    network.loss = 0.0;
    network.run(100 * SECOND);
    assert!(membership(&network, at, op).confirmed >= Some(15));
}

#[test]
fn a_topic_is_announced_at_once_when_a_node_that_knew_nobody_comes_home() {
    let mut network = network(seed(11), 20, Config::default());
    // It was made with no contacts to wait for.
    let at = public(0);
    let op = join(&mut network, at, TOPIC, Some(80));
    network.dead = (1..20).map(public).collect();
    // Something must arrive for silence to prove anything.
    let ping = bytes(&Message::new(NodeId([9; 32]), Body::Ping, None));
    while !network.nodes[&at].table().is_empty() {
        let target = NodeId(network.random());
        network.command(at, |node, now, out| node.find_node(now, target, None, out)).unwrap();
        network.run(SECOND);
        network.inject(public(999), at, &ping);
    }
    network.run(10 * MINUTE);
    network.dead.clear();
    let is_home = |network: &mut Network| (!network.nodes[&at].table().is_empty()).then_some(());
    network.run_until(2 * MINUTE, is_home).expect("the node comes home");
    network.run(5 * SECOND);
    assert!(membership(&network, at, op).confirmed >= Some(15));
}

#[test]
fn a_topic_is_announced_as_soon_as_a_lone_node_is_found_by_another() {
    let mut network = network(seed(21), 1, Config::default());
    let (lone, newcomer) = (public(0), public(1));
    let op = join(&mut network, lone, TOPIC, Some(80));
    network.run(10 * MINUTE);
    network.add(newcomer, &Arc::new(Config::default()));
    network.command(newcomer, |node, now, out| node.stay_joined(now, vec![lone], false, out));
    network.run(2 * SECOND);
    assert_eq!(membership(&network, lone, op).confirmed, Some(1));
}

#[test]
fn rounds_wait_while_the_node_knows_nobody_and_joins() {
    let mut network = network(seed(12), 2, Config::default());
    let (first, late) = (public(0), public(50));
    network.add(late, &Arc::new(Config::default()));
    network.dead = vec![first];
    network.command(late, |node, now, out| node.stay_joined(now, vec![first], false, out));
    let ops: Vec<u64> =
        (0..40).map(|index| join(&mut network, late, NodeId([index; 32]), None)).collect();
    network.run(MINUTE);
    assert!(ops.iter().all(|&op| membership(&network, late, op).confirmed.is_none()));
    network.dead.clear();
    network.run(MINUTE + 10 * SECOND);
    assert!(ops.iter().all(|&op| membership(&network, late, op).confirmed >= Some(1)));
}

#[test]
fn a_thousand_memberships_are_paced_and_all_are_announced() {
    let nodes = 12;
    let mut network = network(seed(13), nodes, Config::default());
    let at = public(5);
    let topic = |index: u32| NodeId::of_topic(&index.to_be_bytes());
    let ops: Vec<u64> =
        (0..1_000).map(|index| join(&mut network, at, topic(index), Some(80))).collect();
    let mut most = 0;
    let mut most_to_one = 0;
    for _ in 0..105 {
        network.sent.clear();
        network.run(SECOND);
        let sent = network.sent.iter().filter(|(from, ..)| *from == at);
        let to: Vec<Endpoint> = sent.map(|(_, to, _)| *to).collect();
        most = most.max(to.len());
        let to_one = |node| to.iter().filter(|to| **to == public(node)).count();
        most_to_one = most_to_one.max((0..nodes).map(to_one).max().unwrap_or(0));
        network.nodes[&at].check_invariants();
    }
    println!("most in a second: {most}, to one node {most_to_one}");
    assert!(most_to_one <= 40, "{most_to_one} to one node in a second");
    assert!(most <= 40 * nodes as usize);
    assert!(ops.iter().all(|&op| membership(&network, at, op).confirmed == Some(11)));
}

#[test]
fn at_most_16_rounds_are_under_way_where_nobody_answers() {
    let mut network = network(seed(14), 80, Config::default());
    let at = public(5);
    network.loss = 1.0;
    for index in 0..1_000_u32 {
        join(&mut network, at, NodeId::of_topic(&index.to_be_bytes()), Some(80));
    }
    let mut most = 0;
    for _ in 0..600 {
        network.run(SECOND / 10);
        let stats = network.nodes[&at].stats(network.now);
        most = most.max(stats.lookups_active);
    }
    assert_eq!(most, 16);
}

#[test]
fn a_cancelled_membership_sends_nothing_more() {
    for after in [Duration::ZERO, 30 * SECOND / 1_000, 100 * SECOND / 1_000, 90 * SECOND] {
        let mut network = network(seed(15), 10, Config::default());
        let at = public(5);
        let op = join(&mut network, at, TOPIC, Some(80));
        network.run(after);
        network.command(at, |node, _, _| node.cancel(op));
        network.nodes[&at].check_invariants();
        network.sent.clear();
        network.run(5 * MINUTE);
        let sent: Vec<_> = network.sent.iter().filter(|(from, ..)| *from == at).collect();
        assert!(sent.is_empty(), "cancelled after {after:?}: {} datagrams", sent.len());
        assert_eq!(network.nodes[&at].membership(op), None);
        assert_eq!(network.nodes[&at].members(op, 0), []);
    }
}

#[test]
fn the_cap_on_memberships_leaves_all_else_alone() {
    let config = Config { memberships: 3, operations: 1, ..Config::default() };
    let mut network = network(seed(16), 3, config);
    let at = public(1);
    let ops = [0, 1, 2].map(|index| join(&mut network, at, NodeId([index; 32]), None));
    let refused = network.command(at, |node, now, _| node.join_topic(now, TOPIC, None).is_err());
    assert!(refused);
    network.run(SECOND);
    assert!(ops.iter().all(|&op| membership(&network, at, op).confirmed == Some(2)));
    network.command(at, |node, _, _| node.cancel(ops[0]));
    join(&mut network, at, TOPIC, None);
}

fn sealed() -> seal::Network {
    let key = NetworkKey::new(&[7; 32]).expect("a key of 32 bytes");
    seal::Network::Sealed { key, older: Vec::new() }
}

#[test]
fn another_network_knows_nothing_of_a_membership_until_it_is_announced_there() {
    let mut network = network(seed(17), 4, Config::default());
    let at = public(1);
    announce(&mut network, public(2), TOPIC, 80);
    let op = join(&mut network, at, TOPIC, Some(80));
    network.run(SECOND);
    assert_eq!(members(&network, at, op), [public(2).with_port(80)]);

    let key = sealed();
    network.enter(at, &key);
    assert_eq!(members(&network, at, op), []);
    assert_eq!(membership(&network, at, op).confirmed, None);
    network.nodes[&at].check_invariants();
    for other in [public(0), public(2), public(3)] {
        network.enter(other, &key);
        network.command(other, |node, now, out| node.stay_joined(now, vec![at], false, out));
    }
    network.run(10 * SECOND);
    assert!(membership(&network, at, op).confirmed >= Some(1));
}

/// What may happen to a node with memberships.
#[derive(Clone, Debug)]
enum Step {
    Join(u8),
    Cancel(Index),
    Announce(u8),
    Pass(Duration),
    Loss(f64),
    /// Another network than that of the others, or theirs again.
    Enter(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..4_u8).prop_map(Step::Join),
        2 => any::<Index>().prop_map(Step::Cancel),
        1 => (0..4_u8).prop_map(Step::Announce),
        4 => (0..40_000_u64).prop_map(|ms| Step::Pass(Duration::from_millis(ms))),
        1 => prop::sample::select(vec![0.0, 0.3, 1.0]).prop_map(Step::Loss),
        1 => any::<bool>().prop_map(Step::Enter),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_joins_and_cancels_keeps_the_invariants(steps in steps()) {
        let config = Config { record_life: 30 * SECOND, memberships: 8, records: 6, lookup_peers: 3, ..Config::default() };
        let mut network = network(18, 4, config);
        network.records = false;
        let at = public(1);
        let mut ops = Vec::new();
        for step in steps {
            match step {
                Step::Join(topic) => {
                    let topic = NodeId([topic; 32]);
                    let joined = network.command(at, |node, now, _| node.join_topic(now, topic, None));
                    ops.extend(joined.ok());
                    prop_assert!(ops.len() <= 8, "more than there may be");
                }
                Step::Cancel(which) => {
                    if !ops.is_empty() {
                        let op = ops.swap_remove(which.index(ops.len()));
                        network.command(at, |node, _, _| node.cancel(op));
                        prop_assert_eq!(network.nodes[&at].membership(op), None);
                    }
                }
                Step::Announce(topic) => {
                    for index in [0, 2, 3] {
                        let topic = NodeId([topic; 32]);
                        network.command(public(index), |node, now, out| {
                            node.announce_peer(now, topic, Some(80), Some(SECOND), out)
                        }).expect("there is room");
                    }
                }
                Step::Pass(span) => network.run(span),
                Step::Loss(loss) => network.loss = loss,
                Step::Enter(true) => network.enter(at, &sealed()),
                Step::Enter(false) => network.enter(at, &seal::Network::Public),
            }
            network.nodes.values().for_each(|node| node.check_invariants());
            for &op in &ops {
                let numbers: BTreeSet<u64> =
                    network.nodes[&at].members(op, 0).into_iter().map(|(number, _)| number).collect();
                prop_assert_eq!(numbers.len(), membership(&network, at, op).peers);
            }
        }
    }
}
