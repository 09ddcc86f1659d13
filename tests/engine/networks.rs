//! Engines among themselves: two that talk, and two hundred that look each other up.

use std::sync::Arc;
use std::time::Duration;

use crate::net::{Network, local, public, seed};
use kadepy::dht::protocol::{Event, Outcome, Refusal, SeedState};
use kadepy::wire::message::{Body, Message, Trailer, TxId};
use kadepy::wire::native::{self, Lists};
use kadepy::{Config, Endpoint, Legacy, NodeId};

const SECOND: Duration = Duration::from_secs(1);
const TIMEOUT: Option<Duration> = Some(Duration::from_secs(10));

fn bytes(message: &Message<'_>, pad_to: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    native::encode(message, native::MAX_SENT, pad_to, &mut bytes).expect("it fits");
    bytes
}

fn v01(sender: NodeId, body: Body<'_>) -> Vec<u8> {
    bytes(&Message::new(sender, body, None), 0)
}

fn with_txid(sender: NodeId, body: Body<'_>) -> Vec<u8> {
    let trailer = Trailer { txid: Some(TxId([7; 8])), ..Trailer::default() };
    bytes(&Message::new(sender, body, Some(trailer)), 0)
}

fn two(a: Endpoint, b: Endpoint) -> Network {
    let mut network = Network::new(seed(1));
    let config = Arc::new(Config::default());
    network.add(a, &config);
    network.add(b, &config);
    network
}

/// A network of `count` nodes that joined through the first one.
fn joined(seed: u64, count: u32, address: impl Fn(u32) -> Endpoint) -> Network {
    let mut network = Network::new(seed);
    let config = Arc::new(Config::default());
    for index in 0..count {
        network.add(address(index), &config);
        if index > 0 {
            let seeds = vec![address(0)];
            let op = network
                .command(address(index), |node, now, out| {
                    node.join(now, seeds, false, TIMEOUT, out)
                })
                .expect("there is room for an operation");
            let Outcome::Joined { contacts, seeds } = network.finish(address(index), op) else {
                panic!("a join ends as a join");
            };
            assert!(contacts > 0);
            assert_eq!(seeds, [(address(0), SeedState::Answered)]);
        }
    }
    network
}

#[test]
fn two_nodes_ping_join_announce_and_find() {
    let (a, b) = (public(1), public(2));
    let mut network = two(a, b);

    let op = network.command(a, |node, now, out| node.ping(now, b, TIMEOUT, out)).unwrap();
    let Outcome::Pong(round_trip) = network.finish(a, op) else {
        panic!("no pong");
    };
    assert!(round_trip >= Duration::from_millis(20), "two latencies of at least 10 ms");

    let op =
        network.command(b, |node, now, out| node.join(now, vec![a], false, TIMEOUT, out)).unwrap();
    assert!(matches!(network.finish(b, op), Outcome::Joined { contacts: 1, .. }));

    let topic = NodeId::of_topic(b"chess");
    let op = network
        .command(b, |node, now, out| node.announce_peer(now, topic, Some(80), TIMEOUT, out))
        .unwrap();
    assert_eq!(network.finish(b, op), Outcome::Announced(1));

    let op = network.command(b, |node, now, out| node.get_peers(now, topic, TIMEOUT, out)).unwrap();
    assert_eq!(network.finish(b, op), Outcome::Found);
    assert_eq!(network.peers(b, op), [b.with_port(80)]);

    let op = network.command(a, |node, now, out| node.get_peers(now, topic, TIMEOUT, out)).unwrap();
    assert_eq!(
        network.peers(a, op),
        [b.with_port(80)],
        "what a node stores itself, it knows at once"
    );
}

#[test]
fn an_announce_without_a_port_stores_the_source_port() {
    let (a, b) = (public(1), public(2));
    let mut network = two(a, b);
    network.command(b, |node, now, out| node.stay_joined(now, vec![a], false, out));
    let topic = NodeId::of_topic(b"chess");
    let op = network
        .command(b, |node, now, out| node.announce_peer(now, topic, None, TIMEOUT, out))
        .unwrap();
    assert_eq!(network.finish(b, op), Outcome::Announced(1));
    let op = network.command(b, |node, now, out| node.get_peers(now, topic, TIMEOUT, out)).unwrap();
    network.finish(b, op);
    assert_eq!(network.peers(b, op), [b]);
}

/// The ids that a lookup by the node at `at` gives.
fn find_node(network: &mut Network, at: Endpoint, target: NodeId) -> Vec<NodeId> {
    let op = network
        .command(at, |node, now, out| node.find_node(now, target, TIMEOUT, out))
        .expect("there is room for an operation");
    let Outcome::Nodes(found) = network.finish(at, op) else {
        panic!("a lookup ends as one");
    };
    found.iter().map(|node| node.id).collect()
}

