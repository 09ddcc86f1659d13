//! Engines under a network key: private networks work like public ones, and who does not hold the key
//! gets nothing out of a node and nothing into it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::net::{Network, local, public, seed};
use kadepy::dht::protocol::{Event, Outcome, Refusal, Stats, Warning};
use kadepy::wire::message::{Body, Contact, Message, Trailer, TxId};
use kadepy::wire::native::{self, Lists, MAX_PAYLOAD, MAX_READ, MAX_SENT};
use kadepy::wire::seal::{self, NetworkKey, Seal};
use kadepy::{Config, Endpoint, Legacy, NodeId};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const TIMEOUT: Option<Duration> = Some(Duration::from_secs(10));
const TOPIC: NodeId = NodeId([0x77; 32]);
/// The sender of what a script sends.
const SENDER: NodeId = NodeId([0x33; 32]);

fn key(number: u8) -> NetworkKey {
    NetworkKey::new(&[number; 32]).expect("32 bytes, not all zero")
}

fn sealed(number: u8) -> seal::Network {
    seal::Network::Sealed { key: key(number), older: Vec::new() }
}

fn chacha20(number: u8) -> seal::Network {
    seal::Network::ChaCha20(key(number))
}

/// An IPv6 address on the open Internet, each in a network of its own.
fn public6(index: u32) -> Endpoint {
    Endpoint::new([0x2a00, index as u16, 0, 0, 0, 0, 0, 1], 4_000)
}

fn bytes(message: &Message<'_>, pad_to: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    native::encode(message, native::MAX_SENT, pad_to, &mut bytes).expect("it fits");
    bytes
}

fn v01(body: Body<'_>) -> Vec<u8> {
    bytes(&Message::new(SENDER, body, None), 0)
}

fn with_txid(body: Body<'_>, token: Option<&[u8]>, pad_to: usize) -> Vec<u8> {
    let trailer = Trailer { txid: Some(TxId([7; 8])), token, ..Trailer::default() };
    bytes(&Message::new(SENDER, body, Some(trailer)), pad_to)
}

/// A packet of every type, as v0.1 writes it and with a transaction id.
fn every_packet() -> Vec<Vec<u8>> {
    let bodies = [
        Body::Ping,
        Body::Pong,
        Body::FindNode { target: TOPIC },
        Body::FoundNodes,
        Body::AnnouncePeer { topic: TOPIC, port: 80 },
        Body::GetPeers { topic: TOPIC },
        Body::Peers { topic: TOPIC },
        Body::Announced { topic: TOPIC },
        Body::Error { code: 1, text: "no" },
        Body::Application { kind: 16, payload: &[0; 500] },
    ];
    bodies.into_iter().flat_map(|body| [v01(body), with_txid(body, None, 416)]).collect()
}

/// A sealing hand outside of any node.
fn hand(network: &seal::Network) -> Seal {
    Seal::new(network, Network::new(seed(99)).random())
}

fn datagram(hand: &mut Seal, packet: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    hand.append(&mut out, |out| {
        out.extend_from_slice(packet);
        Some(packet.len())
    })
    .expect("neither too short nor too long");
    out
}

/// A node in a private network, and a member of it that a script plays.
struct Stage {
    network: Network,
    at: Endpoint,
    own: NodeId,
    member: Seal,
}

impl Stage {
    fn new(private: &seal::Network) -> Self {
        Self::with(private, public(1), Config::default())
    }

    fn with(private: &seal::Network, at: Endpoint, config: Config) -> Self {
        let mut network = Network::new(seed(1));
        network.records = true;
        let own = network.add(at, &Arc::new(config));
        network.enter(at, private);
        Self { network, at, own, member: hand(private) }
    }

