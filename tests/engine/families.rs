//! Nodes of one address family and of both in one network: everybody finds what was announced, in the
//! families that it has, and is told of no other.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use crate::net::{Network, seed};
use kadepy::dht::protocol::Outcome;
use kadepy::wire::message::Want;
use kadepy::{Config, Endpoint, NodeId};

const SECOND: Duration = Duration::from_secs(1);
const TOPIC: NodeId = NodeId([0x77; 32]);

/// Nodes of the families that they have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Has {
    V4,
    V6,
    Both,
}

fn v4(index: u16) -> Endpoint {
    let [a, b] = index.to_be_bytes();
    Endpoint::new(Ipv4Addr::new(50, a, b, 1), 4_000)
}

fn v6(index: u16) -> Endpoint {
    Endpoint::new(Ipv6Addr::new(0x2a00, index, 0, 0, 0, 0, 0, 1), 4_000)
}

/// A network of such nodes, all joined, and where each of them stands. The first has both families.
fn network(seed: u64, nodes: &[Has]) -> (Network, Vec<Endpoint>) {
    let mut network = Network::new(seed);
    let config = Arc::new(Config::default());
    let mut places = Vec::new();
    for (index, has) in (0..).zip(nodes) {
        let at = if *has == Has::V4 { v4(index) } else { v6(index) };
        network.add(at, &config);
        let mut first = vec![v4(0), v6(0)];
        if *has == Has::Both {
            network.others.insert(at, v4(index));
            let both = Want { v4: true, v6: true };
            network.command(at, |node, _, _| node.set_families(both));
        } else {
            first.retain(|seed| seed.is_ipv4() == at.is_ipv4());
        }
        if index > 0 {
            network.command(at, |node, now, out| node.stay_joined(now, first, false, out));
        }
        network.run(2 * SECOND);
        places.push(at);
    }
    network.run(60 * SECOND);
    (network, places)
}

fn find_node(network: &mut Network, at: Endpoint, target: NodeId) -> Vec<NodeId> {
    let start = network.command(at, |node, now, out| node.find_node(now, target, None, out));
    match network.finish(at, start.expect("there is room")) {
        Outcome::Nodes(nodes) => nodes.iter().map(|node| node.id).collect(),
        other => panic!("{other:?}"),
    }
}

fn announce(network: &mut Network, at: Endpoint, port: u16) -> Outcome {
    let start =
        network.command(at, |node, now, out| node.announce_peer(now, TOPIC, Some(port), None, out));
    network.finish(at, start.expect("there is room"))
}

fn get_peers(network: &mut Network, at: Endpoint) -> Vec<Endpoint> {
    let start = network.command(at, |node, now, out| node.get_peers(now, TOPIC, None, out));
    let op = start.expect("there is room");
    assert_eq!(network.finish(at, op), Outcome::Found);
    network.peers(at, op)
}

#[test]
fn lookups_are_exact_in_each_family_and_over_both() {
    let nodes: Vec<Has> = (0..90).map(|index| [Has::Both, Has::V4, Has::V6][index % 3]).collect();
    let (mut network, places) = network(seed(1), &nodes);
    let ids: Vec<NodeId> = places.iter().map(|at| network.nodes[at].id()).collect();
    for asker in 0..6 {
        let target = NodeId(network.random());
        let is_reached = |index: usize| {
            nodes[asker] == Has::Both || nodes[index] == Has::Both || nodes[index] == nodes[asker]
        };
        let reached = (0..nodes.len()).filter(|&index| index != asker && is_reached(index));
        let mut nearest: Vec<NodeId> = reached.map(|index| ids[index]).collect();
        nearest.sort_by_key(|id| id.distance(&target));
        nearest.truncate(20);
        assert_eq!(find_node(&mut network, places[asker], target), nearest, "asker {asker}");
    }
    for engine in network.nodes.values() {
        engine.check_invariants();
    }
}

#[test]
fn everybody_finds_what_was_announced_in_the_families_that_it_has() {
    let mut nodes = [Has::V6; 33];
    nodes[0] = Has::Both;
    nodes[31] = Has::V4;
    nodes[32] = Has::Both;
    let (mut network, places) = network(seed(2), &nodes);
    // The 20 nearest of its family; both others of its family; and the former with the latter, of
    // which one may be among them.
    for (index, port, stored) in [(1, 5_001, 20..=20), (31, 5_031, 2..=2), (32, 5_032, 21..=22)] {
        match announce(&mut network, places[index], port) {
            Outcome::Announced(count) => assert!(stored.contains(&count), "{index}: {count}"),
            other => panic!("{other:?}"),
        }
    }
    let in_v4 = [v4(31).with_port(5_031), v4(32).with_port(5_032)];
    let in_v6 = [v6(1).with_port(5_001), v6(32).with_port(5_032)];
    for (index, at) in places.iter().enumerate() {
        let found = get_peers(&mut network, *at);
        let expected: BTreeSet<Endpoint> = match nodes[index] {
            Has::V4 => in_v4.into(),
            Has::V6 => in_v6.into(),
            Has::Both => in_v4.into_iter().chain(in_v6).collect(),
        };
        assert_eq!(found.len(), expected.len(), "a peer twice, at node {index}");
        assert_eq!(BTreeSet::from_iter(found), expected, "node {index}");
    }
}

#[test]
fn a_node_of_one_family_is_sent_no_address_of_the_other() {
    let nodes = [Has::Both, Has::Both, Has::V4, Has::V4, Has::V6, Has::V6];
    let (mut network, places) = network(seed(3), &nodes);
    for at in &places[2..] {
        let listed: Vec<Endpoint> =
            network.nodes[at].table().entries().map(|entry| entry.contact.endpoint).collect();
        assert_eq!(listed.len(), 3, "both nodes of both families and the other of its own");
        assert!(listed.iter().all(|endpoint| endpoint.is_ipv4() == at.is_ipv4()));
    }
    network.records = true;
    for at in places.clone() {
        find_node(&mut network, at, TOPIC);
    }
    let has = |endpoint: &Endpoint, all: &[Endpoint]| {
        all.contains(endpoint) || network.others.values().any(|other| other == endpoint)
    };
    for (from, to, _) in &network.sent {
        assert_eq!(from.is_ipv4(), to.is_ipv4(), "{from} has sent to {to}");
        assert!(has(from, &places) && has(to, &places));
    }
}

#[test]
fn a_membership_meets_peers_of_both_families_and_not_itself() {
    let (mut network, places) = network(seed(4), &[Has::Both, Has::Both, Has::V4, Has::V6]);
    let mut members = Vec::new();
    for at in &places[1..] {
        let joined = network.command(*at, |node, now, _| node.join_topic(now, TOPIC, Some(7_000)));
        members.push((*at, joined.expect("there is room")));
    }
    network.run(5 * SECOND);
    let met = |network: &Network, (at, op): (Endpoint, u64)| -> BTreeSet<Endpoint> {
        network.nodes[&at].members(op, 0).into_iter().map(|(_, peer)| peer).collect()
    };
    let peer = |at: Endpoint| at.with_port(7_000);
    assert_eq!(met(&network, members[0]), [peer(v4(2)), peer(v6(3))].into());
    assert_eq!(met(&network, members[1]), [peer(v4(1))].into());
    assert_eq!(met(&network, members[2]), [peer(v6(1))].into());
}