#[test]
fn two_hundred_nodes_find_exactly_the_twenty_nearest() {
    let mut network = joined(seed(2), 200, public);
    // The nodes that were asked have ten greetings a second each.
    network.run(30 * SECOND);
    let mut exact = 0;
    for index in 0..200 {
        let target = NodeId(network.random());
        let at = public(index);
        let found = find_node(&mut network, at, target);
        exact += usize::from(found == network.truth(&target, at, 20));
    }
    assert!(exact >= 198, "only {exact} of 200 lookups were exact");
    network.nodes.values().for_each(|node| node.check_invariants());
}

#[test]
fn lookups_find_a_record_when_a_fifth_of_all_datagrams_is_lost() {
    let mut network = joined(seed(3), 100, public);
    network.run(30 * SECOND);
    let topic = NodeId::of_topic(b"chess");
    let op = network
        .command(public(5), |node, now, out| node.announce_peer(now, topic, Some(80), TIMEOUT, out))
        .unwrap();
    assert_eq!(network.finish(public(5), op), Outcome::Announced(20));

    network.loss = 0.2;
    for index in 0..100 {
        let at = public(index);
        let op =
            network.command(at, |node, now, out| node.get_peers(now, topic, TIMEOUT, out)).unwrap();
        network.finish(at, op);
        assert_eq!(network.peers(at, op), [public(5).with_port(80)], "node {index}");
    }
}

#[test]
fn lookups_go_around_the_dead_half_of_a_network() {
    let mut network = joined(seed(4), 100, public);
    network.run(30 * SECOND);
    network.dead = (0..100).filter(|index| index % 2 == 1).map(public).collect();
    for index in (0..100).filter(|index| index % 2 == 0) {
        let target = NodeId(network.random());
        let at = public(index);
        let found = find_node(&mut network, at, target);
        let nearest = network.truth(&target, at, 1);
        assert_eq!(found.first(), nearest.first(), "node {index}");
    }
}

#[test]
fn a_lookup_ends_at_its_deadline_with_what_it_has() {
    let mut network = joined(seed(5), 30, public);
    let at = public(3);
    let start = network.now;
    network.dead = (0..30).filter(|&index| index != 3).map(public).collect();
    let target = NodeId(network.random());
    let timeout = Duration::from_millis(300);
    let op = network
        .command(at, |node, now, out| node.find_node(now, target, Some(timeout), out))
        .unwrap();
    assert_eq!(network.finish(at, op), Outcome::Nodes(vec![]));
    assert_eq!(network.now - start, timeout);
}

#[test]
fn lookups_on_an_empty_table_end_at_once() {
    let (a, b) = (public(1), public(2));
    let mut network = two(a, b);
    let target = NodeId(network.random());
    let find = network.command(a, |node, now, out| node.find_node(now, target, None, out)).unwrap();
    let get = network.command(a, |node, now, out| node.get_peers(now, target, None, out)).unwrap();
    let announce = network
        .command(a, |node, now, out| node.announce_peer(now, target, None, None, out))
        .unwrap();
    assert_eq!(network.take_outcome(a, find), Some(Outcome::Nodes(vec![])));
    assert_eq!(network.take_outcome(a, get), Some(Outcome::Found));
    assert_eq!(network.take_outcome(a, announce), Some(Outcome::Announced(0)));
}

#[test]
fn lookups_wait_for_the_join_that_the_node_was_made_with() {
    let (a, b) = (public(1), public(2));
    let mut network = two(a, b);
    network.dead = vec![a];
    network.command(b, |node, now, out| node.stay_joined(now, vec![a], false, out));
    let target = NodeId(network.random());
    let op = network
        .command(b, |node, now, out| node.find_node(now, target, Some(60 * SECOND), out))
        .unwrap();
    network.run(20 * SECOND);
    assert_eq!(network.take_outcome(b, op), None);
    assert!(network.events[&b].iter().any(|event| matches!(event, Event::Alone { .. })));

    network.dead.clear();
    let Outcome::Nodes(found) = network.finish(b, op) else {
        panic!("no nodes");
    };
    assert_eq!(found.len(), 1);
    assert!(network.events[&b].contains(&Event::Joined(1)));
}