    /// What the node has sent to `to` since the last call, as it came.
    fn sent(&mut self, to: Endpoint) -> Vec<Vec<u8>> {
        let all = std::mem::take(&mut self.network.sent);
        let (mine, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, at, _)| *at == to);
        self.network.sent = rest;
        mine.into_iter().map(|(.., datagram)| datagram).collect()
    }

    /// Lets a datagram arrive as it is; gives what the node sends at once, as it comes.
    fn inject(&mut self, from: Endpoint, datagram: &[u8]) -> Vec<(Endpoint, Vec<u8>)> {
        self.network.inject(from, self.at, datagram)
    }

    /// Lets a member's packet arrive; gives the packets that the node sends at once.
    fn tell(&mut self, from: Endpoint, packet: &[u8]) -> Vec<(Endpoint, Vec<u8>)> {
        let datagram = self.seal(packet);
        let sent = self.inject(from, &datagram);
        sent.into_iter().map(|(to, datagram)| (to, self.open(&datagram))).collect()
    }

    fn seal(&mut self, packet: &[u8]) -> Vec<u8> {
        datagram(&mut self.member, packet)
    }

    fn open(&self, datagram: &[u8]) -> Vec<u8> {
        let mut datagram = datagram.to_vec();
        self.member.open(&mut datagram).expect("a member opens what a node sends").to_vec()
    }

    /// The answer of the node `sender` to a request that the node under test has sent.
    fn reply(&mut self, sender: NodeId, request: &[u8]) -> Vec<u8> {
        let request = self.open(request);
        let mut lists = Lists::default();
        let request = native::decode(&request, &mut lists).expect("a node sends what decodes");
        let body = match request.body {
            Body::Ping => Body::Pong,
            Body::FindNode { .. } | Body::GetPeers { .. } => Body::FoundNodes,
            other => panic!("no request to answer: {other:?}"),
        };
        let trailer = Trailer { txid: request.txid(), ..Trailer::default() };
        let reply = bytes(&Message::new(sender, body, Some(trailer)), 0);
        self.seal(&reply)
    }

    /// Has the node ping a contact; gives the operation and the PING.
    fn ping(&mut self, to: Endpoint) -> (u64, Vec<u8>) {
        let op = self
            .network
            .command(self.at, |node, now, out| node.ping(now, to, None, out))
            .expect("there is room");
        (op, self.sent(to).pop().expect("a PING"))
    }

    /// Has the node ask a contact, which answers.
    fn meet(&mut self, contact: Contact) {
        let (_, question) = self.ping(contact.endpoint);
        let pong = self.reply(contact.id, &question);
        self.inject(contact.endpoint, &pong);
    }

    fn outcome(&mut self, op: u64) -> Option<Outcome> {
        self.network.take_outcome(self.at, op)
    }

    fn stats(&self) -> Stats {
        self.network.nodes[&self.at].stats(self.network.now)
    }

    fn refused(&self, refusal: Refusal) -> u64 {
        self.stats().counters.refused[refusal as usize]
    }

    /// What the node knows and keeps, without what it counts.
    fn memory(&self) -> (Vec<(Contact, kadepy::Time)>, usize, usize) {
        let entries = self.network.nodes[&self.at].table().entries();
        let stats = self.stats();
        (entries.map(|entry| (entry.contact, entry.seen())).collect(), stats.topics, stats.records)
    }

    fn has_told(&self) -> bool {
        self.network.events.get(&self.at).is_some_and(|events| !events.is_empty())
    }

    /// The token for `topic` that the node gives to `from`.
    fn token(&mut self, from: Endpoint, topic: NodeId) -> Vec<u8> {
        let sent = self.tell(from, &with_txid(Body::GetPeers { topic }, None, 416));
        let mut lists = Lists::default();
        let answer = native::decode(&sent[0].1, &mut lists).expect("a node sends what decodes");
        answer.trailer.and_then(|trailer| trailer.token).expect("a token").to_vec()
    }

    /// Has somebody announce itself by the rules; gives the datagram that does it.
    fn announce(&mut self, from: Endpoint) -> Vec<u8> {
        let token = self.token(from, TOPIC);
        let body = Body::AnnouncePeer { topic: TOPIC, port: 80 };
        let announce = self.seal(&with_txid(body, Some(&token), 0));
        let answer = self.inject(from, &announce).remove(0).1;
        assert_eq!(self.open(&answer)[0], 7, "ANNOUNCED");
        announce
    }
}

// Members among themselves

/// A node of `private` at each address, joined through those of `seeds`.
fn join(network: &mut Network, private: &seal::Network, at: &[Endpoint], seeds: &[Endpoint]) {
    let config = Arc::new(Config::default());
    for &at in at {
        network.add(at, &config);
        network.enter(at, private);
    }
    for &at in at {
        let seeds = seeds.iter().copied().filter(|seed| *seed != at).collect();
        network.command(at, |node, now, out| node.stay_joined(now, seeds, false, out));
    }
    network.run(30 * SECOND);
}

