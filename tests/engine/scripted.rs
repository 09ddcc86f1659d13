//! One engine among peers that a script plays, step by step on virtual time: liars, latecomers, nodes
//! that move, and caps that are reached.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::net::{Network, public, seed};
use kadepy::dht::protocol::{Outcome, SeedState};
use kadepy::dht::requests::Question;
use kadepy::wire::message::{Body, Contact, Kind, Message, Trailer};
use kadepy::wire::native::{self, Lists};
use kadepy::{Config, Endpoint, Legacy, NodeId};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const TOPIC: NodeId = NodeId([0x77; 32]);

/// An id that differs from `id` in bit `bit` and in its last byte.
fn near(id: NodeId, bit: usize, salt: u8) -> NodeId {
    let mut near = id.with_flipped_bit(bit);
    near.0[31] ^= salt;
    near
}

pub fn bytes(message: &Message<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    native::encode(message, native::MAX_SENT, 0, &mut bytes).expect("it fits");
    bytes
}

fn ping(sender: NodeId) -> Vec<u8> {
    bytes(&Message::new(sender, Body::Ping, None))
}

/// The answer of the node `sender` to a request.
pub fn reply(sender: NodeId, request: &[u8], nodes: &[Contact], token: Option<&[u8]>) -> Vec<u8> {
    let mut lists = Lists::default();
    let request = native::decode(request, &mut lists).expect("a node sends what decodes");
    let body = match request.body {
        Body::Ping => Body::Pong,
        Body::FindNode { .. } | Body::GetPeers { .. } => Body::FoundNodes,
        Body::AnnouncePeer { topic, .. } => Body::Announced { topic },
        other => panic!("no request: {other:?}"),
    };
    let trailer = Trailer { txid: request.txid(), token, ..Trailer::default() };
    bytes(&Message { nodes, ..Message::new(sender, body, Some(trailer)) })
}

/// The node under test and everything around it.
pub struct Stage {
    pub network: Network,
    pub at: Endpoint,
    pub own: NodeId,
}

impl Stage {
    pub fn new(config: Config) -> Self {
        Self::bound_to(public(1), config)
    }

    pub fn bound_to(at: Endpoint, config: Config) -> Self {
        let mut network = Network::new(seed(1));
        network.records = true;
        let own = network.add(at, &Arc::new(config));
        Self { network, at, own }
    }

    /// What the node has sent to `to` since the last call.
    pub fn sent(&mut self, to: Endpoint) -> Vec<Vec<u8>> {
        let all = std::mem::take(&mut self.network.sent);
        let (mine, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, at, _)| *at == to);
        self.network.sent = rest;
        mine.into_iter().map(|(.., datagram)| datagram).collect()
    }

    pub fn inject(&mut self, from: Endpoint, datagram: &[u8]) -> Vec<(Endpoint, Vec<u8>)> {
        self.network.inject(from, self.at, datagram)
    }

    /// Has the node list a contact that it has a place for.
    pub fn list(&mut self, contact: Contact) {
        self.meet(contact);
        assert!(self.is_reliable(&contact.id));
    }

    /// Has the node ask a contact, which answers.
    fn meet(&mut self, contact: Contact) {
        let Contact { id, endpoint } = contact;
        self.network
            .command(self.at, |node, now, out| node.ping(now, endpoint, None, out))
            .expect("there is room");
        let question = self.sent(endpoint).pop().expect("a PING");
        self.inject(endpoint, &reply(id, &question, &[], None));
    }

    fn is_reliable(&self, id: &NodeId) -> bool {
        self.network.nodes[&self.at].table().get(id).is_some_and(|entry| entry.is_reliable())
    }

    pub fn find_node(&mut self, target: NodeId) -> u64 {
        self.network
            .command(self.at, |node, now, out| node.find_node(now, target, None, out))
            .expect("there is room")
    }

    pub fn outcome(&mut self, op: u64) -> Option<Outcome> {
        self.network.take_outcome(self.at, op)
    }
}

