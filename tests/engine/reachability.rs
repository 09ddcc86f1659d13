//! Whether strangers reach a node: what proves it, who helps to find out and how little that moves, and
//! what a node that they do not reach says and is spared.

use std::sync::Arc;
use std::time::Duration;

use crate::net::{Network, local, public};
use crate::scripted::Stage;
use kadepy::wire::message::{Body, Contact, Kind, Message, Probe, Trailer, TxId};
use kadepy::wire::native::{self, Lists};
use kadepy::{Config, Endpoint, NodeId};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const TOPIC: NodeId = NodeId([0x77; 32]);
const NONCE: TxId = TxId([5; 8]);
const TXID: TxId = TxId([7; 8]);
/// What a PROBE has at the least that is passed on, to an IPv4 address.
const LEAST: usize = 68;

/// A node behind a translator, which sees the address of a home network as its own.
fn behind() -> Stage {
    Stage::bound_to(Endpoint::new([192, 168, 1, 2], 4_000), Config::default())
}

/// The first contact in a bucket of its own, at the address of this node of the Internet.
fn contact(stage: &Stage, index: u32) -> Contact {
    let mut id = stage.own.with_flipped_bit(1 + index as usize % 3);
    id.0[28..].copy_from_slice(&index.to_be_bytes());
    Contact { id, endpoint: public(index) }
}

/// What a node has sent.
struct Sent {
    to: Endpoint,
    kind: Kind,
    txid: Option<TxId>,
    read_only: bool,
    probe: Option<Probe>,
    len: usize,
    bytes: Vec<u8>,
}

fn read((to, bytes): (Endpoint, Vec<u8>)) -> Sent {
    let mut lists = Lists::default();
    let message = native::decode(&bytes, &mut lists).expect("a node sends what decodes");
    let trailer = message.trailer.unwrap_or_default();
    let Trailer { txid, read_only, probe, .. } = trailer;
    Sent { to, kind: message.body.kind(), txid, read_only, probe, len: bytes.len(), bytes }
}

/// Everything that the node under test has sent since the last call.
fn sent(stage: &mut Stage) -> Vec<Sent> {
    let at = stage.at;
    let all = std::mem::take(&mut stage.network.sent);
    let own = all.into_iter().filter(|(from, ..)| *from == at);
    own.map(|(_, to, bytes)| read((to, bytes))).collect()
}

fn packet(sender: NodeId, body: Body<'_>, trailer: Trailer<'_>, pad_to: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let message = Message::new(sender, body, Some(trailer));
    native::encode(&message, native::MAX_SENT, pad_to, &mut bytes).expect("it fits");
    bytes
}

fn ping(sender: NodeId) -> Vec<u8> {
    packet(sender, Body::Ping, Trailer { txid: Some(TXID), ..Trailer::default() }, 0)
}

/// A PING that wants another node to send one, of this length at the least.
fn probe(to: Option<Endpoint>, len: usize) -> Vec<u8> {
    let probe = Some(Probe { txid: NONCE, to });
    let trailer = Trailer { txid: Some(TXID), probe, read_only: true, ..Trailer::default() };
    packet(NodeId([9; 32]), Body::Ping, trailer, len)
}

/// The PONG to a question; `more` says what else is in it.
fn pong(sender: NodeId, question: &Sent, more: Trailer<'_>) -> Vec<u8> {
    packet(sender, Body::Pong, Trailer { txid: question.txid, ..more }, 0)
}

/// Has the node list so many contacts of the Internet, which see it at its external address.
fn list(stage: &mut Stage, count: u32) {
    for index in 1..=count {
        let contact = contact(stage, index);
        ask(stage, contact.endpoint);
        let question = sent(stage).pop().expect("a PING");
        let endpoint = Some(Endpoint::new([5, 6, 7, 8], 30_000));
        let answer = pong(contact.id, &question, Trailer { endpoint, ..Trailer::default() });
        stage.inject(contact.endpoint, &answer);
    }
    stage.network.sent.clear();
}