#[test]
fn a_failed_join_is_tried_again_after_1_2_4_up_to_60_seconds() {
    let (a, b) = (public(1), public(2));
    let mut network = two(a, b);
    network.dead = vec![a];
    network.command(b, |node, now, out| node.stay_joined(now, vec![a], false, out));
    network.run(600 * SECOND);
    let waits: Vec<u64> = network.events[&b]
        .iter()
        .filter_map(|event| match event {
            Event::Alone { wait, .. } => Some(wait.as_secs()),
            _ => None,
        })
        .collect();
    assert_eq!(waits[..8], [1, 2, 4, 8, 16, 32, 60, 60]);
}

#[test]
fn a_node_whose_contacts_all_died_comes_back_through_those_it_knew() {
    let mut network = joined(seed(6), 20, public);
    let at = public(7);
    network.dead = (0..20).filter(|&index| index != 7).map(public).collect();
    // Something must arrive for silence to prove anything.
    for _ in 0..40 {
        let target = NodeId(network.random());
        network.command(at, |node, now, out| node.find_node(now, target, TIMEOUT, out)).unwrap();
        for _ in 0..30 {
            network.run(SECOND / 10);
            network.inject(public(999), at, &v01(NodeId([9; 32]), Body::Ping));
        }
    }
    assert_eq!(network.nodes[&at].table().len(), 0);
    network.dead.clear();
    network.run(180 * SECOND);
    assert!(network.nodes[&at].table().len() >= 15);
}

#[test]
fn silence_proves_nothing_while_nothing_at_all_arrives() {
    let mut network = joined(seed(7), 20, public);
    let at = public(7);
    let contacts = network.nodes[&at].table().len();
    network.loss = 1.0;
    for _ in 0..40 {
        let target = NodeId(network.random());
        network.command(at, |node, now, out| node.find_node(now, target, TIMEOUT, out)).unwrap();
        network.run(3 * SECOND);
    }
    assert_eq!(network.nodes[&at].table().len(), contacts);
}

#[test]
fn only_who_answered_a_question_of_ours_is_listed() {
    let (a, stranger) = (public(1), public(2));
    let mut network = two(a, public(3));
    let sent = network.inject(stranger, a, &v01(NodeId([2; 32]), Body::Ping));
    assert_eq!(
        sent[0],
        (stranger, v01(network.nodes[&a].id(), Body::Pong)),
        "the answer leaves first"
    );
    assert_eq!(sent[1].1[0], 0, "then a PING");
    assert!(network.nodes[&a].table().is_empty());

    let txid = txid_of(&sent[1].1);
    let trailer = Trailer { txid: Some(txid), ..Trailer::default() };
    let pong = bytes(&Message::new(NodeId([2; 32]), Body::Pong, Some(trailer)), 0);
    network.inject(stranger, a, &pong);
    assert_eq!(network.nodes[&a].table().len(), 1);
}

#[test]
fn candidates_are_asked_ten_a_second_and_local_ones_at_once() {
    let mut network = two(public(1), local(1));
    network.records = true;
    for index in 0..100 {
        network.inject(
            public(1_000 + index),
            public(1),
            &v01(NodeId([1 + index as u8; 32]), Body::Ping),
        );
        network.inject(
            local(100 + index as u8),
            local(1),
            &v01(NodeId([1 + index as u8; 32]), Body::Ping),
        );
    }
    let pings = |network: &Network, from: Endpoint| {
        network.sent.iter().filter(|(at, _, datagram)| *at == from && datagram[0] == 0).count()
    };
    assert_eq!(pings(&network, public(1)), 10);
    network.run(SECOND - Duration::from_micros(1));
    assert_eq!(pings(&network, public(1)), 10);
    network.run(Duration::from_micros(1));
    assert_eq!(pings(&network, public(1)), 20);
    // In a bucket of their own half, the first 20 of a hundred and the ten that may wait for a
    // place; all others have no use.
    assert!(pings(&network, local(1)) >= 30);
}

#[test]
fn an_idle_network_is_quiet() {
    let mut network = joined(seed(8), 120, |index| {
        if index < 100 { local(index as u8) } else { Endpoint::new([10, 0, 0, index as u8], 1) }
    });
    network.run(10 * SECOND);
    network.records = true;
    network.run(60 * SECOND);
    assert_eq!(network.sent.len(), 0, "an idle network sends nothing between refreshes");
}

/// The transaction id of a datagram that carries one.
fn txid_of(datagram: &[u8]) -> TxId {
    let mut lists = Lists::default();
    native::decode(datagram, &mut lists)
        .expect("a node sends what decodes")
        .txid()
        .expect("every request has one")
}