#[test]
fn an_answer_that_names_twenty_ids_at_one_address_aims_two_queries_at_it() {
    let mut stage = Stage::new(Config::default());
    let (liar, victim) = (public(2), public(3));
    stage
        .network
        .command(stage.at, |node, now, out| node.join(now, vec![liar], false, None, out))
        .unwrap();
    let question = stage.sent(liar).remove(0);
    let nodes: Vec<Contact> =
        (1..=20).map(|salt| Contact { id: near(stage.own, 3, salt), endpoint: victim }).collect();
    stage.inject(liar, &reply(NodeId([9; 32]), &question, &nodes, None));
    stage.network.run(60 * SECOND);
    assert_eq!(stage.sent(victim).len(), 2);
}

#[test]
fn ids_made_up_near_the_own_one_start_no_crowd_of_refreshes() {
    let mut stage = Stage::new(Config::default());
    let own = stage.own;
    for salt in 1..=30 {
        let endpoint = public(100 + u32::from(salt));
        stage.meet(Contact { id: near(own, 245, salt), endpoint });
    }
    stage.network.run(900 * SECOND + 100 * MS);
    let stats = stage.network.nodes[&stage.at].stats(stage.network.now);
    assert_eq!((stats.contacts, stats.lookups_active), (20, 1), "one refresh at a time");
}

#[test]
fn a_contact_that_answered_since_is_not_silent_because_a_repetition_is_lost() {
    let mut stage = Stage::new(Config::default());
    let contact = Contact { id: near(stage.own, 2, 1), endpoint: public(2) };
    stage.list(contact);
    stage.find_node(NodeId([5; 32]));
    let question = stage.sent(contact.endpoint).remove(0);
    stage.network.run(60 * MS);
    assert_eq!(stage.sent(contact.endpoint).len(), 1, "the repetition");
    stage.network.run(5 * MS);
    stage.inject(contact.endpoint, &reply(contact.id, &question, &[], None));
    stage.network.run(SECOND);
    stage.inject(public(7), &ping(NodeId([8; 32])));
    stage.network.run(3 * SECOND);
    assert!(stage.is_reliable(&contact.id));
}

#[test]
fn a_seed_that_answered_late_has_answered() {
    let mut stage = Stage::new(Config::default());
    let endpoint = public(2);
    let op = stage
        .network
        .command(stage.at, |node, now, out| node.join(now, vec![endpoint], false, None, out))
        .unwrap();
    let question = stage.sent(endpoint).remove(0);
    stage.network.run(1_200 * MS);
    assert_eq!(stage.sent(endpoint).len(), 1, "the repetition");
    let own = stage.own;
    let dead: Vec<Contact> = (1..=20)
        .map(|salt| Contact { id: near(own, 3, salt), endpoint: public(50 + u32::from(salt)) })
        .collect();
    stage.inject(endpoint, &reply(NodeId([9; 32]), &question, &dead, None));
    stage.network.run(60 * SECOND);
    let joined = Outcome::Joined { contacts: 1, seeds: vec![(endpoint, SeedState::Answered)] };
    assert_eq!(stage.outcome(op), Some(joined));
}

#[test]
fn an_announce_ends_though_a_nearer_node_turns_up_at_the_last_moment() {
    let mut stage = Stage::new(Config { k: 1, ..Config::default() });
    let nearer = Contact { id: TOPIC.with_flipped_bit(200), endpoint: public(2) };
    let storer = Contact { id: TOPIC.with_flipped_bit(1), endpoint: public(3) };
    stage.list(storer);
    let op = stage
        .network
        .command(stage.at, |node, now, out| node.announce_peer(now, TOPIC, None, None, out))
        .unwrap();
    let question = stage.sent(storer.endpoint).remove(0);
    stage.inject(storer.endpoint, &reply(storer.id, &question, &[nearer], Some(&[1; 16])));
    let mut asked = Vec::new();
    let mut announces = Vec::new();
    while announces.is_empty() {
        stage.network.run(10 * MS);
        asked.extend(stage.sent(nearer.endpoint));
        announces.extend(stage.sent(storer.endpoint));
    }
    assert_eq!(announces[0][0], 4, "ANNOUNCE_PEER");
    stage.inject(nearer.endpoint, &reply(nearer.id, &asked[0], &[], Some(&[2; 16])));
    stage.network.run(SECOND);
    let again = stage.sent(storer.endpoint);
    assert_eq!(again[0].len(), announces[0].len(), "the repetition shows the token too");
    stage.network.run(HOUR);
    assert_eq!(stage.outcome(op), Some(Outcome::Announced(0)));
}