fn node(stage: &Stage) -> &kadepy::dht::protocol::Engine {
    &stage.network.nodes[&stage.at]
}

fn reachable(stage: &Stage) -> Option<bool> {
    node(stage).reachable()
}

/// Has the node ask somebody who is there.
fn ask(stage: &mut Stage, to: Endpoint) {
    stage
        .network
        .command(stage.at, |node, now, out| node.ping(now, to, None, out))
        .expect("there is room");
}

/// Whether the node asks somebody there, whom it has asked, not to list it.
fn is_shy_to(stage: &mut Stage, to: Endpoint) -> bool {
    ask(stage, to);
    let answers = stage.inject(to, &ping(NodeId([8; 32])));
    stage.network.sent.clear();
    read(answers.into_iter().next().expect("a PONG")).read_only
}

/// Lets time pass until the node asks somebody for a proof; gives the question.
fn next_probe(stage: &mut Stage) -> Sent {
    for _ in 0..7_200 {
        stage.network.run(SECOND);
        let mut sent = sent(stage).into_iter();
        if let Some(question) = sent.find(|sent| sent.probe.is_some()) {
            return question;
        }
    }
    panic!("it asks nobody");
}

#[test]
fn behind_a_translator_a_node_is_read_only_to_public_nodes_and_to_no_local_one() {
    let mut stage = behind();
    list(&mut stage, 24);
    assert_eq!(reachable(&stage), None);
    assert!(is_shy_to(&mut stage, public(50)) && !is_shy_to(&mut stage, local(50)));
    for (to, is_shy) in [(public(60), true), (local(60), false)] {
        ask(&mut stage, to);
        assert_eq!(sent(&mut stage)[0].read_only, is_shy, "{to}");
    }
    assert!(node(&stage).is_read_only());
}

#[test]
fn at_its_own_address_a_node_is_listed_from_the_first_packet_on() {
    let mut stage = Stage::new(Config::default());
    assert!(!is_shy_to(&mut stage, public(50)));
    // And where it is bound to all of them, and the driver has found that one of them is public.
    let mut stage = Stage::bound_to(Endpoint::new([0; 4], 4_000), Config::default());
    stage.network.command(stage.at, |node, _, _| node.set_host(public(1)));
    assert!(!is_shy_to(&mut stage, public(50)));
    stage.network.command(stage.at, |node, _, _| node.set_host(local(1)));
    assert!(is_shy_to(&mut stage, public(50)));
}

#[test]
fn who_is_seen_elsewhere_than_at_its_own_address_is_behind_a_translator() {
    let mut stage = Stage::new(Config::default());
    list(&mut stage, 24);
    assert!(is_shy_to(&mut stage, public(50)));
}

#[test]
fn what_the_owner_says_holds_whatever_is_found_and_towards_everybody() {
    let mut stage = behind();
    stage.network.command(stage.at, |node, _, _| node.set_read_only(Some(false)));
    assert!(!is_shy_to(&mut stage, public(50)) && !is_shy_to(&mut stage, local(50)));
    stage.network.command(stage.at, |node, _, _| node.set_read_only(Some(true)));
    assert!(is_shy_to(&mut stage, public(51)) && is_shy_to(&mut stage, local(51)));
    list(&mut stage, 24);
    stage.network.run(60 * MINUTE);
    assert!(sent(&mut stage).iter().all(|sent| sent.probe.is_none()), "it asks nobody");
}

#[test]
fn a_packet_of_a_stranger_proves_it_for_half_an_hour() {
    let mut stage = behind();
    list(&mut stage, 24);
    stage.network.run(10 * MINUTE);
    stage.inject(public(70), &ping(NodeId([8; 32])));
    assert_eq!(reachable(&stage), Some(true));
    assert!(!is_shy_to(&mut stage, public(50)) && !node(&stage).is_read_only());
    // The one just asked was a stranger too.
    stage.network.run(30 * MINUTE + SECOND);
    assert_eq!(reachable(&stage), None);
    assert!(node(&stage).is_read_only());
}

