//! Nodes that look for each other on a link: when beacons go out, what comes of one that is heard, and
//! what waits for it.

use std::sync::Arc;
use std::time::Duration;

use crate::net::{Network, local, public, seed};
use crate::scripted::bytes;
use kadepy::dht::beacons::{GROUP_V4, GROUP_V6, groups};
use kadepy::dht::protocol::{Event, Outcome, Refusal};
use kadepy::wire::message::{Body, Message, Trailer, TxId, Want};
use kadepy::wire::native::{self, Lists};
use kadepy::wire::seal;
use kadepy::{Endpoint, NetworkKey, NodeId, Time};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const TOPIC: NodeId = NodeId([0x77; 32]);
const STRANGER: NodeId = NodeId([0x33; 32]);

/// `count` nodes at `local(1)` and so on, which do not look for each other yet.
fn silent(count: u8) -> Network {
    let mut network = Network::new(seed(1));
    network.latency = Some(MS);
    network.records = true;
    for index in 1..=count {
        network.add(local(index), &Arc::default());
    }
    network
}

/// The same, and they look for each other.
fn link(count: u8) -> Network {
    let mut network = silent(count);
    (1..=count).for_each(|index| network.seek(local(index)));
    network
}

fn sealed(key: u8) -> seal::Network {
    let key = NetworkKey::new(&[key; 32]).expect("32 bytes, not all zero");
    seal::Network::Sealed { key, older: Vec::new() }
}

fn contacts(network: &Network, at: Endpoint) -> usize {
    network.nodes[&at].table().entries().count()
}

fn refused(network: &Network, at: Endpoint, refusal: Refusal) -> u64 {
    network.nodes[&at].stats(network.now).counters.refused[refusal as usize]
}

/// The beacons sent since the last call.
fn beacons(network: &mut Network) -> Vec<(Endpoint, Vec<u8>)> {
    let sent = std::mem::take(&mut network.sent).into_iter();
    sent.filter(|(_, to, _)| groups().contains(to)).map(|(at, _, beacon)| (at, beacon)).collect()
}

/// What a node sends at once when it hears this.
fn hear(network: &mut Network, from: Endpoint, datagram: &[u8]) -> Vec<(Endpoint, Vec<u8>)> {
    network.records = true;
    network.sent.clear();
    network.command(local(1), |node, now, out| {
        node.hear(now, from, &mut datagram.to_vec(), out);
    });
    let sent = std::mem::take(&mut network.sent).into_iter();
    sent.filter(|(_, to, _)| !groups().contains(to)).map(|(_, to, bytes)| (to, bytes)).collect()
}

fn ping(txid: u8) -> Vec<u8> {
    request(Body::Ping, txid)
}

fn request(body: Body<'_>, txid: u8) -> Vec<u8> {
    let trailer = Trailer { txid: Some(TxId([txid; 8])), ..Trailer::default() };
    bytes(&Message::new(STRANGER, body, Some(trailer)))
}

fn find_node(network: &mut Network, at: Endpoint, timeout: Option<Duration>) -> u64 {
    network
        .command(at, |node, now, out| node.find_node(now, TOPIC, timeout, out))
        .expect("there is room")
}

#[test]
fn a_node_that_does_not_look_for_others_has_nothing_to_do() {
    let mut network = silent(1);
    let node = network.nodes.get_mut(&local(1)).expect("it is there");
    assert_eq!(node.next_deadline(), None);
    network.run(HOUR);
    assert!(network.sent.is_empty());
}

#[test]
fn beacons_are_few_at_the_start_and_then_one_in_a_minute() {
    let mut network = link(1);
    let mut sent: Vec<Time> = Vec::new();
    while network.now < Time::ZERO + HOUR {
        network.run(MS * 10);
        sent.extend(beacons(&mut network).iter().map(|_| network.now));
    }
    let within = |from: Time, to: Time| sent.iter().filter(|at| (from..to).contains(*at)).count();
    let start = Time::ZERO;
    assert_eq!(within(start, start + 110 * MS), 1, "the first");
    assert!((3..=4).contains(&within(start, start + 2 * SECOND)));
    assert!(within(start, start + MINUTE) <= 5);
    for second in 60..3_540 {
        let begin = start + second * SECOND;
        assert!((0..=2).contains(&within(begin, begin + MINUTE)));
    }
    assert!(within(start + MINUTE, start + HOUR) >= 45);
}

#[test]
fn a_beacon_is_a_ping_with_another_transaction_each_time() {
    let mut network = link(1);
    network.run(MINUTE);
    let sent = beacons(&mut network);
    let mut txids = Vec::new();
    for (_, beacon) in &sent {
        let mut lists = Lists::default();
        let message = native::decode(beacon, &mut lists).expect("a node sends what decodes");
        assert_eq!((message.body, beacon.len()), (Body::Ping, 47));
        txids.push(message.txid());
    }
    txids.sort();
    txids.dedup();
    assert_eq!(txids.len(), sent.len());
}

