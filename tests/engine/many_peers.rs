//! Topics with more peers than fit into one answer: lookups and memberships get them all, at a bounded
//! price whatever a node claims, and topics with few peers cost no more than before.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::net::{Network, local, public, seed};
use crate::scripted::{Stage, bytes};
use kadepy::dht::protocol::{Event, Outcome};
use kadepy::wire::message::{Body, Contact, Message, Part, Trailer, TxId};
use kadepy::wire::native::{self, Lists};
use kadepy::wire::seal;
use kadepy::{Config, Endpoint, NetworkKey, NodeId};

const SECOND: Duration = Duration::from_secs(1);
const TOPIC: NodeId = NodeId([0x77; 32]);
const GET_PEERS: u8 = 5;
const FIRST_PORT: u16 = 10_000;

fn public6(index: u32) -> Endpoint {
    Endpoint::new([0x2a00, index as u16, 0, 0, 0, 0, 0, 1], 4_000)
}

fn sealed() -> seal::Network {
    let key = NetworkKey::new(&[7; 32]).expect("32 bytes, not all zero");
    seal::Network::Sealed { key, older: Vec::new() }
}

/// `count` nodes that know each other; the second has announced `peers` ports, and then comes one more
/// node, whose address is returned.
fn crowd(
    count: u32,
    peers: u16,
    address: impl Fn(u32) -> Endpoint,
    key: &seal::Network,
) -> (Network, Endpoint) {
    let mut network = Network::new(seed(1));
    for index in 0..count {
        add(&mut network, address(index), address(0), key, Config::default());
    }
    network.run(30 * SECOND);
    for port in 0..peers {
        let announced = network.command(address(1), |node, now, out| {
            node.announce_peer(now, TOPIC, Some(FIRST_PORT + port), None, out)
        });
        announced.expect("there is room");
        network.run(SECOND / 10);
    }
    network.run(30 * SECOND);
    let newcomer = address(count);
    add(&mut network, newcomer, address(0), key, Config::default());
    network.run(30 * SECOND);
    network.records = true;
    (network, newcomer)
}

fn add(network: &mut Network, at: Endpoint, first: Endpoint, key: &seal::Network, config: Config) {
    network.add(at, &Arc::new(config));
    network.enter(at, key);
    if at != first {
        network.command(at, |node, now, out| node.stay_joined(now, vec![first], false, out));
    }
    network.run(SECOND);
}

/// How many peers a lookup finds, each of which it must name once, and how many questions it sends.
fn lookup(network: &mut Network, at: Endpoint) -> (usize, usize) {
    network.sent.clear();
    let op = network
        .command(at, |node, now, out| node.get_peers(now, TOPIC, None, out))
        .expect("there is room");
    assert_eq!(network.finish(at, op), Outcome::Found);
    let found = network.peers(at, op);
    let distinct: BTreeSet<&Endpoint> = found.iter().collect();
    assert_eq!(distinct.len(), found.len(), "a peer twice");
    let questions = network.sent.iter().filter(|(from, _, datagram)| {
        *from == at && (datagram[0] == GET_PEERS || datagram.len() == 456)
    });
    (found.len(), questions.count())
}

#[test]
fn a_lookup_finds_all_and_asks_one_node_for_the_rest_where_all_store_the_same() {
    let open = seal::Network::Public;
    for (nodes, address, key) in [
        (2, public as fn(u32) -> Endpoint, open.clone()),
        (6, lan, open.clone()),
        (6, public6, open),
        (6, public, sealed()),
        (2, public6, sealed()),
    ] {
        let (mut network, newcomer) = crowd(nodes, 250, address, &key);
        for _ in 0..3 {
            let (found, questions) = lookup(&mut network, newcomer);
            assert_eq!(found, 250);
            // 5 or 6 parts, of which one may be too large and be halved.
            let parts = questions - nodes as usize;
            assert!((5..=10).contains(&parts), "{parts} questions for parts");
        }
    }
}

fn lan(index: u32) -> Endpoint {
    local(index as u8 + 1)
}

