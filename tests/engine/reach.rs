//! Who is told of which addresses, and who is believed about which: a node with an interface of every
//! kind among peers that a script plays, for each pair of reaches.

use std::collections::BTreeSet;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::scripted::{Stage, bytes};
use kadepy::wire::message::{Body, Contact, Message, Reach, Trailer, TxId};
use kadepy::wire::native::{self, Lists};
use kadepy::{Config, Endpoint, NodeId};

const TOPIC: NodeId = NodeId([0x77; 32]);
const PING: u8 = 0;
const FIND_NODE: u8 = 2;

/// Addresses of one family, one of each reach, and for each pair whether the first may be named to
/// the second and believed from it.
struct Family {
    unspecified: Endpoint,
    place: fn(usize, u8) -> Endpoint,
    reaches: [Reach; 5],
    /// The address that is named, and then the one to which or by which.
    is_meant: [[u8; 5]; 5],
}

const FAMILIES: [fn() -> Family; 2] = [ipv4, ipv6];

fn ipv4() -> Family {
    Family {
        unspecified: Endpoint::new([0; 4], 4_000),
        place: |reach, host| {
            let [a, b] = [[127, 0], [169, 254], [10, 0], [100, 64], [50, 0]][reach];
            Endpoint::new([a, b, 0, host], 5_000 + u16::from(host))
        },
        reaches: [Reach::Loopback, Reach::Link, Reach::Private, Reach::Shared, Reach::Public],
        is_meant: [
            [1, 0, 0, 0, 0],
            [1, 1, 0, 0, 0],
            [1, 1, 1, 0, 0],
            [1, 0, 0, 1, 0],
            [1, 1, 1, 1, 1],
        ],
    }
}

/// There are two links here, and no shared addresses.
fn ipv6() -> Family {
    Family {
        unspecified: Endpoint::new(Ipv6Addr::UNSPECIFIED, 4_000),
        place: |reach, host| {
            let first = [0, 0xfe80, 0xfe80, 0xfd00, 0x2a00][reach];
            let last = if reach == 0 { 1 } else { host.into() };
            let ip = Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, last);
            Endpoint::new(ip, 5_000 + u16::from(host)).with_scope([0, 3, 4, 0, 0][reach])
        },
        reaches: [Reach::Loopback, Reach::Link, Reach::Link, Reach::Private, Reach::Public],
        is_meant: [
            [1, 0, 0, 0, 0],
            [0, 1, 0, 0, 0],
            [0, 0, 1, 0, 0],
            [1, 1, 1, 1, 0],
            [1, 1, 1, 1, 1],
        ],
    }
}

impl Family {
    /// A node that is bound to every interface.
    fn stage(&self) -> Stage {
        Stage::bound_to(self.unspecified, Config::default())
    }

    /// One contact of each reach, in a bucket of their own.
    fn contacts(&self, own: NodeId) -> [Contact; 5] {
        [0, 1, 2, 3, 4].map(|reach| {
            let mut id = own.with_flipped_bit(2);
            id.0[31] ^= 1 + reach as u8;
            Contact { id, endpoint: (self.place)(reach, 10 + reach as u8) }
        })
    }

    /// What the node under test may tell somebody at a place of the reach `other`.
    fn to_name(&self, all: [Endpoint; 5], other: usize) -> BTreeSet<Endpoint> {
        (0..5).filter(|&named| self.is_meant[named][other] == 1).map(|named| all[named]).collect()
    }

    /// What the node under test may believe of a list that somebody there sends: a link-local
    /// address is on the link that the list came over.
    fn to_believe(&self, all: [Endpoint; 5], other: usize) -> BTreeSet<Endpoint> {
        let is_link = |reach: usize| self.reaches[reach] == Reach::Link;
        let scope = (self.place)(other, 1).scope();
        (0..5)
            .filter(|&named| self.is_meant[named][other] == 1 || is_link(named) && is_link(other))
            .map(|named| all[named].with_scope(scope))
            .collect()
    }
}

