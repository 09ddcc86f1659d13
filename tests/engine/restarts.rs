//! Nodes of small networks that are started anew, with their ids and ports or with other ones, one
//! after the other or all together: everybody finds everybody within seconds.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::net::{Network, local, public, seed};
use kadepy::dht::requests::OpId;
use kadepy::{Config, Endpoint, NodeId};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const TOPIC: NodeId = NodeId([0x77; 32]);
const SIZES: [u8; 4] = [2, 3, 6, 30];

/// Everybody is found by then after the last start.
const SOON: Duration = Duration::from_secs(5);
/// Contacts that a node is made with, where there are so many.
const SEEDS: usize = 3;

/// What a node that starts anew keeps.
#[derive(Clone, Copy, Debug)]
struct Keeps {
    id: bool,
    port: bool,
}

const ALL_WAYS: [Keeps; 4] = [
    Keeps { id: true, port: true },
    Keeps { id: true, port: false },
    Keeps { id: false, port: true },
    Keeps { id: false, port: false },
];

/// Members of one topic, each with its own host.
struct Fleet {
    network: Network,
    config: Arc<Config>,
    /// Where each node is, and its membership.
    nodes: Vec<(Endpoint, OpId)>,
}

impl Fleet {
    /// A network that has run for so long.
    fn new(seed: u64, size: u8, at: impl Fn(u8) -> Endpoint, age: Duration) -> Self {
        let mut fleet = Self {
            network: Network::new(seed),
            config: Arc::new(Config::default()),
            nodes: (1..=size).map(|index| (at(index), 0)).collect(),
        };
        for index in 0..fleet.nodes.len() {
            let id = NodeId(fleet.network.random());
            fleet.start(index, fleet.nodes[index].0, id);
            fleet.network.run(SECOND / 10);
        }
        fleet.network.run(age);
        fleet
    }

    /// Starts a node at `at`; it is made with the addresses of some others.
    fn start(&mut self, index: usize, at: Endpoint, id: NodeId) {
        self.nodes[index].0 = at;
        let others = self.nodes.iter().map(|(other, _)| *other).filter(|other| *other != at);
        let seeds: Vec<Endpoint> = others.take(SEEDS).collect();
        self.network.put(at, id, &self.config);
        self.nodes[index].1 = self.network.command(at, |node, now, out| {
            node.stay_joined(now, seeds, false, out);
            node.join_topic(now, TOPIC, None).expect("there is room")
        });
    }

    /// Stops a node without a word; gives what starts it anew.
    fn stop(&mut self, index: usize, keeps: Keeps) -> (Endpoint, NodeId) {
        let at = self.nodes[index].0;
        let node = self.network.nodes.remove(&at).expect("it runs");
        let id = if keeps.id { node.id() } else { NodeId(self.network.random()) };
        (if keeps.port { at } else { at.with_port(at.port() + 1) }, id)
    }

    /// Stops these nodes together and starts them after `pause`.
    fn restart(&mut self, which: &[usize], keeps: Keeps, pause: Duration) {
        let stopped: Vec<(Endpoint, NodeId)> =
            which.iter().map(|index| self.stop(*index, keeps)).collect();
        for (index, (at, _)) in which.iter().zip(&stopped) {
            self.nodes[*index].0 = *at;
        }
        self.network.run(pause);
        for (index, (at, id)) in which.iter().zip(stopped) {
            self.start(*index, at, id);
        }
    }

    /// Whom a membership knows, its own node included.
    fn met(&self, at: Endpoint, op: OpId) -> BTreeSet<Endpoint> {
        let members = self.network.nodes[&at].members(op, 0).into_iter().map(|(_, peer)| peer);
        members.chain([at]).collect()
    }

    /// Runs until all memberships know all; says how long that took.
    fn meet(&mut self, limit: Duration) -> Option<Duration> {
        let all: BTreeSet<Endpoint> = self.nodes.iter().map(|(at, _)| *at).collect();
        let start = self.network.now;
        while self.nodes.iter().any(|&(at, op)| !self.met(at, op).is_superset(&all)) {
            if self.network.now >= start + limit {
                return None;
            }
            self.network.run(SECOND / 10);
        }
        Some(self.network.now - start)
    }

    /// Who does not know whom, in memberships and in lookups that begin now.
    fn missing(&mut self) -> Vec<String> {
        let all: BTreeSet<Endpoint> = self.nodes.iter().map(|(at, _)| *at).collect();
        let mut missing = Vec::new();
        let mut note = |what, at: Endpoint, found: BTreeSet<Endpoint>| {
            let lacks: Vec<&Endpoint> = all.difference(&found).collect();
            if !lacks.is_empty() {
                missing.push(format!("{what} of {at} lacks {lacks:?}"));
            }
        };
        for &(at, op) in &self.nodes {
            let node = &self.network.nodes[&at];
            assert!(node.members(op, 0).iter().all(|(_, peer)| *peer != at), "{at} met itself");
            note("membership", at, self.met(at, op));
        }
        let lookups: Vec<(Endpoint, OpId)> = self
            .nodes
            .iter()
            .map(|&(at, _)| {
                let network = &mut self.network;
                let op = network.command(at, |node, now, out| {
                    node.get_peers(now, TOPIC, Some(SOON), out).expect("there is room")
                });
                (at, op)
            })
            .collect();
        for (at, op) in lookups {
            self.network.finish(at, op);
            note("lookup", at, self.network.peers(at, op).into_iter().collect());
        }
        missing
    }