#[test]
fn nothing_is_proved_by_who_was_asked_within_ten_minutes() {
    let mut stage = behind();
    list(&mut stage, 24);
    ask(&mut stage, public(70));
    // Each answer keeps the way open for who was asked once.
    for _ in 0..3 {
        stage.network.run(9 * MINUTE);
        stage.inject(public(70).with_port(9), &ping(NodeId([8; 32])));
    }
    stage.inject(local(9), &ping(NodeId([8; 32])));
    // What comes back over the translator, from another node behind it or this one.
    stage.inject(Endpoint::new([5, 6, 7, 8], 9), &ping(NodeId([8; 32])));
    assert_eq!(reachable(&stage), None);
    // One that is answered and never asked has come by itself each time.
    let shy = Trailer { txid: Some(TXID), read_only: true, ..Trailer::default() };
    let request = packet(NodeId([8; 32]), Body::Ping, shy, 0);
    for _ in 0..10 {
        stage.network.run(9 * MINUTE);
        stage.inject(public(71), &request);
        assert_eq!(reachable(&stage), Some(true));
    }
}

#[test]
fn a_node_that_was_there_before_knows_nothing_for_ten_minutes() {
    let mut stage = behind();
    let contact = contact(&stage, 1);
    stage.network.command(stage.at, |node, now, _| node.recall(now, vec![contact]));
    stage.network.run(9 * MINUTE);
    stage.inject(public(70), &ping(NodeId([8; 32])));
    assert_eq!(reachable(&stage), None, "the run before may have asked it");
    stage.network.run(9 * MINUTE);
    stage.inject(public(71), &ping(NodeId([8; 32])));
    assert_eq!(reachable(&stage), Some(true));
}

#[test]
fn a_node_that_lists_few_others_is_needed_reached_or_not_and_says_so_to_them() {
    let mut stage = behind();
    ask(&mut stage, public(1));
    let question = sent(&mut stage).pop().expect("a PING");
    assert!(question.read_only, "it does not know yet");
    let id = contact(&stage, 1).id;
    stage.inject(public(1), &pong(id, &question, Trailer::default()));
    let again = sent(&mut stage).pop().expect("a PING that says otherwise");
    assert_eq!((again.to, again.kind, again.read_only), (public(1), Kind::Ping, false));
    stage.inject(public(1), &pong(id, &again, Trailer::default()));
    for index in 2..=9 {
        let contact = contact(&stage, index);
        stage.list(contact);
    }
    assert!(!node(&stage).is_read_only());
    for index in 10..=24 {
        let contact = contact(&stage, index);
        stage.list(contact);
        assert_eq!(node(&stage).is_read_only(), index >= 20, "with {index}");
    }
}

#[test]
fn it_asks_for_a_ping_by_another_node_which_proves_it_and_gets_no_answer() {
    let mut stage = behind();
    list(&mut stage, 24);
    let question = next_probe(&mut stage);
    let probe = question.probe.expect("it is one");
    assert_eq!((question.kind, probe.to, question.len), (Kind::Ping, None, 80));
    let trailer = Trailer { txid: Some(probe.txid), ..Trailer::default() };
    let from_third = packet(NodeId([8; 32]), Body::Ping, trailer, 0);
    assert_eq!(stage.inject(public(70), &from_third), []);
    assert_eq!(reachable(&stage), Some(true));
}