fn find_node(network: &mut Network, at: Endpoint, target: NodeId) -> Vec<NodeId> {
    let op = network
        .command(at, |node, now, out| node.find_node(now, target, TIMEOUT, out))
        .expect("there is room for an operation");
    let Outcome::Nodes(found) = network.finish(at, op) else {
        panic!("a lookup ends as one");
    };
    found.iter().map(|node| node.id).collect()
}

/// How many nodes store the announce.
fn announce(network: &mut Network, at: Endpoint, topic: NodeId) -> usize {
    let op = network
        .command(at, |node, now, out| node.announce_peer(now, topic, Some(80), TIMEOUT, out))
        .expect("there is room for an operation");
    let Outcome::Announced(count) = network.finish(at, op) else {
        panic!("an announce ends as one");
    };
    count
}

fn get_peers(network: &mut Network, at: Endpoint, topic: NodeId) -> Vec<Endpoint> {
    let op = network
        .command(at, |node, now, out| node.get_peers(now, topic, TIMEOUT, out))
        .expect("there is room for an operation");
    network.finish(at, op);
    network.peers(at, op)
}

fn ping(network: &mut Network, at: Endpoint, to: Endpoint) -> Outcome {
    let op = network
        .command(at, |node, now, out| node.ping(now, to, TIMEOUT, out))
        .expect("there is room for an operation");
    network.finish(at, op)
}

#[test]
fn members_join_announce_find_peers_and_look_each_other_up() {
    for private in [sealed(1), chacha20(1)] {
        let mut network = Network::new(seed(2));
        let all: Vec<Endpoint> = (0..30).map(public).collect();
        join(&mut network, &private, &all, &all[..1]);
        assert_eq!(announce(&mut network, all[3], TOPIC), 20);
        let mut exact = 0;
        for &at in all.iter().step_by(3) {
            assert_eq!(get_peers(&mut network, at, TOPIC), [all[3].with_port(80)]);
            let target = NodeId(network.random());
            let truth = network.truth(&target, at, 20);
            exact += usize::from(find_node(&mut network, at, target) == truth);
        }
        // As in public networks, a node may be in nobody's full bucket.
        assert!(exact >= 8, "only {exact} of 10 lookups were exact");
    }
}

#[test]
fn networks_that_are_told_of_each_other_do_not_mix() {
    let on_a_lan = |index| local(index as u8);
    let places: [fn(u32) -> Endpoint; 2] = [public, on_a_lan];
    for place in places {
        let mut network = Network::new(seed(3));
        let all: Vec<Endpoint> = (1..=24).map(place).collect();
        let groups = [sealed(1), sealed(2), seal::Network::Public];
        for (private, at) in groups.iter().zip(all.chunks(8)) {
            join(&mut network, private, at, &all);
        }
        network.run(120 * SECOND);
        for at in all.chunks(8) {
            let ids: BTreeSet<NodeId> = at.iter().map(|at| network.nodes[at].id()).collect();
            for at in at {
                let entries = network.nodes[at].table().entries();
                let known: BTreeSet<NodeId> = entries.map(|entry| entry.contact.id).collect();
                assert!(known.is_subset(&ids));
                assert_eq!(known.len(), 7, "all others of the own network");
            }
            assert_eq!(announce(&mut network, at[0], TOPIC), 7);
        }
        for group in all.chunks(8) {
            for &at in group {
                assert_eq!(get_peers(&mut network, at, TOPIC), [group[0].with_port(80)]);
                let target = NodeId(network.random());
                assert_eq!(find_node(&mut network, at, target).len(), 7);
            }
        }
    }
}

#[test]
fn a_key_can_be_set_on_a_running_node_and_taken_off_again() {
    let (at, member, anybody) = (public(1), public(2), public(3));
    for private in [sealed(1), chacha20(1)] {
        let mut network = Network::new(seed(4));
        let config = Arc::new(Config::default());
        for at in [at, member, anybody] {
            network.add(at, &config);
        }
        network.enter(member, &private);
        for (own, friend, other) in [
            (&seal::Network::Public, anybody, member),
            (&private, member, anybody),
            (&seal::Network::Public, anybody, member),
        ] {
            network.enter(at, own);
            assert!(matches!(ping(&mut network, at, friend), Outcome::Pong(_)));
            assert!(matches!(ping(&mut network, friend, at), Outcome::Pong(_)));
            assert_eq!(ping(&mut network, at, other), Outcome::Silence);
        }
    }
}

