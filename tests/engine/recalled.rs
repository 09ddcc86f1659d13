//! Contacts of an earlier run: how a node joins through them, and which it remembers for a later one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::net::{Network, public, seed};
use crate::scripted::reply;
use kadepy::dht::protocol::{Event, Outcome};
use kadepy::wire::seal;
use kadepy::{Config, Contact, Endpoint, NetworkKey, NodeId};

const SECOND: Duration = Duration::from_secs(1);
const MOST: usize = 512;

/// A node that is not there.
fn dead(n: u32) -> Contact {
    let mut id = [0x55; 32];
    id[..4].copy_from_slice(&n.to_be_bytes());
    Contact { id: NodeId(id), endpoint: public(10_000 + n) }
}

/// The node under test, alone, and `others` that have joined a network of their own.
struct Stage {
    network: Network,
    at: Endpoint,
    others: Vec<Contact>,
}

impl Stage {
    fn new(others: u32, config: Config) -> Self {
        let mut network = Network::new(seed(1));
        network.records = true;
        let config = Arc::new(config);
        let contact = |network: &mut Network, n| Contact {
            id: network.add(public(n), &config),
            endpoint: public(n),
        };
        let at = contact(&mut network, 0).endpoint;
        let others: Vec<Contact> = (1..=others).map(|n| contact(&mut network, n)).collect();
        for other in others.iter().skip(1) {
            let seeds = vec![others[0].endpoint];
            network
                .command(other.endpoint, |node, now, out| node.stay_joined(now, seeds, false, out));
        }
        network.run(20 * SECOND);
        network.sent.clear();
        Self { network, at, others }
    }

    fn recall(&mut self, contacts: Vec<Contact>) {
        self.network.command(self.at, |node, now, _| node.recall(now, contacts));
    }

    fn stay_joined(&mut self, seeds: Vec<Endpoint>) {
        self.network.command(self.at, |node, now, out| node.stay_joined(now, seeds, false, out));
    }

    fn find_node(&mut self, timeout: Duration) -> u64 {
        let target = NodeId([0x77; 32]);
        self.network
            .command(self.at, |node, now, out| node.find_node(now, target, Some(timeout), out))
            .expect("there is room")
    }

    fn remembered(&mut self) -> Vec<Contact> {
        self.network.command(self.at, |node, now, _| node.remembered(now, MOST))
    }

    /// So many nodes that know nobody, so that whoever is asked was not named by another.
    fn loners(&mut self, count: u32) -> Vec<Contact> {
        let config = Arc::new(Config::default());
        let endpoints = (300..300 + count).map(public);
        endpoints.map(|at| Contact { id: self.network.add(at, &config), endpoint: at }).collect()
    }

    fn ping(&mut self, to: Endpoint) -> Outcome {
        let op = self
            .network
            .command(self.at, |node, now, out| node.ping(now, to, Some(SECOND), out))
            .expect("there is room");
        self.network.finish(self.at, op)
    }

    /// How often the node sent something to each.
    fn asked(&self) -> BTreeMap<Endpoint, usize> {
        let mut asked = BTreeMap::new();
        for (_, to, _) in self.network.sent.iter().filter(|(from, ..)| *from == self.at) {
            *asked.entry(*to).or_default() += 1;
        }
        asked
    }

    fn contacts(&self) -> usize {
        self.network.nodes[&self.at].table().len()
    }

    fn failures(&self) -> usize {
        let events = self.network.events.get(&self.at).into_iter().flatten();
        events.filter(|event| matches!(event, Event::Alone { .. })).count()
    }
}

#[test]
fn a_lookup_that_begins_at_once_waits_for_the_recalled_contacts() {
    let mut stage = Stage::new(30, Config::default());
    let remembered = stage.others[..3].to_vec();
    stage.recall(remembered);
    let op = stage.find_node(10 * SECOND);
    let Outcome::Nodes(nodes) = stage.network.finish(stage.at, op) else {
        panic!("no nodes");
    };
    assert_eq!(nodes.len(), 20);
    stage.network.run(20 * SECOND);
    assert!(stage.contacts() > 20, "{} contacts", stage.contacts());
}

#[test]
fn where_all_but_the_last_are_dead_a_node_has_joined_within_ten_seconds() {
    let mut stage = Stage::new(30, Config::default());
    let mut contacts: Vec<Contact> = (0..511).map(dead).collect();
    contacts.push(stage.others[4]);
    stage.recall(contacts);
    let op = stage.find_node(10 * SECOND);
    let Outcome::Nodes(nodes) = stage.network.finish(stage.at, op) else {
        panic!("no nodes");
    };
    assert_eq!(nodes.len(), 20);
    assert_eq!(stage.failures(), 0, "it took more than one attempt");
}