/// A request of `sender`, padded so that the answer has room.
fn request(sender: NodeId, body: Body<'_>, token: Option<&[u8]>) -> Vec<u8> {
    let trailer = Trailer { txid: Some(TxId([7; 8])), token, ..Trailer::default() };
    let mut bytes = Vec::new();
    native::encode(&Message::new(sender, body, Some(trailer)), native::MAX_SENT, 416, &mut bytes)
        .expect("it fits");
    bytes
}

/// The answer to a question of the node under test.
fn answer(sender: NodeId, question: &[u8], nodes: &[Contact], peers: &[Endpoint]) -> Vec<u8> {
    let mut lists = Lists::default();
    let question = native::decode(question, &mut lists).expect("a node sends what decodes");
    let body = match question.body {
        Body::GetPeers { topic } if !peers.is_empty() => Body::Peers { topic },
        _ => Body::FoundNodes,
    };
    let trailer = Trailer { txid: question.txid(), ..Trailer::default() };
    bytes(&Message { nodes, peers, ..Message::new(sender, body, Some(trailer)) })
}

/// Asks the node under test from `from`; gives the nodes, the peers and the token of its answer.
fn ask(
    stage: &mut Stage,
    from: Endpoint,
    body: Body<'_>,
) -> (BTreeSet<Endpoint>, BTreeSet<Endpoint>, Option<Vec<u8>>) {
    let sent = stage.inject(from, &request(NodeId([0x33; 32]), body, None));
    let (to, packet) = sent.first().expect("an answer");
    assert_eq!(*to, from);
    let mut lists = Lists::of(&from);
    let answer = native::decode(packet, &mut lists).expect("a node sends what decodes");
    let nodes = answer.nodes.iter().map(|contact| contact.endpoint).collect();
    let token = answer.trailer.and_then(|trailer| trailer.token).map(<[u8]>::to_vec);
    (nodes, answer.peers.iter().copied().collect(), token)
}

/// Has a peer announce itself to the node under test.
fn store(stage: &mut Stage, peer: Endpoint) {
    let (.., token) = ask(stage, peer, Body::GetPeers { topic: TOPIC });
    let announce = Body::AnnouncePeer { topic: TOPIC, port: peer.port() };
    let records = |stage: &Stage| stage.network.nodes[&stage.at].stats(stage.network.now).records;
    let before = records(stage);
    stage.inject(peer, &request(NodeId([0x33; 32]), announce, token.as_deref()));
    assert_eq!(records(stage), before + 1, "{peer}");
}

/// A node whose only contact is of the reach `other`; gives that too.
fn stage_with_namer(family: &Family, other: usize) -> (Stage, Contact) {
    let mut stage = family.stage();
    let namer = Contact { id: stage.own.with_flipped_bit(1), endpoint: (family.place)(other, 9) };
    stage.list(namer);
    stage.network.sent.clear();
    (stage, namer)
}

fn pairs() -> impl Iterator<Item = (Family, usize)> {
    FAMILIES.into_iter().flat_map(|family| (0..5).map(move |other| (family(), other)))
}

#[test]
fn an_address_means_the_same_host_within_its_reach() {
    for (family, other) in pairs() {
        let there = (family.place)(other, 1);
        assert_eq!(there.reach(), family.reaches[other], "{there}");
        for named in 0..5 {
            let endpoint = (family.place)(named, 2);
            let is_meant = family.is_meant[named][other] == 1;
            assert_eq!(endpoint.means_same_to(&there), is_meant, "{endpoint} to {there}");
        }
    }
}

#[test]
fn link_local_addresses_of_two_families_share_no_link() {
    let (v4, v6) = ((ipv4().place)(1, 1), (ipv6().place)(1, 1));
    assert!(!v4.means_same_to(&v6) && !v6.means_same_to(&v4));
    assert!(!v4.means_same_to(&v6.with_scope(0)));
}