#[test]
fn between_a_public_and_a_private_network_a_node_forgets_whom_it_knows_and_what_it_stores() {
    let (at, member) = (public(1), public(2));
    for private in [sealed(1), chacha20(1)] {
        let mut network = Network::new(seed(7));
        join(&mut network, &private, &[at, member], &[member]);
        assert_eq!(announce(&mut network, member, TOPIC), 1);
        let held = |network: &Network| {
            let stats = network.nodes[&at].stats(network.now);
            (stats.contacts, stats.records)
        };
        assert_eq!(held(&network), (1, 1));
        network.enter(at, &seal::Network::Public);
        assert_eq!(held(&network), (0, 0));
    }
}

#[test]
fn a_change_of_keys_node_by_node_never_splits_the_network() {
    let mut network = Network::new(seed(5));
    let all: Vec<Endpoint> = (0..8).map(public).collect();
    join(&mut network, &sealed(1), &all, &all[..1]);
    let steps = [
        seal::Network::Sealed { key: key(1), older: vec![key(2)] },
        seal::Network::Sealed { key: key(2), older: vec![key(1)] },
        sealed(2),
    ];
    for (step, private) in steps.iter().enumerate() {
        for (index, &at) in all.iter().enumerate() {
            network.enter(at, private);
            let topic = NodeId::of_topic(&[step as u8, index as u8]);
            let other = all[(index + 3) % all.len()];
            for (announcer, asker) in [(at, other), (other, at)] {
                assert_eq!(announce(&mut network, announcer, topic), 7);
                assert!(get_peers(&mut network, asker, topic).contains(&announcer.with_port(80)));
            }
        }
    }
}

#[test]
fn the_longest_application_message_arrives_under_any_key() {
    for private in [sealed(1), chacha20(1)] {
        let (a, b) = (public(1), public(2));
        let mut network = Network::new(seed(6));
        let config = Arc::new(Config::default());
        for at in [a, b] {
            network.add(at, &config);
            network.enter(at, &private);
        }
        network.command(b, |node, _, _| node.observe(true));
        let id = network.nodes[&a].id();
        let payload = [5; MAX_PAYLOAD];
        network.command(a, |node, _, out| node.send(b, 16, &payload, out)).unwrap();
        network.run(SECOND);
        let packet = [&[16][..], &id.0, &payload].concat().into();
        assert_eq!(network.events[&b], [Event::Packet { from: a, packet }]);
    }
}

// Strangers

#[test]
fn a_stranger_gets_no_answer_and_leaves_nothing_but_one_count_and_one_warning() {
    let mut stage = Stage::new(&sealed(1));
    stage.network.command(stage.at, |node, _, _| node.observe(true));
    let before = stage.memory();
    let strangers = [seal::Network::Public, sealed(2), chacha20(1), chacha20(2)];
    for (index, stranger) in strangers.iter().enumerate() {
        let mut hand = hand(stranger);
        for packet in every_packet() {
            let datagram = datagram(&mut hand, &packet);
            for from in [public(2 + index as u32), local(2 + index as u8)] {
                let mut expected = stage.stats();
                expected.counters.bytes_in += datagram.len() as u64;
                expected.counters.refused[Refusal::Unopened as usize] += 1;
                assert_eq!(stage.inject(from, &datagram), []);
                assert_eq!(format!("{:?}", stage.stats()), format!("{expected:?}"));
            }
        }
    }
    stage.network.run(10 * SECOND);
    assert_eq!(stage.network.sent, []);
    assert_eq!(stage.memory(), before);
    let told = stage.network.events.remove(&stage.at).unwrap_or_default();
    assert!(matches!(told[..], [Event::Warning(Warning::Unopened(_))]), "{told:?}");
}