#[test]
fn a_request_causes_at_most_three_times_its_bytes_to_a_stranger() {
    let mut network = joined(seed(9), 60, public);
    network.run(30 * SECOND);
    let topic = NodeId::of_topic(b"chess");
    for index in 0..60 {
        network
            .command(public(index), |node, now, out| {
                node.announce_peer(now, topic, Some(80), TIMEOUT, out)
            })
            .unwrap();
        network.run(5 * SECOND);
    }
    let storer =
        *network.nodes.iter().max_by_key(|(_, node)| node.stats(network.now).records).unwrap().0;
    let target = NodeId(network.random());
    let bodies = [
        Body::Ping,
        Body::FindNode { target },
        Body::GetPeers { topic },
        Body::AnnouncePeer { topic, port: 80 },
    ];
    for (index, body) in bodies.into_iter().enumerate() {
        for padded in [0, 80, 110, 200, 400, 416, 1_200] {
            let sender = NodeId(network.random());
            let stranger = public(5_000 + 10 * index as u32 + padded as u32);
            let trailer = Trailer { txid: Some(TxId([7; 8])), ..Trailer::default() };
            let message = Message::new(sender, body, (padded > 0).then_some(trailer));
            let request = bytes(&message, padded);
            let sent = network.inject(stranger, storer, &request);
            let caused: usize =
                sent.iter().filter(|(to, _)| *to == stranger).map(|(_, d)| d.len()).sum();
            assert!(
                caused <= 3 * request.len(),
                "{caused} bytes for {} of {body:?}",
                request.len()
            );
        }
    }
}

#[test]
fn a_v01_request_from_a_stranger_gets_4_nodes_and_a_local_one_20() {
    let mut network = joined(seed(10), 60, |index| Endpoint::new([10, 0, 1, index as u8], 1));
    network.run(30 * SECOND);
    let at = Endpoint::new([10, 0, 1, 0], 1);
    let request = v01(NodeId([3; 32]), Body::FindNode { target: NodeId([4; 32]) });
    let sent = network.inject(local(9), at, &request);
    assert_eq!((sent[0].1.len(), sent[0].1[33]), (34 + 20 * 38, 20));

    let mut network = joined(seed(10), 60, public);
    network.run(30 * SECOND);
    let sent = network.inject(public(9_000), public(0), &request);
    assert_eq!((sent[0].1.len(), sent[0].1[33]), (34 + 4 * 38, 4));
    assert_eq!(sent.len(), 1, "nothing is left for a probe");
}

#[test]
fn padded_requests_get_full_answers() {
    let mut network = joined(seed(11), 60, public);
    network.run(30 * SECOND);
    let trailer = Trailer { txid: Some(TxId([7; 8])), ..Trailer::default() };
    let body = Body::FindNode { target: NodeId([4; 32]) };
    let request = bytes(&Message::new(NodeId([3; 32]), body, Some(trailer)), 400);
    let sent = network.inject(public(9_000), public(0), &request);
    assert_eq!(sent[0].1[33], 20);
}

#[test]
fn an_announce_needs_a_token_from_a_stranger_and_none_from_a_local_node() {
    let topic = NodeId::of_topic(b"chess");
    let announce = with_txid(NodeId([3; 32]), Body::AnnouncePeer { topic, port: 80 });
    let mut network = two(public(1), local(1));

    let sent = network.inject(public(2), public(1), &announce);
    assert_eq!(sent[0].1[0], 8, "an ERROR");
    assert_eq!(sent[0].1[33], 1, "bad token");
    let stats = network.nodes[&public(1)].stats(network.now);
    assert_eq!((stats.records, stats.counters.refused[Refusal::Token as usize]), (0, 1));

    let sent = network.inject(local(2), local(1), &announce);
    assert_eq!(sent[0].1[0], 7, "ANNOUNCED");
    assert_eq!(network.nodes[&local(1)].stats(network.now).records, 1);
}

#[test]
fn legacy_moves_the_line_up_to_which_v01_is_trusted() {
    let topic = NodeId::of_topic(b"chess");
    let announce = v01(NodeId([3; 32]), Body::AnnouncePeer { topic, port: 80 });
    for (legacy, of_public, of_local) in
        [(Legacy::Local, 0, 1), (Legacy::Never, 0, 0), (Legacy::Always, 1, 1)]
    {
        let mut network = Network::new(seed(12));
        let config = Arc::new(Config { legacy, ..Config::default() });
        for (at, from, records) in
            [(public(1), public(2), of_public), (local(1), local(2), of_local)]
        {
            network.add(at, &config);
            let sent = network.inject(from, at, &announce);
            assert!(
                sent.iter().all(|(_, datagram)| datagram[0] == 0),
                "v0.1 gets no answer to an announce"
            );
            assert_eq!(network.nodes[&at].stats(network.now).records, records, "{legacy:?}");
        }
    }
}