#[test]
fn a_beacon_goes_to_the_group_of_the_nodes_own_family() {
    for (bound, group) in [
        (Endpoint::new([0, 0, 0, 0], 4_000), Endpoint::new(GROUP_V4, 19_280)),
        (Endpoint::new([0_u16; 8], 4_000), Endpoint::new(GROUP_V6, 19_280)),
    ] {
        let mut network = silent(0);
        network.add(bound, &Arc::default());
        network.seek(bound);
        network.run(SECOND);
        assert!(!network.sent.is_empty());
        assert!(network.sent.iter().all(|(_, to, _)| *to == group));
    }
}

#[test]
fn a_node_of_both_families_sends_the_same_beacon_to_both_groups() {
    let mut network = silent(1);
    network.command(local(1), |node, now, _| {
        node.set_families(Want { v4: true, v6: true });
        node.seek(now);
    });
    network.run(110 * MS);
    let (to, sent): (Vec<Endpoint>, Vec<Vec<u8>>) =
        network.sent.iter().map(|(_, to, bytes)| (*to, bytes.clone())).unzip();
    assert_eq!(to, groups());
    assert_eq!(sent[0], sent[1], "either one's answer counts");
}

#[test]
fn twenty_nodes_know_each_other_within_two_seconds() {
    let mut network = silent(20);
    for index in 1..=20 {
        network.seek(local(index));
        network.run(10 * MS);
    }
    network.run(2 * SECOND);
    for index in 1..=20 {
        assert_eq!(contacts(&network, local(index)), 19);
    }
}

#[test]
fn nodes_on_a_link_that_loses_every_fifth_datagram_find_each_other() {
    let mut network = silent(5);
    network.loss = 0.2;
    (1..=5).for_each(|index| network.seek(local(index)));
    let all = |network: &mut Network| {
        (1..=5).all(|index| contacts(network, local(index)) == 4).then_some(())
    };
    assert!(network.run_until(5 * MINUTE, all).is_some());
}

#[test]
fn neighbors_that_know_each_other_answer_beacons_and_ask_nothing() {
    let mut network = link(5);
    network.run(2 * MINUTE);
    network.sent.clear();
    network.run(5 * MINUTE);
    let direct = network.sent.iter().filter(|(_, to, _)| !groups().contains(to));
    assert!(direct.clone().count() > 0);
    assert!(direct.clone().all(|(_, _, bytes)| bytes[0] == 1), "PONG");
}

#[test]
fn what_the_own_host_hears_of_a_beacon_counts_nowhere() {
    let mut network = link(1);
    network.run(MINUTE);
    let counters = network.nodes[&local(1)].stats(network.now).counters;
    assert_eq!(counters.refused.iter().sum::<u64>(), 0);
    assert_eq!(counters.packets_in.iter().sum::<u64>(), 0);
    assert!(!network.events.contains_key(&local(1)), "no warning of a namesake");
}

#[test]
fn the_first_neighbor_is_told_of_once() {
    let mut network = link(4);
    network.run(5 * MINUTE);
    for index in 1..=4 {
        let events = network.events[&local(index)].iter();
        let told = events.clone().filter(|event| matches!(event, Event::Neighbor(_))).count();
        let joined = events.filter(|event| matches!(event, Event::Joined(_))).count();
        assert_eq!((told, joined), (1, 1));
    }
}

#[test]
fn two_networks_on_one_link_do_not_mix_and_do_not_warn() {
    let mut network = silent(6);
    for index in 1..=4 {
        network.enter(local(index), &sealed(index % 2 + 1));
    }
    (1..=6).for_each(|index| network.seek(local(index)));
    network.run(HOUR);
    for index in 1..=6 {
        let at = local(index);
        assert_eq!(contacts(&network, at), 1, "the other one of its network");
        assert!(!network.events[&at].iter().any(|event| matches!(event, Event::Warning(_))));
        let refusal = if index <= 4 { Refusal::Unopened } else { Refusal::UnknownType };
        assert!(refused(&network, at, refusal) >= 4 * 45);
    }
}

#[test]
fn a_ping_from_a_local_address_is_answered_to_its_sender_who_is_asked() {
    let mut network = link(1);
    let sent = hear(&mut network, local(9), &ping(7));
    let kinds: Vec<(Endpoint, u8)> = sent.iter().map(|(to, bytes)| (*to, bytes[0])).collect();
    assert_eq!(kinds, [(local(9), 1), (local(9), 0)], "PONG, PING");
}

#[test]
fn a_ping_from_the_open_internet_is_dropped() {
    let mut network = link(1);
    assert!(hear(&mut network, public(9), &ping(7)).is_empty());
    assert_eq!(refused(&network, local(1), Refusal::Source), 1);
    network.run(SECOND);
    assert!(network.sent.iter().all(|(_, to, _)| groups().contains(to)), "nor asked later");
}