#[test]
fn eight_questions_in_a_row_that_were_passed_on_in_vain_say_that_nobody_gets_through() {
    // A node at its own address, behind a firewall.
    let mut stage = Stage::new(Config::default());
    let contacts: Vec<Contact> = (1..=24).map(|index| contact(&stage, 10 + index)).collect();
    for contact in &contacts {
        stage.list(*contact);
    }
    for asked in 0..8 {
        assert_eq!(reachable(&stage), None, "{asked}");
        let question = next_probe(&mut stage);
        let asked = contacts.iter().find(|contact| contact.endpoint == question.to);
        let probe = question.probe;
        let answer =
            pong(asked.expect("a contact").id, &question, Trailer { probe, ..Trailer::default() });
        stage.inject(question.to, &answer);
    }
    stage.network.run(6 * SECOND);
    assert_eq!(reachable(&stage), Some(false));
    assert!(node(&stage).is_read_only());
    // One stranger's packet shows that it is not so.
    stage.inject(public(50), &ping(NodeId([8; 32])));
    assert_eq!((reachable(&stage), node(&stage).is_read_only()), (Some(true), false));
}

#[test]
fn nodes_that_do_not_know_of_probes_prove_nothing() {
    let mut stage = Stage::new(Config::default());
    let contacts: Vec<Contact> = (1..=3).map(|index| contact(&stage, 10 + index)).collect();
    for contact in &contacts {
        stage.list(*contact);
    }
    for _ in 0..12 {
        let question = next_probe(&mut stage);
        let asked = contacts.iter().find(|contact| contact.endpoint == question.to);
        let answer = pong(asked.expect("a contact").id, &question, Trailer::default());
        stage.inject(question.to, &answer);
    }
    stage.network.run(6 * SECOND);
    assert_eq!(reachable(&stage), None);
    assert!(!node(&stage).is_read_only());
}

#[test]
fn a_ping_from_who_was_let_in_anyway_proves_nothing_and_nothing_against_it() {
    let mut stage = behind();
    list(&mut stage, 24);
    for _ in 0..12 {
        let question = next_probe(&mut stage);
        let probe = question.probe;
        let id = (1..=24).map(|index| contact(&stage, index)).find(|c| c.endpoint == question.to);
        let id = id.expect("a contact").id;
        stage.inject(question.to, &pong(id, &question, Trailer { probe, ..Trailer::default() }));
        let txid = probe.map(|probe| probe.txid);
        let trailer = Trailer { txid, ..Trailer::default() };
        stage.inject(public(2), &packet(contact(&stage, 2).id, Body::Ping, trailer, 0));
        stage.network.run(6 * SECOND);
        assert_eq!(reachable(&stage), None);
    }
}

/// A node with some contacts, and what it sends when somebody asks it to have him proved reachable.
fn helps(stage: &mut Stage, from: Endpoint, request: &[u8]) -> (Vec<Sent>, bool) {
    let sent: Vec<Sent> = stage.inject(from, request).into_iter().map(read).collect();
    let answer = sent.iter().find(|sent| sent.to == from).expect("a PONG");
    let is_passed = answer.probe == Some(Probe { txid: NONCE, to: None });
    (sent.into_iter().filter(|sent| sent.to != from).collect(), is_passed)
}

fn helper() -> Stage {
    let mut stage = Stage::new(Config::default());
    for index in 1..=3 {
        let contact = contact(&stage, 10 + index);
        stage.list(contact);
    }
    stage
}

#[test]
fn a_helper_asks_a_contact_of_its_own_choice_to_ping_the_address_that_the_question_came_from() {
    let mut stage = helper();
    let asker = public(50);
    let mut asked = Vec::new();
    for _ in 0..20 {
        let request = probe(None, LEAST);
        let (passed, is_passed) = helps(&mut stage, asker, &request);
        assert!(is_passed && passed.len() == 1);
        assert_eq!(passed[0].probe, Some(Probe { txid: NONCE, to: Some(asker) }));
        assert!(passed[0].len <= request.len(), "no more than came");
        asked.push(passed[0].to);
        stage.network.run(MINUTE);
    }
    asked.sort();
    asked.dedup();
    assert_eq!(asked, [11, 12, 13].map(public), "each of them now and then");
    // It may name nobody else: the node that is asked with an address pings it itself.
    let (passed, is_passed) = helps(&mut stage, asker, &probe(Some(public(60)), LEAST));
    assert!(!is_passed && passed.iter().all(|sent| sent.probe.is_none()));
}