    /// Panics where somebody is not found soon.
    fn check(&mut self, what: &str) {
        let start = self.network.now;
        let met_after = self.meet(SOON);
        println!("{what}: all memberships have met all after {met_after:?}");
        self.network.run(start + SOON - self.network.now);
        let missing = self.missing();
        assert!(
            missing.is_empty(),
            "{what}: {} gaps: {:?}",
            missing.len(),
            &missing[..missing.len().min(6)]
        );
        self.network.nodes.values().for_each(|node| node.check_invariants());
    }
}

/// Runs `case` for networks of each size, young and old, and each way to start anew.
fn everywhere(first_seed: u64, at: fn(u8) -> Endpoint, case: impl Fn(&mut Fleet, Keeps) -> String) {
    let first_seed = seed(first_seed);
    let mut failures = Vec::new();
    for size in SIZES {
        for age in [3 * SECOND, 40 * MINUTE] {
            for keeps in ALL_WAYS {
                let what = format!("{size} nodes after {age:?}, {keeps:?}");
                let run = std::panic::AssertUnwindSafe(|| {
                    let mut fleet = Fleet::new(first_seed, size, at, age);
                    let how = case(&mut fleet, keeps);
                    fleet.check(&format!("{what}, {how}"));
                });
                if std::panic::catch_unwind(run).is_err() {
                    failures.push(what);
                }
            }
        }
    }
    assert!(failures.is_empty(), "failed: {failures:#?}");
}

fn public_address(index: u8) -> Endpoint {
    public(index.into())
}

#[test]
fn a_node_that_starts_anew_is_found_and_finds_all() {
    everywhere(1, local, |fleet, keeps| {
        fleet.restart(&[0], keeps, SECOND);
        "one".into()
    });
}

#[test]
fn a_node_that_starts_anew_on_the_open_internet_is_found_and_finds_all() {
    everywhere(2, public_address, |fleet, keeps| {
        fleet.restart(&[0], keeps, SECOND);
        "one".into()
    });
}

#[test]
fn a_node_that_crashed_long_ago_is_found_and_finds_all() {
    everywhere(3, local, |fleet, keeps| {
        fleet.restart(&[1], keeps, 30 * MINUTE);
        "one after half an hour".into()
    });
}

/// The second one is among the contacts that the others are made with.
fn all_but_one_in_turn(fleet: &mut Fleet, keeps: Keeps) -> String {
    for index in (0..fleet.nodes.len()).filter(|index| *index != 1) {
        fleet.restart(&[index], keeps, SECOND / 5);
        fleet.network.run(SECOND);
    }
    "all but one in turn".into()
}

#[test]
fn all_but_one_start_anew_one_after_the_other() {
    everywhere(4, local, all_but_one_in_turn);
}

#[test]
fn all_but_one_start_anew_one_after_the_other_on_the_open_internet() {
    everywhere(5, public_address, all_but_one_in_turn);
}

#[test]
fn half_start_anew_one_after_the_other() {
    everywhere(7, local, |fleet, keeps| {
        for index in 0..fleet.nodes.len() / 2 {
            fleet.restart(&[index], keeps, SECOND / 5);
            fleet.network.run(SECOND);
        }
        "half in turn".into()
    });
}

#[test]
fn every_second_starts_anew_together() {
    everywhere(8, local, |fleet, keeps| {
        let half: Vec<usize> = (1..fleet.nodes.len()).step_by(2).collect();
        fleet.restart(&half, keeps, 2 * SECOND);
        "every second".into()
    });
}

/// All but the first, which is a contact that the others are made with. With new ports there is no
/// other way: it knows nobody who is there, and they know nobody else who has stayed.
fn all_but_a_seed(fleet: &mut Fleet, keeps: Keeps) -> String {
    let most: Vec<usize> = (1..fleet.nodes.len()).collect();
    fleet.restart(&most, keeps, SECOND);
    "all but one".into()
}

#[test]
fn all_but_a_seed_start_anew_together() {
    everywhere(9, local, all_but_a_seed);
}

#[test]
fn all_but_a_seed_start_anew_together_on_the_open_internet() {
    everywhere(10, public_address, all_but_a_seed);
}

/// All but the last, which is no contact that the others are made with. At their former ports it finds
/// them.
fn all_but_a_stranger(fleet: &mut Fleet, keeps: Keeps) -> String {
    let size = fleet.nodes.len();
    if !keeps.port || size <= SEEDS + 1 {
        return all_but_a_seed(fleet, keeps);
    }
    fleet.restart(&(0..size - 1).collect::<Vec<usize>>(), keeps, SECOND);
    "all but one that nobody knows".into()
}

#[test]
fn one_that_nobody_knows_any_more_finds_those_that_have_started_anew() {
    everywhere(11, local, all_but_a_stranger);
}

#[test]
fn one_that_nobody_knows_any_more_finds_the_others_on_the_open_internet() {
    everywhere(12, public_address, all_but_a_stranger);
}

#[test]
fn all_but_a_seed_start_anew_together_under_loss() {
    everywhere(13, public_address, |fleet, keeps| {
        fleet.network.loss = 0.05;
        all_but_a_seed(fleet, keeps)
    });
}

#[test]
fn all_start_anew_together() {
    everywhere(6, local, |fleet, keeps| {
        let all: Vec<usize> = (0..fleet.nodes.len()).collect();
        fleet.restart(&all, keeps, SECOND);
        "all".into()
    });
}