#[test]
fn only_an_ipv6_link_local_address_has_an_interface() {
    let scope = |address: &str| {
        let address: SocketAddr = address.parse().expect("an address");
        let endpoint = Endpoint::from(address);
        assert_eq!(Endpoint::from(SocketAddr::from(endpoint)), endpoint);
        endpoint.scope()
    };
    assert_eq!(scope("[fe80::1%3]:1"), 3);
    assert_eq!(scope("[febf::1%16777215]:1"), (1 << 24) - 1);
    // More than there is room for is none, and not another interface.
    assert_eq!(scope("[fe80::1%16777217]:1"), 0);
    for elsewhere in ["[::1%3]:1", "[fd00::1%3]:1", "[2a00::1%3]:1", "[::ffff:169.254.0.1%3]:1"] {
        assert_eq!(scope(elsewhere), 0, "{elsewhere}");
    }
}

#[test]
fn an_interface_costs_a_routing_table_no_memory() {
    // What it took with an interface of two bytes; tables are most of what a node holds.
    assert_eq!(size_of::<kadepy::dht::routing::Entry>(), 64);
    assert_eq!(size_of::<Endpoint>(), 21);
}

#[test]
fn an_asker_is_told_of_the_nodes_that_it_means_too() {
    for (family, other) in pairs() {
        let mut stage = family.stage();
        let contacts = family.contacts(stage.own);
        contacts.into_iter().for_each(|contact| stage.list(contact));
        let asker = (family.place)(other, 1);
        let expected = family.to_name(contacts.map(|contact| contact.endpoint), other);
        for body in [Body::FindNode { target: TOPIC }, Body::GetPeers { topic: TOPIC }] {
            assert_eq!(ask(&mut stage, asker, body).0, expected, "to {asker}");
        }
    }
}

#[test]
fn an_asker_is_told_of_the_peers_that_it_means_too() {
    for (family, other) in pairs() {
        let mut stage = family.stage();
        let peers = family.contacts(stage.own).map(|contact| contact.endpoint);
        peers.into_iter().for_each(|peer| store(&mut stage, peer));
        let asker = (family.place)(other, 1);
        let (_, named, _) = ask(&mut stage, asker, Body::GetPeers { topic: TOPIC });
        assert_eq!(named, family.to_name(peers, other), "to {asker}");
    }
}

#[test]
fn a_lookup_asks_the_nodes_that_their_namer_means_too() {
    for (family, other) in pairs() {
        let (mut stage, namer) = stage_with_namer(&family, other);
        let named = family.contacts(stage.own);
        stage.find_node(stage.own.with_flipped_bit(2));
        let question = stage.sent(namer.endpoint).pop().expect("a FIND_NODE");
        let before = stage.network.sent.len();
        stage.inject(namer.endpoint, &answer(namer.id, &question, &named, &[]));
        stage.network.run(Duration::from_secs(3));
        let asked = stage.network.sent[before..].iter();
        let asked: BTreeSet<Endpoint> =
            asked.filter(|(.., datagram)| datagram[0] == FIND_NODE).map(|(_, to, _)| *to).collect();
        let expected = family.to_believe(named.map(|contact| contact.endpoint), other);
        assert_eq!(asked, expected, "named by {}", namer.endpoint);
    }
}

#[test]
fn a_lookup_finds_the_peers_that_their_namer_means_too() {
    for (family, other) in pairs() {
        let (mut stage, namer) = stage_with_namer(&family, other);
        let named = family.contacts(stage.own).map(|contact| contact.endpoint);
        let op = stage
            .network
            .command(stage.at, |node, now, out| node.get_peers(now, TOPIC, None, out))
            .expect("there is room");
        let question = stage.sent(namer.endpoint).pop().expect("a GET_PEERS");
        stage.inject(namer.endpoint, &answer(namer.id, &question, &[], &named));
        let found: BTreeSet<Endpoint> = stage.network.peers(stage.at, op).into_iter().collect();
        assert_eq!(found, family.to_believe(named, other), "named by {}", namer.endpoint);
    }
}