#[test]
fn noise_of_any_length_up_to_1280_is_one_count_and_above_it_another() {
    for private in [sealed(1), sealed(2)] {
        let mut stage = Stage::new(&private);
        let lengths = [0, 1, 32, 33, 72, 73, 74, 1_200, MAX_READ];
        for len in lengths {
            assert_eq!(stage.inject(public(2), &vec![9; len]), []);
        }
        assert_eq!(stage.refused(Refusal::Unopened), lengths.len() as u64);
        for len in [MAX_READ + 1, 65_507] {
            assert_eq!(stage.inject(public(2), &vec![9; len]), []);
        }
        assert_eq!(stage.refused(Refusal::Unopened), lengths.len() as u64);
        assert_eq!(stage.refused(Refusal::Oversize), 2);
    }
}

#[test]
fn a_sealed_request_with_any_byte_changed_gets_no_answer() {
    let mut stage = Stage::new(&sealed(1));
    let request = stage.seal(&with_txid(Body::FindNode { target: TOPIC }, None, 0));
    for at in 0..request.len() {
        let mut changed = request.clone();
        changed[at] ^= 1 << (at % 8);
        assert_eq!(stage.inject(public(2), &changed), []);
    }
    assert_eq!(stage.refused(Refusal::Unopened), request.len() as u64);
    assert!(!stage.inject(public(2), &request).is_empty());
}

/// How many contacts a node has before and after a while in which none of them answers its queries,
/// and all that arrives is PINGs of a node of `noise`.
fn contacts_left(noise: &seal::Network) -> (usize, usize) {
    let mut stage = Stage::new(&sealed(1));
    for index in 0..3 {
        let id = NodeId(stage.network.random());
        stage.meet(Contact { id, endpoint: public(10 + index) });
    }
    let before = stage.stats().contacts;
    let mut hand = hand(noise);
    for _ in 0..10 {
        let target = NodeId(stage.network.random());
        stage
            .network
            .command(stage.at, |node, now, out| node.find_node(now, target, TIMEOUT, out))
            .expect("there is room for an operation");
        for _ in 0..20 {
            stage.network.run(200 * MS);
            let datagram = datagram(&mut hand, &v01(Body::Ping));
            stage.inject(public(999), &datagram);
        }
    }
    (before, stage.stats().contacts)
}

#[test]
fn silence_proves_nothing_while_only_strangers_send() {
    for stranger in [seal::Network::Public, sealed(2), chacha20(1)] {
        assert_eq!(contacts_left(&stranger), (3, 3));
    }
    assert_eq!(contacts_left(&sealed(1)), (3, 0), "where a member sends it proves much");
}

// Recorded datagrams

#[test]
fn a_repeated_request_is_answered_once_more_and_changes_nothing() {
    let mut stage = Stage::new(&sealed(1));
    let from = public(2);
    stage.announce(public(3));
    for body in [Body::Ping, Body::FindNode { target: TOPIC }, Body::GetPeers { topic: TOPIC }] {
        let request = stage.seal(&with_txid(body, None, 416));
        stage.inject(from, &request);
        let before = stage.memory();
        let again = stage.inject(from, &request);
        assert_eq!(again.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [from]);
        assert_eq!(stage.memory(), before);
    }
}

#[test]
fn a_repeated_announce_stores_nothing_more() {
    let mut stage = Stage::new(&sealed(1));
    let announce = stage.announce(public(2));
    let before = stage.memory();
    assert_eq!(stage.inject(public(2), &announce).len(), 1);
    assert_eq!(stage.memory(), before);
}

#[test]
fn a_repeated_answer_changes_nothing() {
    let mut stage = Stage::new(&sealed(1));
    let contact = Contact { id: SENDER, endpoint: public(2) };
    let (op, question) = stage.ping(contact.endpoint);
    let pong = stage.reply(contact.id, &question);
    stage.inject(contact.endpoint, &pong);
    assert!(matches!(stage.outcome(op), Some(Outcome::Pong(_))));
    let before = stage.memory();
    stage.network.run(SECOND);
    stage.network.events.clear();
    // Also while the same node is asked something else.
    stage.ping(contact.endpoint);
    for from in [contact.endpoint, public(3), local(3)] {
        assert_eq!(stage.inject(from, &pong), []);
        assert_eq!(stage.memory(), before);
    }
    assert_eq!(stage.refused(Refusal::Unsolicited), 3);
    assert!(!stage.has_told());
}