#[test]
fn named_seeds_are_asked_at_once_beside_any_number_of_dead_contacts() {
    for recalled_first in [true, false] {
        let mut stage = Stage::new(30, Config::default());
        let named = stage.others[4].endpoint;
        let contacts: Vec<Contact> = (0..512).map(dead).collect();
        if recalled_first {
            stage.recall(contacts);
            stage.network.run(SECOND);
            stage.stay_joined(vec![named]);
        } else {
            stage.stay_joined(vec![named]);
            stage.recall(contacts);
        }
        let op = stage.find_node(SECOND);
        let Outcome::Nodes(nodes) = stage.network.finish(stage.at, op) else {
            panic!("no nodes");
        };
        assert_eq!(nodes.len(), 20);
    }
}

#[test]
fn named_seeds_are_asked_though_recalled_contacts_have_answered() {
    // Two that know nobody else have come back, and the network is elsewhere.
    let mut stage = Stage::new(30, Config::default());
    let island = stage.loners(1);
    stage.recall(island);
    stage.network.run(60 * SECOND);
    assert_eq!(stage.contacts(), 1);
    stage.stay_joined(vec![stage.others[0].endpoint]);
    stage.network.run(60 * SECOND);
    assert!(stage.contacts() > 20, "{} contacts", stage.contacts());
}

#[test]
fn named_seeds_may_change_and_the_recalled_contacts_stay() {
    let mut stage = Stage::new(1, Config::default());
    let alive = stage.others[0];
    stage.network.dead = vec![alive.endpoint];
    stage.recall(vec![alive]);
    stage.stay_joined(vec![dead(1).endpoint]);
    stage.stay_joined(vec![]);
    stage.network.run(60 * SECOND);
    assert_eq!(stage.contacts(), 0);
    stage.network.dead.clear();
    stage.network.run(120 * SECOND);
    assert_eq!(stage.contacts(), 1);
}

#[test]
fn when_k_have_answered_the_recalled_contacts_left_are_not_asked() {
    let mut stage = Stage::new(1, Config::default());
    let alive = stage.loners(200);
    stage.recall(alive.clone());
    stage.network.run(60 * SECOND);
    let asked = stage.asked().len();
    assert!((64..100).contains(&asked), "{asked} were asked");
    // Neither those that were asked nor the others are lost.
    let remembered: BTreeSet<Endpoint> =
        stage.remembered().iter().map(|contact| contact.endpoint).collect();
    let left = alive.iter().filter(|contact| !stage.asked().contains_key(&contact.endpoint));
    assert!(left.clone().all(|contact| remembered.contains(&contact.endpoint)));
    assert_eq!(left.count(), 200 - asked);
}

#[test]
fn named_seeds_are_all_asked_however_many_answer() {
    let mut stage = Stage::new(1, Config::default());
    let alive = stage.loners(200);
    stage.stay_joined(alive.iter().map(|contact| contact.endpoint).collect());
    stage.network.run(60 * SECOND);
    assert_eq!(stage.asked().len(), 200);
}

#[test]
fn with_little_room_for_requests_every_contact_is_asked_all_the_same() {
    let mut stage = Stage::new(1, Config { open_requests: 16, ..Config::default() });
    let contacts: Vec<Contact> = (0..100).map(dead).collect();
    stage.recall(contacts.clone());
    stage.network.run_until(60 * SECOND, |network| {
        let events = network.events.get(&public(0))?;
        events.iter().any(|event| matches!(event, Event::Alone { .. })).then_some(())
    });
    let asked = stage.asked();
    assert!(contacts.iter().all(|contact| asked.contains_key(&contact.endpoint)));
}

#[test]
fn a_node_that_stays_alone_asks_few_of_them_at_a_time() {
    let mut stage = Stage::new(1, Config::default());
    stage.recall((0..512).map(dead).collect());
    stage.network.run(3_600 * SECOND);
    let asked: usize = stage.asked().values().sum();
    // Each twice at first, and then 32 twice in each attempt.
    let most = 2 * 512 + 2 * 32 * (stage.failures() - 1);
    assert!((1_025..=most).contains(&asked), "{asked} questions, at most {most} are in order");
    let waits = stage.failures();
    assert!((50..70).contains(&waits), "{waits} attempts in an hour");
}

#[test]
fn a_run_in_which_nobody_answers_loses_nothing() {
    let mut stage = Stage::new(1, Config::default());
    let mut contacts: Vec<Contact> = (0..512).map(dead).collect();
    contacts[7].endpoint = "[2001:db8::7]:4000".parse::<std::net::SocketAddr>().unwrap().into();
    stage.recall(contacts.clone());
    stage.network.run(3_600 * SECOND);
    assert_eq!(stage.remembered(), contacts);
}

