//! Senders that nobody knows: who is asked whether it is there, when, and what proves it.

use std::sync::Arc;
use std::time::Duration;

use crate::net::{Network, public, seed};
use crate::scripted::{bytes, reply};
use kadepy::dht::protocol::Refusal;
use kadepy::wire::message::{Body, Message, Trailer, TxId};
use kadepy::wire::native::{self, Lists};
use kadepy::wire::seal::{self, NetworkKey, Seal};
use kadepy::{Config, Endpoint, Legacy, NodeId};

const MICRO: Duration = Duration::from_micros(1);
const SECOND: Duration = Duration::from_secs(1);
const TOPIC: NodeId = NodeId([0x77; 32]);

fn node_at(at: Endpoint, config: Config) -> Network {
    let mut network = Network::new(seed(1));
    network.records = true;
    network.add(at, &Arc::new(config));
    network
}

fn ping(sender: NodeId) -> Vec<u8> {
    bytes(&Message::new(sender, Body::Ping, None))
}

/// What was sent to `to` since the last call.
fn sent(network: &mut Network, to: Endpoint) -> Vec<Vec<u8>> {
    let all = std::mem::take(&mut network.sent);
    let (mine, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, at, _)| *at == to);
    network.sent = rest;
    mine.into_iter().map(|(.., datagram)| datagram).collect()
}

/// The PINGs among datagrams.
fn pings(datagrams: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    datagrams.into_iter().filter(|datagram| datagram[0] == 0).collect()
}

/// A PING of 33 bytes from anywhere.
fn forge(network: &mut Network, at: Endpoint) {
    let [a, b, c, d] = network.random();
    let id = NodeId(network.random());
    network.inject(Endpoint::new([1 + a % 9, b, c, d], 4_000), at, &ping(id));
}

#[test]
fn newcomers_are_listed_beside_forty_forged_packets_a_second() {
    let at = public(1);
    let mut network = node_at(at, Config::default());
    let newcomers: Vec<(Endpoint, NodeId)> =
        (10..20).map(|index| (public(index), NodeId([index as u8 * 11; 32]))).collect();
    for second in 0..330 {
        // All at the moment at which ten are asked, so that there is no place left for others.
        for _ in 0..40 {
            forge(&mut network, at);
        }
        network.run(SECOND / 2);
        // Each time that one comes it has its share of the turns, a quarter.
        for &(from, id) in &newcomers {
            if second >= 30 && second % 5 == 0 {
                network.inject(from, at, &ping(id));
            }
        }
        network.run(SECOND / 2 - MICRO);
        for &(from, id) in &newcomers {
            for question in pings(sent(&mut network, from)) {
                network.inject(from, at, &reply(id, &question, &[], None));
            }
        }
        network.sent.clear();
        network.run(MICRO);
    }
    let table = network.nodes[&at].table();
    let listed = newcomers.iter().filter(|(_, id)| table.get(id).is_some()).count();
    assert_eq!((listed, table.len()), (10, 10));
}

/// Announces from `from` with the token that the node gives; gives what it sends at once.
fn announce(network: &mut Network, at: Endpoint, from: Endpoint, id: NodeId) -> Vec<Vec<u8>> {
    let trailer = Trailer { txid: Some(TxId([7; 8])), ..Trailer::default() };
    let ask = Message::new(id, Body::GetPeers { topic: TOPIC }, Some(trailer));
    let answer = network.inject(from, at, &bytes(&ask)).remove(0).1;
    let mut lists = Lists::default();
    let answer = native::decode(&answer, &mut lists).expect("a node sends what decodes");
    let token = answer.trailer.and_then(|trailer| trailer.token);
    let body = Body::AnnouncePeer { topic: TOPIC, port: from.port() };
    let announce = Message::new(id, body, Some(Trailer { token, ..trailer }));
    let sent = network.inject(from, at, &bytes(&announce));
    sent.into_iter().map(|(_, datagram)| datagram).collect()
}

#[test]
fn who_announces_with_a_token_is_asked_at_once_and_once_only() {
    let at = public(1);
    let mut network = node_at(at, Config::default());
    // The rate is used up, and the line is full.
    for _ in 0..400 {
        forge(&mut network, at);
    }
    let (from, id) = (public(2), NodeId([0xF0; 32]));
    let sent = announce(&mut network, at, from, id);
    assert_eq!(pings(sent).len(), 1, "the PING goes out behind the answer");
    // Nobody answers it. What is announced again is no reason to ask again beside the line.
    network.run(3 * SECOND);
    for _ in 0..400 {
        forge(&mut network, at);
    }
    assert_eq!(pings(announce(&mut network, at, from, id)).len(), 0);
}