#[test]
fn a_lookup_finds_all_where_the_nodes_nearest_to_a_topic_store_it() {
    let (mut network, newcomer) = crowd(30, 250, public, &seal::Network::Public);
    for _ in 0..3 {
        let (found, questions) = lookup(&mut network, newcomer);
        assert_eq!(found, 250);
        assert!(questions <= 60, "{questions} questions");
    }
}

#[test]
fn a_topic_whose_peers_fit_into_an_answer_costs_one_question_a_node() {
    let (mut network, newcomer) = crowd(6, 64, public, &seal::Network::Public);
    assert_eq!(lookup(&mut network, newcomer), (64, 6));
    let mut lists = Lists::default();
    for (_, _, datagram) in &network.sent {
        let trailer = native::decode(datagram, &mut lists).unwrap().trailer.unwrap();
        assert_eq!((trailer.part, trailer.total), (Part::WHOLE, None));
    }
}

#[test]
fn under_loss_of_a_fifth_each_way_all_are_found() {
    let (mut network, newcomer) = crowd(6, 250, public, &seal::Network::Public);
    network.loss = 0.2;
    let complete = (0..50).filter(|_| lookup(&mut network, newcomer).0 == 250).count();
    assert!(complete >= 49, "{complete} of 50");
}

#[test]
fn nodes_that_store_different_peers_are_each_asked_for_the_rest() {
    let (mut network, newcomer) = crowd(3, 0, public, &seal::Network::Public);
    for (storer, ports) in [(0, 0..150), (2, 100..250)] {
        for port in ports {
            network.command(public(1), |node, now, out| {
                node.announce_to(now, public(storer), TOPIC, Some(FIRST_PORT + port), out);
            });
            network.run(SECOND / 10);
        }
    }
    network.run(30 * SECOND);
    assert_eq!(lookup(&mut network, newcomer).0, 250);
}

#[test]
fn a_membership_gets_all() {
    // Where all peers stand at one public address, a membership keeps 64 of them.
    for (nodes, address, kept) in
        [(2, lan as fn(u32) -> Endpoint, 250), (6, lan, 250), (30, lan, 250), (2, public, 64)]
    {
        let (mut network, newcomer) = crowd(nodes, 250, address, &seal::Network::Public);
        let op =
            network.command(newcomer, |node, now, _| node.join_topic(now, TOPIC, None)).unwrap();
        network.run(30 * SECOND);
        let membership = network.nodes[&newcomer].membership(op).expect("it goes on");
        let confirmed = Some(nodes as usize);
        assert_eq!((membership.peers, membership.confirmed), (kept, confirmed), "{nodes} nodes");
    }
}

#[test]
fn a_lookup_that_finds_as_many_as_it_may_collect_says_so() {
    for (cap, is_told) in [(100, true), (250, true), (251, false)] {
        let (mut network, _) = crowd(2, 250, public, &seal::Network::Public);
        let at = public(3);
        let config = Config { lookup_peers: cap, ..Config::default() };
        add(&mut network, at, public(0), &seal::Network::Public, config);
        network.run(30 * SECOND);
        assert_eq!(lookup(&mut network, at).0, cap.min(250));
        let told = Event::Full { topic: TOPIC, max: cap };
        assert_eq!(network.events[&at].contains(&told), is_told, "a cap of {cap}");
    }
}

// A node that answers as a script has it

/// Has the only contact of a node answer each GET_PEERS with the peers and the total that `answer`
/// gives for how many were asked before; returns how many were, and the peers found.
fn scripted(mut answer: impl FnMut(u32) -> (Vec<Endpoint>, Option<u32>)) -> (u32, Vec<Endpoint>) {
    let mut stage = Stage::new(Config::default());
    let contact = Contact { id: TOPIC.with_flipped_bit(3), endpoint: public(2) };
    stage.list(contact);
    let op = stage
        .network
        .command(stage.at, |node, now, out| node.get_peers(now, TOPIC, None, out))
        .expect("there is room");
    let mut asked = 0;
    while stage.outcome(op).is_none() {
        for question in stage.sent(contact.endpoint) {
            let mut lists = Lists::default();
            let txid = native::decode(&question, &mut lists).expect("it is well-formed").txid();
            let (peers, total) = answer(asked);
            asked += 1;
            let trailer = Trailer { txid, total, ..Trailer::default() };
            let message = Message::new(contact.id, Body::Peers { topic: TOPIC }, Some(trailer));
            stage.inject(contact.endpoint, &bytes(&Message { peers: &peers, ..message }));
        }
    }
    (asked, stage.network.peers(stage.at, op))
}