#[test]
fn whoever_holds_a_lookup_until_its_end_does_not_hold_the_announce_back() {
    let mut stage = Stage::new(Config::default());
    let honest = Contact { id: near(TOPIC, 20, 1), endpoint: public(2) };
    let slow = Contact { id: near(TOPIC, 60, 1), endpoint: public(3) };
    stage.list(honest);
    stage.list(slow);
    let op = stage
        .network
        .command(stage.at, |node, now, out| {
            node.announce_peer(now, TOPIC, Some(5_000), Some(10 * SECOND), out)
        })
        .unwrap();
    let question = stage.sent(honest.endpoint).remove(0);
    stage.inject(honest.endpoint, &reply(honest.id, &question, &[], Some(&[1; 16])));
    let told = stage.sent(honest.endpoint).remove(0);
    assert_eq!(told[0], 4, "ANNOUNCE_PEER, while the other is still asked");
    stage.inject(honest.endpoint, &reply(honest.id, &told, &[], None));
    assert_eq!(stage.outcome(op), None);
    stage.network.run(10 * SECOND);
    assert_eq!(stage.outcome(op), Some(Outcome::Announced(1)));
}

#[test]
fn pings_without_a_deadline_end_though_there_is_no_room_to_repeat_them() {
    let mut stage = Stage::new(Config { open_requests: 16, ..Config::default() });
    let ops: Vec<u64> = (0..16)
        .map(|index| {
            let to = public(10 + index);
            stage.network.command(stage.at, |node, now, out| node.ping(now, to, None, out)).unwrap()
        })
        .collect();
    stage.network.run(HOUR);
    for op in ops {
        assert_eq!(stage.outcome(op), Some(Outcome::Silence));
    }
}

#[test]
fn a_thousand_lookups_at_once_find_room_for_their_queries() {
    let alpha = Config::default().alpha;
    let room = 1_000 * alpha + 100;
    let mut stage = Stage::new(Config { open_requests: room, ..Config::default() });
    let own = stage.own;
    for salt in 1..=20 {
        stage.list(Contact { id: near(own, 2, salt), endpoint: public(100 + u32::from(salt)) });
    }
    let ops: Vec<u64> = (0..1_000_u32)
        .map(|index| stage.find_node(NodeId::of_topic(&index.to_be_bytes())))
        .collect();
    stage.network.run(60 * SECOND);
    assert!(ops.into_iter().all(|op| stage.outcome(op) == Some(Outcome::Nodes(vec![]))));
    let stats = stage.network.nodes[&stage.at].stats(stage.network.now);
    let busy = kadepy::dht::protocol::Refusal::Busy as usize;
    assert_eq!(stats.counters.refused[busy], 0);
}

#[test]
fn an_answer_cut_to_the_allowance_is_a_random_sample() {
    let mut stage = Stage::new(Config { legacy: Legacy::Always, ..Config::default() });
    let (asker, id) = (public(2), NodeId([3; 32]));
    for port in 1..=64 {
        let body = Body::AnnouncePeer { topic: TOPIC, port };
        stage.inject(asker, &bytes(&Message::new(id, body, None)));
    }
    let request = bytes(&Message::new(id, Body::GetPeers { topic: TOPIC }, None));
    let mut named = BTreeSet::new();
    for _ in 0..100 {
        let answer = stage.inject(asker, &request).remove(0).1;
        let mut lists = Lists::default();
        let answer = native::decode(&answer, &mut lists).unwrap();
        assert_eq!(answer.peers.len(), 21);
        named.extend(answer.peers.iter().map(Endpoint::port));
    }
    assert_eq!(named.len(), 64);
}