#[test]
fn a_node_at_a_public_address_makes_candidates_of_local_strangers() {
    let anywhere = Endpoint::new([0, 0, 0, 0], 4_000);
    let private = |n: u8| Endpoint::new([10, 0, n, 1], 4_000);
    let shared = |n: u8| Endpoint::new([100, 64, n, 1], 4_000);
    let link = |n: u8| Endpoint::new([169, 254, n, 1], 4_000);
    type Senders = fn(u8) -> Endpoint;
    let all: [(Endpoint, Senders, usize); 7] = [
        (public(1), private, 10),
        (public(1), shared, 10),
        (anywhere, private, 20),
        (anywhere, shared, 10),
        (anywhere, link, 10),
        (shared(200), shared, 20),
        (link(200), link, 20),
    ];
    for (at, from, expected) in all {
        let mut network = node_at(at, Config::default());
        for n in 0..20 {
            network.inject(from(n), at, &ping(NodeId([1 + n; 32])));
        }
        let sent = network.sent.iter().filter(|(.., datagram)| datagram[0] == 0).count();
        assert_eq!(sent, expected, "from {} to {at}", from(0));
    }
}

#[test]
fn a_node_at_a_public_address_stores_nothing_without_a_token() {
    let at = public(1);
    let from = Endpoint::new([10, 0, 0, 1], 4_000);
    let mut network = node_at(at, Config::default());
    let body = Body::AnnouncePeer { topic: TOPIC, port: 80 };
    network.inject(from, at, &bytes(&Message::new(NodeId([3; 32]), body, None)));
    let stats = network.nodes[&at].stats(network.now);
    assert_eq!((stats.records, stats.counters.refused[Refusal::Token as usize]), (0, 1));
}

/// Whether a node that speaks v0.1 only is listed after it has sent a PING and answered one.
fn lists_v01(at: Endpoint, from: Endpoint, legacy: Legacy) -> bool {
    let mut network = node_at(at, Config { legacy, ..Config::default() });
    let id = NodeId([3; 32]);
    network.inject(from, at, &ping(id));
    assert_eq!(pings(sent(&mut network, from)).len(), 1);
    network.inject(from, at, &bytes(&Message::new(id, Body::Pong, None)));
    network.nodes[&at].table().get(&id).is_some()
}

#[test]
fn an_answer_without_a_transaction_id_lists_neighbors_only() {
    let private = |n| Endpoint::new([192, 168, 0, n], 4_000);
    assert!(lists_v01(private(1), private(2), Legacy::Local));
    assert!(lists_v01(Endpoint::new([0, 0, 0, 0], 4_000), private(2), Legacy::Local));
    assert!(!lists_v01(private(1), private(2), Legacy::Never));
    assert!(!lists_v01(public(1), private(2), Legacy::Local));
    assert!(!lists_v01(public(1), public(2), Legacy::Always));
}

#[test]
fn a_recorded_ping_that_is_repeated_keeps_no_newcomer_out() {
    let key = NetworkKey::new(&[1; 32]).expect("32 bytes, not all zero");
    let private = seal::Network::Sealed { key, older: Vec::new() };
    let mut hand = Seal::new(&private, Network::new(seed(99)).random());
    let mut sealed = |packet: &[u8]| {
        let mut out = Vec::new();
        let write = |out: &mut Vec<u8>| {
            out.extend_from_slice(packet);
            Some(packet.len())
        };
        hand.append(&mut out, write).expect("neither too short nor too long");
        out
    };
    let at = public(1);
    let mut network = node_at(at, Config::default());
    network.enter(at, &private);
    let pads = Trailer { txid: Some(TxId([7; 8])), ..Trailer::default() };
    let question = |id| bytes(&Message::new(NodeId([id; 32]), Body::Ping, Some(pads)));
    let (recorded, honest) = (sealed(&question(9)), sealed(&question(8)));
    for step in 0..2_000 {
        network.inject(public(1_000 + step), at, &recorded);
    }
    network.inject(public(2), at, &honest);
    network.run(SECOND);
    // An answer and a question.
    assert_eq!(sent(&mut network, public(2)).len(), 2);
}