#[test]
fn a_helper_passes_on_nothing_that_is_longer_than_what_came_nor_from_local_nodes() {
    let mut stage = helper();
    for (from, request) in [
        (public(50), probe(None, LEAST - 4)),
        (public(50), probe(None, 0)),
        (local(50), probe(None, 100)),
    ] {
        let (passed, is_passed) = helps(&mut stage, from, &request);
        assert!(!is_passed && passed.iter().all(|sent| sent.probe.is_none()), "{from}");
    }
    // Nor to a contact in the network of who asks.
    let mut stage = Stage::new(Config::default());
    let only = contact(&stage, 11);
    stage.list(only);
    let [.., a, b, c, _] = *only.endpoint.ip_bytes();
    let near = Endpoint::new([a, b, c, 99], 4_000);
    assert!(!helps(&mut stage, near, &probe(None, LEAST)).1);
}

#[test]
fn a_helper_helps_an_address_twice_a_minute_and_all_of_them_sixty_times() {
    let mut stage = helper();
    let passed = |stage: &mut Stage, from| helps(stage, from, &probe(None, LEAST)).1;
    assert!(passed(&mut stage, public(50)) && passed(&mut stage, public(50).with_port(9)));
    assert!(!passed(&mut stage, public(50)));
    let others = (0..100).filter(|index| passed(&mut stage, public(100 + index))).count();
    assert_eq!(others, 58);
    stage.network.run(MINUTE);
    assert!(passed(&mut stage, public(50)));
}

#[test]
fn the_third_node_sends_a_plain_ping_without_waiting_for_an_answer() {
    let mut stage = helper();
    let (asker, by) = (public(50), contact(&stage, 11).endpoint);
    let request = probe(Some(asker), 0);
    let open = node(&stage).stats(stage.network.now).counters.requests;
    let (pings, _) = helps(&mut stage, by, &request);
    assert_eq!(pings.len(), 1);
    let ping = &pings[0];
    assert_eq!((ping.to, ping.kind, ping.txid, ping.len), (asker, Kind::Ping, Some(NONCE), 47));
    assert!(ping.len <= request.len());
    assert_eq!(node(&stage).stats(stage.network.now).counters.requests, open);
    // What comes back under the known transaction id lists nobody.
    let answer = pong(NodeId([9; 32]), ping, Trailer::default());
    stage.inject(asker, &answer);
    assert!(node(&stage).table().get(&NodeId([9; 32])).is_none());
}

#[test]
fn the_third_node_pings_an_address_twice_a_minute_all_of_them_sixty_times_and_no_local_one() {
    let mut stage = helper();
    let by = contact(&stage, 11).endpoint;
    let pings = |stage: &mut Stage, to| !helps(stage, by, &probe(Some(to), 0)).0.is_empty();
    assert!(pings(&mut stage, public(50)) && pings(&mut stage, public(50).with_port(9)));
    assert!(!pings(&mut stage, public(50)));
    assert!(!pings(&mut stage, local(50)) && !pings(&mut stage, public(51).with_port(0)));
    let own = stage.at;
    assert!(!pings(&mut stage, own) && !pings(&mut stage, Endpoint::new([224, 0, 0, 1], 4_000)));
    let others = (0..100).filter(|index| pings(&mut stage, public(100 + index))).count();
    assert_eq!(others, 58);
}