#[test]
fn a_reply_that_lists_nonsense_sends_nothing_there() {
    let (a, liar) = (public(1), public(2));
    let mut network = two(a, liar);
    let op = network
        .command(liar, |node, now, out| node.join(now, vec![a], false, TIMEOUT, out))
        .unwrap();
    network.finish(liar, op);
    network.run(SECOND);
    let liar_id = network.nodes.remove(&liar).unwrap().id();

    network.records = true;
    let target = NodeId([9; 32]);
    network.command(a, |node, now, out| node.find_node(now, target, TIMEOUT, out)).unwrap();
    let (_, _, query) = network.sent.last().unwrap().clone();
    let own = network.nodes[&a].id();
    let at = |ip: [u8; 4], port| Endpoint::new(ip, port);
    let nonsense = [
        (NodeId([1; 32]), at([0, 1, 2, 3], 4)),
        (NodeId([2; 32]), at([224, 0, 0, 1], 4)),
        (NodeId([3; 32]), at([100, 64, 0, 1], 4)),
        (NodeId([4; 32]), at([255, 255, 255, 255], 4)),
        (NodeId([5; 32]), at([10, 0, 0, 1], 4)),
        (NodeId([6; 32]), at([127, 0, 0, 1], 4)),
        (NodeId([7; 32]), at([8, 8, 8, 8], 0)),
        (own, at([8, 8, 8, 8], 4)),
        (NodeId([8; 32]), a),
        (NodeId::ZERO, at([8, 8, 8, 8], 4)),
    ];
    let nodes: Vec<_> =
        nonsense.iter().map(|&(id, endpoint)| kadepy::Contact { id, endpoint }).collect();
    let trailer = Trailer { txid: Some(txid_of(&query)), ..Trailer::default() };
    let reply = Message { nodes: &nodes, ..Message::new(liar_id, Body::FoundNodes, Some(trailer)) };
    network.sent.clear();
    network.inject(liar, a, &bytes(&reply, 0));
    network.run(10 * SECOND);
    assert_eq!(network.sent, []);
}

#[test]
fn a_read_only_node_is_not_listed() {
    let (a, shy) = (public(1), public(2));
    let mut network = two(a, public(3));
    let trailer = Trailer { txid: Some(TxId([7; 8])), read_only: true, ..Trailer::default() };
    let ping = bytes(&Message::new(NodeId([2; 32]), Body::Ping, Some(trailer)), 0);
    let sent = network.inject(shy, a, &ping);
    assert_eq!(sent.len(), 1, "an answer and no probe");
}

#[test]
fn a_bucket_that_nobody_touched_for_15_minutes_is_refreshed() {
    let mut network = joined(seed(13), 10, public);
    network.run(10 * SECOND);
    network.records = true;
    network.run(Duration::from_secs(880));
    assert_eq!(network.sent.len(), 0);
    network.run(Duration::from_secs(30));
    assert!(network.sent.iter().any(|(_, _, datagram)| datagram[0] == 2), "a FIND_NODE");
}

#[test]
fn stored_peers_are_gone_after_30_minutes() {
    let (a, b) = (local(1), local(2));
    let mut network = two(a, b);
    let topic = NodeId::of_topic(b"chess");
    network.inject(b, a, &v01(NodeId([2; 32]), Body::AnnouncePeer { topic, port: 80 }));
    network.run(Duration::from_secs(1_799));
    assert_eq!(network.nodes[&a].stats(network.now).records, 1);
    network.run(Duration::from_secs(15));
    assert_eq!(network.nodes[&a].stats(network.now).records, 0);
}

#[test]
fn a_cancelled_operation_tells_nothing() {
    let (a, b) = (public(1), public(2));
    let mut network = two(a, b);
    let op = network.command(a, |node, now, out| node.ping(now, b, TIMEOUT, out)).unwrap();
    network.command(a, |node, _, _| node.cancel(op));
    network.run(60 * SECOND);
    assert_eq!(network.take_outcome(a, op), None);
}

#[test]
fn the_cap_on_operations_refuses_one_more() {
    let mut network = Network::new(seed(14));
    let config = Arc::new(Config { operations: 3, ..Config::default() });
    let a = public(1);
    network.add(a, &config);
    for _ in 0..3 {
        network.command(a, |node, now, out| node.ping(now, public(2), TIMEOUT, out)).unwrap();
    }
    assert!(network.command(a, |node, now, out| node.ping(now, public(2), TIMEOUT, out)).is_err());
}
