//! Nodes that somebody floods: what is served all the same, and how soon they are themselves again.

use std::sync::Arc;
use std::time::Duration;

use crate::net::{Network, local, public, seed};
use crate::scripted::{bytes, reply};
use kadepy::dht::protocol::{Event, Outcome, Refusal};
use kadepy::wire::message::{Body, Message};
use kadepy::{Config, Endpoint, NodeId};

const SECOND: Duration = Duration::from_secs(1);
const ID: NodeId = NodeId([3; 32]);

fn packet(body: Body<'_>) -> Vec<u8> {
    bytes(&Message::new(ID, body, None))
}

fn node_at(at: Endpoint) -> Network {
    let mut network = Network::new(seed(1));
    network.records = true;
    network.add(at, &Arc::new(Config::default()));
    network
}

fn refused(network: &Network, at: Endpoint) -> u64 {
    network.nodes[&at].stats(network.now).counters.refused[Refusal::Rate as usize]
}

/// How many of 1,000 PINGs at once are answered.
fn answered(network: &mut Network, from: Endpoint, at: Endpoint) -> usize {
    let ping = packet(Body::Ping);
    let answers = (0..1_000).flat_map(|_| network.inject(from, at, &ping));
    answers.filter(|(to, datagram)| *to == from && datagram[0] == 1).count()
}

#[test]
fn a_host_gets_100_answers_at_once_and_others_get_theirs() {
    let at = public(1);
    let mut network = node_at(at);
    assert_eq!(answered(&mut network, public(2), at), 100);
    assert_eq!(refused(&network, at), 900);
    assert_eq!(answered(&mut network, public(2).with_port(9), at), 0);
    assert_eq!(answered(&mut network, public(3), at), 100);
    network.run(SECOND);
    assert_eq!(answered(&mut network, public(2), at), 50);
}

#[test]
fn neighbors_get_all_answers() {
    let mut network = node_at(local(1));
    assert_eq!(answered(&mut network, local(2), local(1)), 1_000);
    assert_eq!(refused(&network, local(1)), 0);
    // To a node at a public address nobody local is a neighbor.
    let mut network = node_at(public(1));
    assert_eq!(answered(&mut network, local(2), public(1)), 100);
}

#[test]
fn application_messages_beyond_the_rate_reach_no_callback() {
    let at = public(1);
    let mut network = node_at(at);
    network.command(at, |node, _, _| node.observe(true));
    let message = packet(Body::Application { kind: 16, payload: b"hello" });
    for _ in 0..1_000 {
        network.inject(public(2), at, &message);
    }
    network.run(SECOND);
    let told = network.events[&at].iter().filter(|event| matches!(event, Event::Packet { .. }));
    assert_eq!((told.count(), refused(&network, at)), (100, 900));
}

#[test]
fn an_answer_that_is_waited_for_passes_whatever_its_sender_asks() {
    let at = public(1);
    let mut network = node_at(at);
    let op = network.command(at, |node, now, out| node.ping(now, public(2), None, out)).unwrap();
    let question = network.sent.pop().expect("a PING").2;
    answered(&mut network, public(2), at);
    network.inject(public(2), at, &reply(ID, &question, &[], None));
    assert!(matches!(network.take_outcome(at, op), Some(Outcome::Pong(_))));
}

#[test]
fn in_and_after_a_flood_lookups_find_the_nearest_within_two_seconds() {
    let mut network = Network::new(seed(2));
    let config = Arc::new(Config::default());
    for index in 1..=60 {
        network.add(public(index), &config);
        let seeds = vec![public(1)];
        network.command(public(index), |node, now, out| {
            node.stay_joined(now, seeds, false, out);
        });
        network.run(SECOND / 10);
    }
    network.run(20 * SECOND);
    let at = public(30);
    let known = network.nodes[&at].table().len();
    for round in 0..3 {
        // 200,000 a second, from addresses all over the Internet.
        let target = NodeId(network.random());
        let flood = packet(Body::FindNode { target });
        let begin = network.nodes[&at].stats(network.now).counters.packets_out;
        for _ in 0..200 {
            let sources: Vec<[u8; 4]> = (0..1_000).map(|_| network.random()).collect();
            network.command(at, |node, now, out| {
                for [a, b, c, d] in sources {
                    let from = Endpoint::new([1 + a % 9, b, c, d], 4_000);
                    node.receive(now, from, &mut flood.clone(), out);
                }
                // What is sent there goes nowhere.
                *out = Default::default();
            });
            network.run(SECOND / 200);
        }
        let end = network.nodes[&at].stats(network.now).counters.packets_out;
        let served: u64 = end.iter().zip(begin).map(|(end, begin)| end - begin).sum();
        assert!(served < 56_000, "{served} packets in a second");

        let start = network.now;
        let op = network
            .command(at, |node, now, out| node.find_node(now, target, None, out))
            .expect("there is room");
        let Outcome::Nodes(found) = network.finish(at, op) else {
            panic!("a lookup ends as one");
        };
        let took = network.now - start;
        assert!(took < 2 * SECOND, "round {round}: {took:?}");
        let found: Vec<NodeId> = found.into_iter().map(|contact| contact.id).collect();
        assert_eq!(found, network.truth(&target, at, 20), "round {round}");
    }
    assert!(refused(&network, at) > 400_000);
    assert!(network.nodes[&at].table().len() >= known, "no contact is lost");
    network.nodes[&at].check_invariants();
}