#[test]
fn a_probe_moves_at_most_three_times_its_bytes_in_all() {
    for request in [probe(None, LEAST), probe(None, 80), probe(Some(public(60)), 0)] {
        let mut stage = helper();
        let sent = stage.inject(public(50), &request);
        let len: usize = sent.iter().map(|(_, datagram)| datagram.len()).sum();
        assert!(sent.len() > 1 && len <= 3 * request.len(), "{len} for {}", request.len());
    }
}

#[test]
fn a_contact_that_answers_read_only_leaves_the_table() {
    let mut stage = helper();
    let contact = contact(&stage, 11);
    stage
        .network
        .command(stage.at, |node, now, out| node.ping(now, contact.endpoint, None, out))
        .expect("there is room");
    let question = sent(&mut stage).pop().expect("a PING");
    let shy = Trailer { read_only: true, ..Trailer::default() };
    stage.inject(contact.endpoint, &pong(contact.id, &question, shy));
    assert!(node(&stage).table().get(&contact.id).is_none());
}

#[test]
fn a_request_that_says_so_is_a_reason_to_ask_the_contact_and_no_more() {
    let mut stage = helper();
    let contact = contact(&stage, 11);
    let shy = Trailer { txid: Some(TXID), read_only: true, ..Trailer::default() };
    let request = packet(contact.id, Body::Ping, shy, 0);
    assert_eq!(stage.inject(contact.endpoint, &request).len(), 1, "it has just answered");
    stage.network.run(2 * MINUTE);
    stage.network.sent.clear();
    stage.inject(contact.endpoint, &request);
    let question = sent(&mut stage).into_iter().find(|sent| sent.kind == Kind::Ping);
    assert!(node(&stage).table().get(&contact.id).is_some(), "it may be forged");
    let question = question.expect("a PING");
    stage.inject(contact.endpoint, &pong(contact.id, &question, shy));
    assert!(node(&stage).table().get(&contact.id).is_none());
}

#[test]
fn a_read_only_stranger_is_no_candidate() {
    let mut stage = helper();
    let shy = Trailer { txid: Some(TXID), read_only: true, ..Trailer::default() };
    let body = Body::FindNode { target: TOPIC };
    stage.inject(public(50), &packet(NodeId([9; 32]), body, shy, 416));
    stage.network.run(MINUTE);
    assert_eq!(sent(&mut stage).iter().filter(|sent| sent.kind == Kind::Ping).count(), 0);
}

#[test]
fn on_one_network_at_home_nothing_is_said_that_was_not_before() {
    let mut network = Network::new(3);
    let config = Arc::new(Config::default());
    for index in 1..=5 {
        network.add(local(index), &config);
        network.command(local(index), |node, now, out| {
            node.stay_joined(now, vec![local(1)], false, out);
        });
    }
    network.records = true;
    network.run(120 * MINUTE);
    assert!(!network.sent.is_empty());
    for (_, to, bytes) in std::mem::take(&mut network.sent) {
        let sent = read((to, bytes));
        assert!(!sent.read_only && sent.probe.is_none());
        let mut lists = Lists::default();
        assert!(native::decode(&sent.bytes, &mut lists).is_ok());
    }
    assert!(network.nodes.values().all(|node| node.reachable().is_none() && !node.is_read_only()));
}

#[test]
fn among_public_nodes_strangers_prove_it_and_a_few_probes_are_sent() {
    let mut network = Network::new(4);
    let config = Arc::new(Config::default());
    for index in 0..60 {
        network.add(public(index), &config);
        network.command(public(index), |node, now, out| {
            node.stay_joined(now, vec![public(0)], false, out);
        });
        network.run(SECOND);
    }
    network.run(60 * MINUTE);
    let is_shy = |node: &kadepy::dht::protocol::Engine| node.is_read_only();
    assert!(!network.nodes.values().any(is_shy));
    let known = network.nodes.values().filter(|node| node.reachable() == Some(true)).count();
    println!("{known} of 60 know it");
    assert!(!network.nodes.values().any(|node| node.reachable() == Some(false)));
}