#[test]
fn a_nodes_own_datagrams_sent_back_to_it_do_nothing() {
    let mut stage = Stage::new(&sealed(1));
    let contact = Contact { id: SENDER, endpoint: public(2) };
    let (op, question) = stage.ping(contact.endpoint);
    let request = stage.seal(&with_txid(Body::FindNode { target: TOPIC }, None, 416));
    let answer = stage.inject(public(3), &request).remove(0).1;
    stage.network.command(stage.at, |node, _, out| node.send(public(4), 16, b"x", out)).unwrap();
    let message = stage.sent(public(4)).remove(0);
    let before = stage.memory();
    for datagram in [&question, &answer, &message] {
        for from in [contact.endpoint, public(3), local(3), stage.at] {
            assert_eq!(stage.inject(from, datagram), []);
            assert_eq!(stage.memory(), before);
        }
    }
    assert!(!stage.has_told());
    let pong = stage.reply(contact.id, &question);
    stage.inject(contact.endpoint, &pong);
    assert!(matches!(stage.outcome(op), Some(Outcome::Pong(_))), "the PING is still open");
}

#[test]
fn a_recorded_announce_stores_nobody_at_another_address() {
    for legacy in [Legacy::Local, Legacy::Never, Legacy::Always] {
        for (member, thief) in [(public(2), public(3)), (public(2), local(3)), (local(2), local(3))]
        {
            let config = Config { legacy, ..Config::default() };
            let mut stage = Stage::with(&sealed(1), public(1), config);
            let announce = stage.announce(member);
            stage.inject(thief, &announce);
            assert_eq!(stage.stats().records, 1, "{legacy:?}, from {thief}");
            assert_eq!(stage.refused(Refusal::Token), 1);
        }
    }
}

// What v0.1 trusts

/// Where a node is that may have `from` for a neighbor.
fn near(from: Endpoint) -> Endpoint {
    if from.is_local() { local(1) } else { public(1) }
}

/// The records that a member's announces without a token leave: one of v0.1's and one with a
/// transaction id.
fn announced_without_token(private: &seal::Network, legacy: Legacy, from: Endpoint) -> usize {
    let mut stage = Stage::with(private, near(from), Config { legacy, ..Config::default() });
    for (port, has_txid) in [(80, false), (81, true)] {
        let body = Body::AnnouncePeer { topic: TOPIC, port };
        let packet = if has_txid { with_txid(body, None, 0) } else { v01(body) };
        stage.tell(from, &packet);
    }
    stage.stats().records
}

#[test]
fn under_a_seal_no_announce_goes_without_a_token() {
    for legacy in [Legacy::Local, Legacy::Never, Legacy::Always] {
        for from in [public(2), local(2)] {
            assert_eq!(announced_without_token(&sealed(1), legacy, from), 0, "{legacy:?}");
        }
    }
}

#[test]
fn under_v01s_cipher_announces_go_without_a_token_as_legacy_says() {
    let announced = |legacy, from| announced_without_token(&chacha20(1), legacy, from);
    assert_eq!(announced(Legacy::Local, local(2)), 2);
    assert_eq!(announced(Legacy::Local, public(2)), 0);
    assert_eq!(announced(Legacy::Never, local(2)), 0);
    assert_eq!(announced(Legacy::Always, public(2)), 2);
}

/// Whether a member's answer without a transaction id counts.
fn counts_without_txid(private: &seal::Network, legacy: Legacy, from: Endpoint) -> bool {
    let mut stage = Stage::with(private, near(from), Config { legacy, ..Config::default() });
    let (op, _) = stage.ping(from);
    stage.tell(from, &v01(Body::Pong));
    stage.outcome(op).is_some() && stage.stats().contacts == 1
}

#[test]
fn under_a_seal_no_answer_counts_without_a_transaction_id() {
    for legacy in [Legacy::Local, Legacy::Never, Legacy::Always] {
        for from in [public(2), local(2)] {
            assert!(!counts_without_txid(&sealed(1), legacy, from), "{legacy:?}");
        }
    }
}

#[test]
fn under_v01s_cipher_answers_count_without_a_transaction_id_as_legacy_says() {
    let counts = |legacy, from| counts_without_txid(&chacha20(1), legacy, from);
    assert!(counts(Legacy::Local, local(2)));
    assert!(!counts(Legacy::Local, public(2)));
    assert!(!counts(Legacy::Never, local(2)));
    assert!(counts(Legacy::Always, public(2)));
}