#[test]
fn in_the_group_nothing_but_a_ping_counts() {
    let mut network = link(1);
    for body in [
        Body::FindNode { target: TOPIC },
        Body::GetPeers { topic: TOPIC },
        Body::AnnouncePeer { topic: TOPIC, port: 5_000 },
        Body::Pong,
        Body::FoundNodes,
        Body::Application { kind: 20, payload: b"hello" },
    ] {
        assert!(hear(&mut network, local(9), &request(body, 7)).is_empty());
    }
    assert_eq!(refused(&network, local(1), Refusal::Unsolicited), 6);
    assert_eq!(network.nodes[&local(1)].stats(network.now).records, 0);
    assert_eq!(contacts(&network, local(1)), 0);
}

#[test]
fn an_answer_to_a_beacon_makes_its_sender_a_candidate_and_no_more() {
    let mut network = link(1);
    network.run(110 * MS);
    let (_, beacon) = beacons(&mut network).remove(0);
    let mut lists = Lists::default();
    let txid = native::decode(&beacon, &mut lists).expect("it decodes").txid();
    let trailer = Trailer { txid, ..Trailer::default() };
    let pong = bytes(&Message::new(STRANGER, Body::Pong, Some(trailer)));
    assert!(network.inject(public(9), local(1), &pong).is_empty(), "it comes from elsewhere");
    assert_eq!(refused(&network, local(1), Refusal::Unsolicited), 1);
    let asked = network.inject(local(9), local(1), &pong);
    assert_eq!((asked.len(), asked[0].0, asked[0].1[0]), (1, local(9), 0), "one PING");
    assert_eq!(contacts(&network, local(1)), 0, "it may be forged");
    assert!(network.inject(local(9), local(1), &pong).is_empty(), "it is being asked");
}

#[test]
fn a_lookup_that_begins_with_the_node_waits_for_the_first_neighbor() {
    let mut network = silent(2);
    let ids = [1, 2].map(|index| network.nodes[&local(index)].id());
    (1..=2).for_each(|index| network.seek(local(index)));
    let op = find_node(&mut network, local(1), None);
    let Outcome::Nodes(found) = network.finish(local(1), op) else { panic!("nodes") };
    assert_eq!((found.len(), found[0].id), (1, ids[1]));
}

#[test]
fn a_lookup_of_a_node_that_is_alone_ends_after_a_second() {
    let mut network = link(1);
    let op = find_node(&mut network, local(1), Some(HOUR));
    network.run(999 * MS);
    assert_eq!(network.take_outcome(local(1), op), None);
    network.run(2 * MS);
    assert_eq!(network.take_outcome(local(1), op), Some(Outcome::Nodes(Vec::new())));
    let later = find_node(&mut network, local(1), Some(HOUR));
    assert_eq!(network.take_outcome(local(1), later), Some(Outcome::Nodes(Vec::new())));
}

#[test]
fn a_lookup_that_waits_for_a_neighbor_ends_at_its_own_deadline() {
    let mut network = link(1);
    let op = find_node(&mut network, local(1), Some(300 * MS));
    network.run(301 * MS);
    assert_eq!(network.take_outcome(local(1), op), Some(Outcome::Nodes(Vec::new())));
}

#[test]
fn a_node_joins_through_the_first_neighbor() {
    let mut network = silent(2);
    let afar = Endpoint::new([10, 0, 0, 1], 4_000);
    network.add(afar, &Arc::default());
    network.command(local(2), |node, now, out| node.stay_joined(now, vec![afar], false, out));
    network.run(10 * SECOND);
    assert_eq!(contacts(&network, local(2)), 1);
    (1..=2).for_each(|index| network.seek(local(index)));
    network.run(2 * SECOND);
    assert_eq!(contacts(&network, local(1)), 2, "the neighbor, and whom that one knows");
}

#[test]
fn members_of_a_topic_meet_by_a_beacon() {
    let mut network = silent(2);
    let join = |network: &mut Network, index, port| {
        network.seek(local(index));
        let join =
            network.command(local(index), |node, now, _| node.join_topic(now, TOPIC, Some(port)));
        join.expect("there is room")
    };
    let ops = [join(&mut network, 1, 5_001), join(&mut network, 2, 5_002)];
    network.run(2 * SECOND);
    for (index, other) in [(1, 2), (2, 1)] {
        let peers = network.nodes[&local(index)].members(ops[usize::from(index) - 1], 0);
        let peers: Vec<Endpoint> = peers.into_iter().map(|(_, peer)| peer).collect();
        assert_eq!(peers, [local(other).with_port(5_000 + u16::from(other))]);
    }
}

#[test]
fn a_neighbor_that_has_started_again_knows_the_others_again() {
    let mut network = link(3);
    network.run(2 * MINUTE);
    let id = network.nodes[&local(2)].id();
    network.put(local(2), id, &Arc::default());
    network.command(local(2), |node, now, _| node.seek(now));
    network.run(2 * SECOND);
    assert!((1..=3).all(|index| contacts(&network, local(index)) == 2));
}

#[test]
fn after_a_suspend_beacons_begin_anew() {
    let mut network = link(1);
    network.run(10 * MINUTE);
    beacons(&mut network);
    network.command(local(1), |node, now, out| node.resumed(now, out));
    network.run(2 * SECOND);
    assert!(beacons(&mut network).len() >= 3);
}