/// What a lookup finds nearest when a liar names `lie` of a node, and then an honest node names it.
fn nearest_beside_a_liar(lie: impl FnOnce(Contact) -> Contact) -> (Contact, Contact) {
    let mut stage = Stage::new(Config::default());
    let contact = |bit, index| Contact { id: TOPIC.with_flipped_bit(bit), endpoint: public(index) };
    let (honest, liar, wanted) = (contact(2, 5), contact(3, 6), contact(100, 7));
    stage.list(honest);
    stage.list(liar);
    let op = stage.find_node(TOPIC);
    for (who, named) in [(liar, lie(wanted)), (honest, wanted)] {
        let question = stage.sent(who.endpoint).remove(0);
        stage.inject(who.endpoint, &reply(who.id, &question, &[named], None));
    }
    loop {
        match stage.outcome(op) {
            Some(Outcome::Nodes(found)) => return (found[0], wanted),
            Some(other) => panic!("a lookup ends as one, not as {other:?}"),
            None => stage.network.run(10 * MS),
        }
        for question in stage.sent(wanted.endpoint) {
            stage.inject(wanted.endpoint, &reply(wanted.id, &question, &[], None));
        }
    }
}

#[test]
fn one_liar_does_not_hide_a_node_by_naming_another_address_for_it() {
    let (found, wanted) =
        nearest_beside_a_liar(|wanted| Contact { endpoint: public(99), ..wanted });
    assert_eq!(found, wanted);
}

#[test]
fn one_liar_does_not_hide_a_node_by_naming_another_id_at_its_address() {
    let (found, wanted) =
        nearest_beside_a_liar(|wanted| Contact { id: near(TOPIC, 120, 7), ..wanted });
    assert_eq!(found, wanted);
}

#[test]
fn an_honest_candidate_is_asked_beside_a_slow_flood_of_ids_near_ours() {
    let mut stage = Stage::new(Config::default());
    let honest = public(5);
    let mut is_asked = false;
    for step in 0..300_u32 {
        for forged in [2 * step, 2 * step + 1] {
            let mut id = stage.own;
            id.0[20..24].copy_from_slice(&(forged + 1).to_be_bytes());
            stage.inject(public(1_000 + forged), &ping(id));
        }
        if step == 20 {
            stage.inject(honest, &ping(stage.own.with_flipped_bit(0)));
        }
        stage.network.run(100 * MS);
        is_asked |= stage.sent(honest).iter().any(|datagram| datagram[0] == 0);
    }
    assert!(is_asked);
}

#[test]
fn lookups_begin_when_a_seed_has_answered_however_long_the_join_takes() {
    let mut stage = Stage::new(Config::default());
    let endpoint = public(2);
    stage
        .network
        .command(stage.at, |node, now, out| node.stay_joined(now, vec![endpoint], false, out));
    let op = stage
        .network
        .command(stage.at, |node, now, out| node.find_node(now, TOPIC, Some(10 * SECOND), out))
        .unwrap();
    let id = NodeId([9; 32]);
    let dead: Vec<Contact> = (1..=20)
        .map(|salt| Contact { id: near(TOPIC, 3, salt), endpoint: public(50 + u32::from(salt)) })
        .collect();
    for _ in 0..30 {
        for question in stage.sent(endpoint) {
            stage.network.run(400 * MS);
            stage.inject(endpoint, &reply(id, &question, &dead, None));
        }
        stage.network.run(400 * MS);
    }
    assert_eq!(stage.outcome(op), Some(Outcome::Nodes(vec![Contact { id, endpoint }])));
}

#[test]
fn an_announce_that_v01_leaves_unanswered_is_no_mark_against_it() {
    let mut stage = Stage::new(Config::default());
    let contact = Contact { id: near(stage.own, 2, 1), endpoint: public(2) };
    stage.list(contact);
    stage.network.command(stage.at, |node, now, out| {
        node.announce_to(now, contact.endpoint, TOPIC, None, out);
    });
    stage.network.run(1_100 * MS);
    let question = stage.sent(contact.endpoint).pop().expect("the repetition");
    stage.inject(contact.endpoint, &reply(contact.id, &question, &[], Some(&[1; 16])));
    assert_eq!(stage.sent(contact.endpoint)[0][0], 4, "ANNOUNCE_PEER");
    stage.network.run(SECOND);
    stage.inject(public(7), &ping(NodeId([8; 32])));
    stage.network.run(5 * SECOND);
    assert!(stage.is_reliable(&contact.id));
}