#[test]
fn those_that_answered_last_are_remembered_first() {
    let mut stage = Stage::new(40, Config::default());
    let all = stage.others.clone();
    stage.recall(all);
    stage.network.run(60 * SECOND);
    // In several buckets, and out of their order.
    let mut listed: Vec<Contact> =
        stage.network.nodes[&stage.at].table().entries().map(|entry| entry.contact).collect();
    listed.sort_by_key(|contact| contact.id.0[31]);
    assert!(listed.len() > 20, "{} contacts", listed.len());
    for contact in &listed {
        assert!(matches!(stage.ping(contact.endpoint), Outcome::Pong(_)));
    }
    listed.reverse();
    assert_eq!(stage.remembered()[..listed.len()], listed);
}

#[test]
fn silent_ones_are_remembered_behind_all_others_for_a_day() {
    let mut stage = Stage::new(1, Config::default());
    let alive = stage.others[0];
    stage.recall(vec![dead(1), alive, dead(2)]);
    stage.network.run(60 * SECOND);
    assert_eq!(stage.remembered(), [alive, dead(1), dead(2)]);
    stage.network.run(25 * 3_600 * SECOND);
    assert_eq!(stage.remembered(), [alive]);
}

#[test]
fn one_that_left_a_question_open_is_remembered_behind_those_that_did_not() {
    let mut stage = Stage::new(3, Config::default());
    let all = stage.others.clone();
    stage.recall(all);
    stage.network.run(60 * SECOND);
    let late = *stage.remembered().last().expect("three are remembered");
    assert!(matches!(stage.ping(late.endpoint), Outcome::Pong(_)));
    assert_eq!(stage.remembered()[0], late);
    stage.network.run(70 * SECOND);
    stage.network.dead = vec![late.endpoint];
    // Somebody else answers in its name, so it is asked; then something arrives, so that silence is a
    // proof.
    let ping = |sender: NodeId| [&[0], &sender.0[..]].concat();
    let sent = stage.network.inject(public(999), stage.at, &ping(late.id));
    let (_, question) = sent.iter().find(|(_, datagram)| datagram[0] == 0).expect("a PING");
    stage.network.inject(public(999), stage.at, &reply(late.id, question, &[], None));
    stage.network.run(3 * SECOND / 2);
    stage.network.inject(public(998), stage.at, &ping(dead(1).id));
    stage.network.run(3 * SECOND / 2);
    stage.network.run(5 * SECOND);
    assert!(stage.network.nodes[&stage.at].table().get(&late.id).is_some());
    assert_eq!(stage.remembered()[2], late);
}

#[test]
fn no_more_are_remembered_than_wanted_and_none_twice() {
    let mut stage = Stage::new(30, Config::default());
    let all = stage.others.clone();
    stage.recall(all.iter().copied().chain((0..10).map(dead)).collect());
    // In the middle of the join, some are listed and still to be sorted out.
    stage.network.run(SECOND / 2);
    assert!(stage.contacts() > 10, "{} contacts", stage.contacts());
    let remembered = stage.remembered();
    let distinct: BTreeSet<Endpoint> = remembered.iter().map(|contact| contact.endpoint).collect();
    assert_eq!((remembered.len(), distinct.len()), (40, 40));
    let few = stage.network.command(stage.at, |node, now, _| node.remembered(now, 7));
    assert_eq!(few, remembered[..7]);
}

#[test]
fn contacts_that_this_node_cannot_reach_hold_no_lookup_up() {
    let mut stage = Stage::new(1, Config::default());
    let v6 = "[2001:db8::1]:4000".parse::<std::net::SocketAddr>().unwrap().into();
    let contact = Contact { endpoint: v6, ..dead(1) };
    stage.recall(vec![contact]);
    let op = stage.find_node(60 * SECOND);
    assert_eq!(stage.network.take_outcome(stage.at, op), Some(Outcome::Nodes(vec![])));
    assert_eq!(stage.remembered(), [contact]);
    assert!(stage.asked().is_empty());
}

#[test]
fn who_enters_a_private_network_forgets_the_contacts_of_the_public_one() {
    let mut stage = Stage::new(1, Config::default());
    stage.recall(vec![dead(1)]);
    let key = NetworkKey::new(&[7; 32]).expect("32 bytes");
    stage.network.enter(stage.at, &seal::Network::Sealed { key, older: vec![] });
    assert_eq!(stage.remembered(), []);
}