#[test]
fn a_members_request_without_a_trailer_is_answered_without_one() {
    let mut stage = Stage::new(&sealed(1));
    for body in [Body::Ping, Body::FindNode { target: TOPIC }, Body::GetPeers { topic: TOPIC }] {
        let sent = stage.tell(local(2), &v01(body));
        let mut lists = Lists::default();
        assert_eq!(native::decode(&sent[0].1, &mut lists).unwrap().trailer, None);
    }
}

// Sizes

/// A node that knows more nodes and holds more peers than go into an answer.
fn full_stage(private: &seal::Network, place: fn(u32) -> Endpoint) -> Stage {
    let mut stage = Stage::with(private, place(1), Config::default());
    for index in 0..40 {
        let id = NodeId(stage.network.random());
        stage.meet(Contact { id, endpoint: place(10 + index) });
    }
    for index in 0..70 {
        stage.announce(place(100 + index));
    }
    // Until all of them were asked whether they are there, nobody else is.
    stage.network.run(10 * SECOND);
    stage.network.sent.clear();
    stage
}

/// Every network with both address families.
fn full_stages() -> impl Iterator<Item = (Stage, fn(u32) -> Endpoint)> {
    let places: [fn(u32) -> Endpoint; 2] = [public, public6];
    [seal::Network::Public, chacha20(1), sealed(1)]
        .into_iter()
        .flat_map(move |private| places.map(|place| (full_stage(&private, place), place)))
}

#[test]
fn what_a_node_asks_pays_for_the_fullest_answer_and_a_probe() {
    for (mut stage, place) in full_stages() {
        let target = TOPIC;
        stage
            .network
            .command(stage.at, |node, now, out| {
                node.find_node(now, target, TIMEOUT, out)?;
                node.get_peers(now, target, TIMEOUT, out)
            })
            .unwrap();
        let questions = std::mem::take(&mut stage.network.sent);
        for (index, kind) in [2, 5].into_iter().enumerate() {
            let question = questions
                .iter()
                .map(|(.., datagram)| stage.open(datagram))
                .find(|packet| packet[0] == kind)
                .expect("a lookup asks");
            // The same from somebody for whom the node has a place.
            let sender = stage.own.with_flipped_bit(100 + index);
            let question = [&[kind][..], &sender.0, &question[33..]].concat();
            let question = stage.seal(&question);
            let asker = place(500 + index as u32);
            let sent = stage.inject(asker, &question);
            assert_eq!(sent.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [asker; 2]);
            let caused: usize = sent.iter().map(|(_, datagram)| datagram.len()).sum();
            assert!(caused <= 3 * question.len());
            assert_eq!(stage.open(&sent[1].1)[0], 0, "a PING");

            let answer = stage.open(&sent[0].1);
            let mut lists = Lists::default();
            let answer = native::decode(&answer, &mut lists).unwrap();
            if kind == 2 {
                assert_eq!(answer.nodes.len(), 20);
            } else {
                assert!((MAX_SENT - 49..=MAX_SENT).contains(&sent[0].1.len()), "no node more fits");
            }
        }
    }
}

#[test]
fn no_request_causes_more_than_three_times_its_bytes_on_the_wire() {
    for (mut stage, place) in full_stages() {
        let bodies = [
            Body::Ping,
            Body::FindNode { target: TOPIC },
            Body::GetPeers { topic: TOPIC },
            Body::AnnouncePeer { topic: TOPIC, port: 80 },
        ];
        let sizes = [0, 1, 90, 120, 200, 300, 360, 380, 400, 416, 600, 1_160];
        for (kind, body) in bodies.into_iter().enumerate() {
            for (size, pad_to) in sizes.into_iter().enumerate() {
                let mut packet =
                    if pad_to == 0 { v01(body) } else { with_txid(body, None, pad_to) };
                // Each is from somebody new, for whom the node has a place and time.
                let index = kind * sizes.len() + size;
                packet[1..33].copy_from_slice(&stage.own.with_flipped_bit(100 + index).0);
                let from = place(500 + index as u32);
                stage.network.run(SECOND);
                let request = stage.seal(&packet);
                let sent = stage.inject(from, &request);
                let to_them = sent.iter().filter(|(to, _)| *to == from);
                let caused: usize = to_them.map(|(_, datagram)| datagram.len()).sum();
                assert!(caused <= 3 * request.len(), "{caused} for {} of {body:?}", request.len());
            }
        }
    }
}