#[test]
fn a_node_that_moved_is_listed_at_its_new_address_within_minutes() {
    let mut stage = Stage::new(Config::default());
    let old = Contact { id: near(stage.own, 2, 1), endpoint: public(2) };
    let new = Contact { endpoint: public(3), ..old };
    stage.list(old);
    for _ in 0..180 {
        stage.inject(new.endpoint, &ping(new.id));
        for question in stage.sent(new.endpoint).into_iter().filter(|datagram| datagram[0] == 0) {
            stage.inject(new.endpoint, &reply(new.id, &question, &[], None));
        }
        stage.network.run(SECOND);
    }
    let listed = stage.network.nodes[&stage.at].table().get(&new.id).map(|entry| entry.contact);
    assert_eq!(listed, Some(new));
}

#[test]
fn a_question_that_nobody_waits_for_changes_nothing_when_it_is_not_answered() {
    let mut stage = Stage::new(Config::default());
    let contact = Contact { id: near(stage.own, 2, 1), endpoint: public(2) };
    stage.list(contact);
    stage.network.command(stage.at, |node, now, out| {
        node.fire(now, contact.endpoint, Question::Ping, out);
    });
    stage.network.run(HOUR / 12);
    assert!(stage.is_reliable(&contact.id));
}

#[test]
fn whoever_answers_second_under_an_id_does_not_displace_the_first() {
    let mut stage = Stage::new(Config::default());
    let contact = |bit, index| Contact { id: TOPIC.with_flipped_bit(bit), endpoint: public(index) };
    let (honest, liar, wanted) = (contact(2, 5), contact(3, 6), contact(100, 7));
    stage.list(honest);
    stage.list(liar);
    let op = stage.find_node(TOPIC);
    let question = stage.sent(liar.endpoint).remove(0);
    let lie = Contact { endpoint: public(99), ..wanted };
    stage.inject(liar.endpoint, &reply(liar.id, &question, &[lie], None));
    let question = stage.sent(honest.endpoint).remove(0);
    let unknown = contact(90, 8);
    stage.inject(honest.endpoint, &reply(honest.id, &question, &[wanted, unknown], None));
    stage.network.run(10 * MS);
    for at in [wanted.endpoint, lie.endpoint] {
        for question in stage.sent(at) {
            stage.inject(at, &reply(wanted.id, &question, &[], None));
        }
    }
    stage.network.run(60 * SECOND);
    let Some(Outcome::Nodes(found)) = stage.outcome(op) else {
        panic!("a lookup ends as one");
    };
    assert_eq!(found[0], wanted);
}

#[test]
fn a_join_goes_on_through_every_seed_that_answers() {
    let mut stage = Stage::new(Config::default());
    let (first, second, far) = (public(2), public(3), public(4));
    let op = stage
        .network
        .command(stage.at, |node, now, out| node.join(now, vec![first, second], false, None, out))
        .unwrap();
    let questions = [stage.sent(first).remove(0), stage.sent(second).remove(0)];
    stage.inject(first, &reply(NodeId([9; 32]), &questions[0], &[], None));
    stage.network.run(20 * MS);
    assert_eq!(stage.outcome(op), None, "the second has its short wait");
    let listed = Contact { id: near(stage.own, 3, 1), endpoint: far };
    stage.inject(second, &reply(NodeId([8; 32]), &questions[1], &[listed], None));
    let question = stage.sent(far).remove(0);
    stage.inject(far, &reply(listed.id, &question, &[], None));
    stage.network.run(60 * SECOND);
    let Some(Outcome::Joined { contacts, .. }) = stage.outcome(op) else {
        panic!("a join ends as one");
    };
    assert_eq!(contacts, 3);
}

#[test]
fn a_ping_at_the_cap_takes_an_answer_to_its_repetition() {
    let mut stage = Stage::new(Config { open_requests: 16, ..Config::default() });
    let to = public(9);
    let ping = |stage: &mut Stage, to| {
        stage.network.command(stage.at, |node, now, out| node.ping(now, to, None, out)).unwrap()
    };
    let op = ping(&mut stage, to);
    stage.network.run(500 * MS);
    for index in 0..15 {
        ping(&mut stage, public(10 + index));
    }
    stage.network.run(550 * MS);
    let question = stage.sent(to).pop().expect("the repetition");
    stage.inject(to, &reply(NodeId([9; 32]), &question, &[], None));
    assert!(matches!(stage.outcome(op), Some(Outcome::Pong(_))));
}