#[test]
fn a_liar_that_always_has_more_is_asked_no_more_than_38_times_and_256_peers_count() {
    for of_each in [1, 10, 100] {
        let (asked, found) = scripted(|asked| {
            let first = 10_000 + asked * of_each;
            ((first..first + of_each).map(public).collect(), Some(u32::MAX))
        });
        assert!(asked <= 1 + 38, "{asked} questions");
        assert!(found.len() <= 256, "{} peers", found.len());
    }
}

#[test]
fn a_liar_that_claims_more_and_names_the_same_again_is_asked_as_often_as_answers_are_awaited() {
    let (asked, found) = scripted(|_| ((1..=64).map(public).collect(), Some(65_535)));
    assert!(asked <= 1 + 4, "{asked} questions");
    assert_eq!(found.len(), 64);
}

#[test]
fn a_node_that_does_not_say_how_many_it_stores_is_asked_once() {
    let (asked, found) = scripted(|_| ((1..=64).map(public).collect(), None));
    assert_eq!((asked, found.len()), (1, 64));
}

#[test]
fn a_node_that_falls_silent_ends_no_lookup_late() {
    let (mut network, newcomer) = crowd(2, 250, public, &seal::Network::Public);
    let op =
        network.command(newcomer, |node, now, out| node.get_peers(now, TOPIC, None, out)).unwrap();
    network
        .run_until(SECOND, |network| {
            let found = network.peers(newcomer, op).len();
            (found >= 64).then_some(())
        })
        .expect("a first answer");
    network.dead = vec![public(0), public(1)];
    let begun = network.now;
    assert_eq!(network.finish(newcomer, op), Outcome::Found);
    assert!(network.now - begun < 3 * SECOND, "after {:?}", network.now - begun);
}

// Serving

#[test]
fn the_parts_of_a_node_hold_each_peer_once_and_its_answers_stay_within_three_times_the_request() {
    let (mut network, _) = crowd(2, 250, public, &seal::Network::Public);
    let mut named = BTreeSet::new();
    let mut ask = |padded, index, count, stranger| {
        let part = Part::new(index, count).expect("there is such a part");
        let trailer = Trailer { txid: Some(TxId([9; 8])), part, ..Trailer::default() };
        let message = Message::new(NodeId([5; 32]), Body::GetPeers { topic: TOPIC }, Some(trailer));
        let mut request = Vec::new();
        native::encode(&message, native::MAX_SENT, padded, &mut request).expect("it fits");
        let sent = network.inject(public(stranger), public(0), &request);
        let answers = sent.iter().filter(|(to, _)| *to == public(stranger));
        let caused: usize = answers.map(|(_, datagram)| datagram.len()).sum();
        assert!(caused <= 3 * request.len(), "{caused} bytes for {}", request.len());
        let mut lists = Lists::default();
        let answer = native::decode(&sent[0].1, &mut lists).expect("a node sends what decodes");
        (answer.peers.to_vec(), answer.nodes.len(), answer.trailer.and_then(|t| t.total))
    };
    for index in 0..10 {
        let (peers, nodes, total) = ask(416, index, 10, 700);
        assert_eq!((nodes, total), (0, None), "all of the part, and nothing else");
        assert_eq!(ask(416, index, 10, 701).0.len(), peers.len(), "the part of any asker");
        for peer in peers {
            assert!(named.insert(peer), "a peer in two parts");
        }
    }
    assert_eq!(named.len(), 250);
    for padded in [0, 100, 150, 200, 300, 400, 1_200] {
        let (peers, _, total) = ask(padded, 1, 2, 800 + padded as u32);
        assert!(total.is_some_and(|total| total as usize > peers.len()), "an answer that is cut");
    }
}