#[test]
fn a_membership_learns_the_peers_that_their_namer_means_too() {
    for (family, other) in pairs() {
        let (mut stage, namer) = stage_with_namer(&family, other);
        let named = family.contacts(stage.own).map(|contact| contact.endpoint);
        let op = stage
            .network
            .command(stage.at, |node, now, _| node.join_topic(now, TOPIC, Some(80)))
            .expect("there is room");
        let question = stage.sent(namer.endpoint).pop().expect("a GET_PEERS");
        stage.inject(namer.endpoint, &answer(namer.id, &question, &[], &named));
        let members = stage.network.nodes[&stage.at].members(op, 0);
        let members: BTreeSet<Endpoint> = members.into_iter().map(|(_, peer)| peer).collect();
        assert_eq!(members, family.to_believe(named, other), "named by {}", namer.endpoint);
    }
}

#[test]
fn the_own_callers_get_every_peer_that_the_node_stores_with_its_interface() {
    for family in FAMILIES.map(|family| family()) {
        let mut stage = family.stage();
        let op = stage
            .network
            .command(stage.at, |node, now, _| node.join_topic(now, TOPIC, Some(80)))
            .expect("there is room");
        let peers = family.contacts(stage.own).map(|contact| contact.endpoint);
        peers.into_iter().for_each(|peer| store(&mut stage, peer));
        let lookup = stage
            .network
            .command(stage.at, |node, now, out| node.get_peers(now, TOPIC, None, out))
            .expect("there is room");
        let found: BTreeSet<Endpoint> = stage.network.peers(stage.at, lookup).into_iter().collect();
        assert_eq!(found, BTreeSet::from(peers));
        let members = stage.network.nodes[&stage.at].members(op, 0);
        let members: BTreeSet<Endpoint> = members.into_iter().map(|(_, peer)| peer).collect();
        assert_eq!(members, BTreeSet::from(peers));
    }
}

#[test]
fn an_interface_does_not_travel() {
    let link = (ipv6().place)(1, 8);
    let contact = Contact { id: NodeId([9; 32]), endpoint: link };
    let trailer = Trailer { endpoint: Some(link), ..Trailer::default() };
    let message = Message {
        nodes: &[contact],
        peers: &[link],
        ..Message::new(NodeId([1; 32]), Body::Peers { topic: TOPIC }, Some(trailer))
    };
    let packet = bytes(&message);
    for scope in [0, 3, 0x12_3456] {
        let from = link.with_scope(scope);
        let mut lists = Lists::of(&from);
        let read = native::decode(&packet, &mut lists).expect("it was encoded");
        assert_eq!(read.nodes, [Contact { endpoint: from, ..contact }]);
        assert_eq!(read.peers, [from]);
        assert_eq!(read.trailer.and_then(|trailer| trailer.endpoint), Some(from));
    }
}

#[test]
fn contacts_on_loopback_take_no_place_from_those_that_an_asker_on_the_lan_can_use() {
    let family = ipv4();
    let mut stage = family.stage();
    let on_lan = |host| (family.place)(2, host);
    for host in 0..40_u8 {
        // Five on the LAN are farther from the target than all those on this host.
        let (bit, endpoint) = match host {
            ..20 => (4, (family.place)(0, 10 + host)),
            20..35 => (5, (family.place)(0, 10 + host)),
            _ => (1, on_lan(10 + host)),
        };
        let mut id = stage.own.with_flipped_bit(bit);
        id.0[31] ^= host;
        stage.list(Contact { id, endpoint });
    }
    let target = stage.own.with_flipped_bit(4);
    let (nodes, ..) = ask(&mut stage, on_lan(1), Body::FindNode { target });
    assert_eq!(nodes, (35..40).map(|host| on_lan(10 + host)).collect());
}

#[test]
fn a_neighbor_on_the_link_is_met_and_asked_with_its_interface() {
    let family = ipv6();
    let mut stage = family.stage();
    let neighbor = (family.place)(1, 7);
    let hello = request(NodeId([0x33; 32]), Body::Ping, None);
    let sent = stage.inject(neighbor, &hello);
    assert!(sent.iter().any(|(to, datagram)| *to == neighbor && datagram[0] == PING), "{sent:?}");
}