#[test]
fn a_ping_for_which_there_is_no_room_waits_for_it() {
    let mut stage = Stage::new(Config { open_requests: 16, ..Config::default() });
    for index in 0..17 {
        let to = public(10 + index);
        let ping = stage.network.command(stage.at, |node, now, out| node.ping(now, to, None, out));
        assert!(ping.is_ok());
    }
    let last = public(26);
    assert_eq!(stage.sent(last), Vec::<Vec<u8>>::new());
    let question = stage.sent(public(10)).remove(0);
    stage.inject(public(10), &reply(NodeId([9; 32]), &question, &[], None));
    assert_eq!(stage.sent(last).len(), 1, "an answer makes room");
}

#[test]
fn a_forged_move_of_a_contact_causes_no_ping_to_it_however_long_it_was_silent() {
    for silent in [SECOND, 59 * SECOND, 300 * SECOND, 800 * SECOND] {
        let mut stage = Stage::new(Config::default());
        let contact = Contact { id: near(stage.own, 2, 1), endpoint: public(2) };
        stage.list(contact);
        stage.network.run(silent);
        for forged in 0..100 {
            stage.inject(public(3 + forged), &ping(contact.id));
            stage.network.run(SECOND / 10);
        }
        assert_eq!(stage.sent(contact.endpoint), Vec::<Vec<u8>>::new(), "after {silent:?}");
    }
}

/// Whoever sends from made-up addresses has each of them asked, at the rate of any stranger's.
#[test]
fn forged_moves_of_many_contacts_cause_few_questions() {
    let mut stage = Stage::new(Config::default());
    let contacts: Vec<Contact> = (0..40)
        .map(|n| Contact {
            id: near(stage.own, n as usize / 10, n),
            endpoint: public(100 + u32::from(n)),
        })
        .collect();
    contacts.iter().for_each(|contact| stage.list(*contact));
    stage.network.sent.clear();
    for round in 0..10 {
        for (at, contact) in contacts.iter().enumerate() {
            stage.inject(public(1_000 + round * 40 + at as u32), &ping(contact.id));
        }
        stage.network.run(SECOND / 10);
    }
    let is_question = |datagram: &[u8]| datagram[0] == Kind::Ping as u8;
    let asked: Vec<Endpoint> = stage
        .network
        .sent
        .iter()
        .filter(|(from, _, datagram)| *from == stage.at && is_question(datagram))
        .map(|(_, to, _)| *to)
        .collect();
    assert!(asked.iter().all(|to| contacts.iter().all(|contact| contact.endpoint != *to)));
    // Each is asked once more where it stays silent.
    assert!((1..=32).contains(&asked.len()), "{} were asked in a second", asked.len());
}

#[test]
fn a_lookup_takes_no_more_peers_than_its_cap() {
    let mut stage = Stage::new(Config { lookup_peers: 10, ..Config::default() });
    let contact = Contact { id: near(TOPIC, 2, 1), endpoint: public(2) };
    stage.list(contact);
    let op = stage
        .network
        .command(stage.at, |node, now, out| node.get_peers(now, TOPIC, None, out))
        .unwrap();
    let question = stage.sent(contact.endpoint).remove(0);
    let mut lists = Lists::default();
    let txid = native::decode(&question, &mut lists).unwrap().txid();
    let peers: Vec<Endpoint> = (1..=30).map(public).collect();
    let trailer = Trailer { txid, ..Trailer::default() };
    let body = Body::Peers { topic: TOPIC };
    let answer = Message { peers: &peers, ..Message::new(contact.id, body, Some(trailer)) };
    stage.inject(contact.endpoint, &bytes(&answer));
    assert_eq!(stage.network.peers(stage.at, op).len(), 10);
}

#[test]
fn a_node_that_waits_for_a_place_is_not_asked_again_when_it_asks() {
    let mut stage = Stage::new(Config { k: 1, ..Config::default() });
    let contact =
        |salt| Contact { id: near(stage.own, 0, salt), endpoint: public(10 + u32::from(salt)) };
    let (listed, waiting) = (contact(1), contact(2));
    stage.list(listed);
    stage.meet(waiting);
    assert!(!stage.is_reliable(&waiting.id), "it has no place");
    let answers = stage.inject(waiting.endpoint, &ping(waiting.id));
    assert_eq!(answers.len(), 1, "a PONG alone: two such nodes would ask each other for ever");
}
