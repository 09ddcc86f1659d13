//! The native wire format from outside: golden packets in both directions, malformed bytes, what is
//! left out where not all fits, padding, and what holds for any bytes whatever.

use kadepy::NodeId;
use kadepy::wire::message::{Body, Contact, Endpoint, Message, Part, Probe, Trailer, TxId, Want};
use kadepy::wire::native::{self, DecodeError, Lists, MAX_READ, MAX_SENT};
use proptest::prelude::*;
use proptest::sample::Index;

const SENDER: NodeId = NodeId([0x11; 32]);
const TOPIC: NodeId = NodeId([0x22; 32]);
const TXID: TxId = TxId([0xC1, 0xC2, 0xC3, 0xC4, 0xC5, 0xC6, 0xC7, 0xC8]);

/// The bytes of spaced hex; `AA*32` is the byte AA 32 times.
fn hex(text: &str) -> Vec<u8> {
    let run = |word: &str| {
        let (byte, count) = word.split_once('*').unwrap_or((word, "1"));
        let byte = u8::from_str_radix(byte, 16).expect("two hex digits");
        vec![byte; count.parse().expect("a count")]
    };
    text.split_whitespace().flat_map(run).collect()
}

fn v4(last: u8) -> Endpoint {
    Endpoint::new([203, 0, 113, last], 8080)
}

fn v6(last: u16) -> Endpoint {
    Endpoint::new([0x2001, 0xdb8, 0, 0, 0, 0, 0, last], 8080)
}

fn node(id: u8, endpoint: Endpoint) -> Contact {
    Contact { id: NodeId([id; 32]), endpoint }
}

fn plain(body: Body<'_>) -> Message<'_> {
    Message::new(SENDER, body, None)
}

fn with_txid(body: Body<'_>) -> Message<'_> {
    with_trailer(body, Trailer { txid: Some(TXID), ..Trailer::default() })
}

fn with_trailer<'a>(body: Body<'a>, trailer: Trailer<'a>) -> Message<'a> {
    Message::new(SENDER, body, Some(trailer))
}

fn encoded(message: &Message<'_>, limit: usize, pad_to: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let len = native::encode(message, limit, pad_to, &mut bytes)?;
    assert_eq!(len, bytes.len());
    Some(bytes)
}

/// Both directions at once.
#[track_caller]
fn golden(packet: &str, message: Message<'_>) {
    reads_as(packet, message);
    assert_eq!(encoded(&message, MAX_SENT, 0), Some(hex(packet)));
}

/// For packets that others may send and this node does not.
#[track_caller]
fn reads_as(packet: &str, message: Message<'_>) {
    assert_eq!(native::decode(&hex(packet), &mut Lists::default()), Ok(message));
}

#[track_caller]
fn refused(packet: &str, error: DecodeError) {
    assert_eq!(native::decode(&hex(packet), &mut Lists::default()), Err(error));
}

// Golden packets

#[test]
fn ping() {
    golden("00 11*32", plain(Body::Ping));
    golden("00 11*32 4B 50 01", with_trailer(Body::Ping, Trailer::default()));
    golden("00 11*32 4B 50 01 01 00 08 C1 C2 C3 C4 C5 C6 C7 C8", with_txid(Body::Ping));
}

#[test]
fn pong() {
    golden("01 11*32", plain(Body::Pong));
    let seen_at =
        |endpoint| Trailer { txid: Some(TXID), endpoint: Some(endpoint), ..Trailer::default() };
    golden(
        "01 11*32 4B 50 01 01 00 08 C1 C2 C3 C4 C5 C6 C7 C8 06 00 06 CB 00 71 07 1F 90",
        with_trailer(Body::Pong, seen_at(v4(7))),
    );
    golden(
        "01 11*32 4B 50 01 01 00 08 C1 C2 C3 C4 C5 C6 C7 C8 06 00 12 20 01 0D B8 00*10 00 07 1F 90",
        with_trailer(Body::Pong, seen_at(v6(7))),
    );
}

#[test]
fn find_node() {
    let body = Body::FindNode { target: TOPIC };
    golden("02 11*32 22*32", plain(body));
    let want = |v4, v6| Trailer { want: Some(Want { v4, v6 }), ..Trailer::default() };
    golden("02 11*32 22*32 4B 50 01 09 00 01 01", with_trailer(body, want(true, false)));
    golden("02 11*32 22*32 4B 50 01 09 00 01 02", with_trailer(body, want(false, true)));
    golden("02 11*32 22*32 4B 50 01 09 00 01 03", with_trailer(body, want(true, true)));
}

#[test]
fn found_nodes() {
    golden("03 11*32 00", plain(Body::FoundNodes));
    let nodes = [node(0xA1, v4(1)), node(0xA2, v4(2))];
    golden(
        "03 11*32 02 A1*32 CB 00 71 01 1F 90 A2*32 CB 00 71 02 1F 90",
        Message { nodes: &nodes, ..plain(Body::FoundNodes) },
    );
    let nodes = [node(0xA1, v4(1)), node(0xA6, v6(6)), node(0xA7, v6(7))];
    golden(
        "03 11*32 01 A1*32 CB 00 71 01 1F 90
         4B 50 01 01 00 08 C1 C2 C3 C4 C5 C6 C7 C8
         04 00 64 A6*32 20 01 0D B8 00*10 00 06 1F 90 A7*32 20 01 0D B8 00*10 00 07 1F 90",
        Message { nodes: &nodes, ..with_txid(Body::FoundNodes) },
    );
}

#[test]
fn announce_peer() {
    let body = Body::AnnouncePeer { topic: TOPIC, port: 4000 };
    golden("04 11*32 22*32 0F A0", plain(body));
    let trailer = Trailer {
        txid: Some(TXID),
        token: Some(&[0x77; 16]),
        implied_port: true,
        ..Trailer::default()
    };
    golden(
        "04 11*32 22*32 0F A0 4B 50 01 01 00 08 C1 C2 C3 C4 C5 C6 C7 C8 02 00 10 77*16 07 00 01 02",
        with_trailer(body, trailer),
    );
}

#[test]
fn get_peers() {
    let body = Body::GetPeers { topic: TOPIC };
    golden("05 11*32 22*32", plain(body));
    let trailer = Trailer { read_only: true, agent: Some("kadepy"), ..Trailer::default() };
    golden(
        "05 11*32 22*32 4B 50 01 07 00 01 01 0A 00 06 6B 61 64 65 70 79",
        with_trailer(body, trailer),
    );
    let part = Part::new(1, 0x203).expect("there is such a part");
    golden(
        "05 11*32 22*32 4B 50 01 0C 00 04 00 01 02 03",
        with_trailer(body, Trailer { part, ..Trailer::default() }),
    );
}

#[test]
fn peers() {
    let body = Body::Peers { topic: TOPIC };
    golden("06 11*32 22*32 00", plain(body));
    golden(
        "06 11*32 22*32 02 CB 00 71 01 1F 90 CB 00 71 02 1F 90",
        Message { peers: &[v4(1), v4(2)], ..plain(body) },
    );
    let trailer = Trailer {
        txid: Some(TXID),
        endpoint: Some(v4(9)),
        token: Some(&[0x77]),
        ..Trailer::default()
    };
    golden(
        "06 11*32 22*32 01 CB 00 71 01 1F 90
         4B 50 01 01 00 08 C1 C2 C3 C4 C5 C6 C7 C8 06 00 06 CB 00 71 09 1F 90 02 00 01 77
         05 00 12 20 01 0D B8 00*10 00 02 1F 90
         03 00 26 A1*32 CB 00 71 03 1F 90
         04 00 32 A6*32 20 01 0D B8 00*10 00 04 1F 90",
        Message {
            peers: &[v4(1), v6(2)],
            nodes: &[node(0xA1, v4(3)), node(0xA6, v6(4))],
            ..with_trailer(body, trailer)
        },
    );
}

#[test]
fn peers_that_are_not_all() {
    let trailer = Trailer { total: Some(0x0102), ..Trailer::default() };
    golden(
        "06 11*32 22*32 01 CB 00 71 01 1F 90 4B 50 01 0D 00 04 00 00 01 02
         03 00 26 A1*32 CB 00 71 03 1F 90",
        Message {
            peers: &[v4(1)],
            nodes: &[node(0xA1, v4(3))],
            ..with_trailer(Body::Peers { topic: TOPIC }, trailer)
        },
    );
}

#[test]
fn a_ping_that_wants_another_node_to_ask() {
    for (written, to) in [
        ("0E 00 08 C1 C2 C3 C4 C5 C6 C7 C8", None),
        ("0E 00 0E C1 C2 C3 C4 C5 C6 C7 C8 CB 00 71 01 1F 90", Some(v4(1))),
        ("0E 00 1A C1 C2 C3 C4 C5 C6 C7 C8 20 01 0D B8 00*10 00 02 1F 90", Some(v6(2))),
    ] {
        let trailer = Trailer { probe: Some(Probe { txid: TXID, to }), ..Trailer::default() };
        golden(&format!("00 11*32 4B 50 01 {written}"), with_trailer(Body::Ping, trailer));
    }
}

#[test]
fn announced() {
    golden("07 11*32 22*32", plain(Body::Announced { topic: TOPIC }));
    golden(
        "07 11*32 22*32 4B 50 01 01 00 08 C1 C2 C3 C4 C5 C6 C7 C8",
        with_txid(Body::Announced { topic: TOPIC }),
    );
}

#[test]
fn error() {
    golden("08 11*32 01 00", plain(Body::Error { code: 1, text: "" }));
    golden(
        "08 11*32 02 05 66 C3 BC 6C 6C 4B 50 01 01 00 08 C1 C2 C3 C4 C5 C6 C7 C8",
        with_txid(Body::Error { code: 2, text: "füll" }),
    );
}

#[test]
fn application_messages_are_payload_to_the_end() {
    golden("10 11*32", plain(Body::Application { kind: 16, payload: &[] }));
    golden(
        "FF 11*32 4B 50 01 01 00 08 C1",
        plain(Body::Application { kind: 255, payload: &[0x4B, 0x50, 1, 1, 0, 8, 0xC1] }),
    );
}

// Bytes that are in order although no node of today sends them

#[test]
fn fields_come_in_any_order() {
    let trailer = Trailer { txid: Some(TXID), token: Some(&[0x77]), ..Trailer::default() };
    reads_as(
        "00 11*32 4B 50 01 02 00 01 77 01 00 08 C1 C2 C3 C4 C5 C6 C7 C8",
        with_trailer(Body::Ping, trailer),
    );
}

#[test]
fn padding_and_unknown_tags_are_skipped() {
    reads_as(
        "00 11*32 4B 50 01 08 00 03 AA*3 63 00 02 55 55 00 00 00 01 00 08 C1 C2 C3 C4 C5 C6 C7 C8",
        with_txid(Body::Ping),
    );
}

#[test]
fn unknown_bits_of_flags_and_want_are_skipped() {
    let trailer = Trailer { want: Some(Want { v4: false, v6: false }), ..Trailer::default() };
    reads_as("00 11*32 4B 50 01 07 00 01 FC 09 00 01 FC", with_trailer(Body::Ping, trailer));
}

#[test]
fn an_agent_that_is_no_text_is_left_out() {
    reads_as("00 11*32 4B 50 01 0A 00 02 FF FE", with_trailer(Body::Ping, Trailer::default()));
}

#[test]
fn empty_lists_in_fields_are_valid() {
    reads_as(
        "06 11*32 22*32 00 4B 50 01 03 00 00 04 00 00 05 00 00",
        with_trailer(Body::Peers { topic: TOPIC }, Trailer::default()),
    );
}

#[test]
fn a_mapped_ipv4_address_is_ipv4() {
    reads_as(
        "06 11*32 22*32 00 4B 50 01 05 00 12 00*10 FF FF CB 00 71 01 1F 90",
        Message {
            peers: &[v4(1)],
            ..with_trailer(Body::Peers { topic: TOPIC }, Trailer::default())
        },
    );
}

#[test]
fn the_first_part_of_one_is_all() {
    reads_as(
        "05 11*32 22*32 4B 50 01 0C 00 04 00 00 00 01",
        with_trailer(Body::GetPeers { topic: TOPIC }, Trailer::default()),
    );
}

#[test]
fn all_255_tags_may_come_together() {
    let mut packet = hex("00 11*32 4B 50 01");
    for tag in 1..=255 {
        let len = match tag {
            1 => 8,
            2 | 7 | 9 | 10 => 1,
            6 => 6,
            11 => 2,
            12 | 13 => 4,
            14 => 8,
            _ => 0,
        };
        packet.extend([tag, 0, len]);
        // "1122" names no part that does not exist.
        packet.extend(b"11223344".iter().cycle().take(len.into()));
    }
    let mut lists = Lists::default();
    let message = native::decode(&packet, &mut lists).unwrap();
    assert_eq!(message.trailer.unwrap().agent, Some("1"));
}

#[test]
fn bytes_behind_the_body_that_are_no_trailer_are_those_of_v01() {
    reads_as("00 11*32 AA BB CC", plain(Body::Ping));
    reads_as("00 11*32 4B 50", plain(Body::Ping));
    reads_as("00 11*32 4B 50 02 01 00 08", plain(Body::Ping));
    reads_as("02 11*32 22*32 AA", plain(Body::FindNode { target: TOPIC }));
    reads_as("03 11*32 00 AA", plain(Body::FoundNodes));
    reads_as("08 11*32 01 00 AA", plain(Body::Error { code: 1, text: "" }));
}

#[test]
fn more_nodes_than_20_are_all_read() {
    let nodes = [node(0xA1, v4(1)); 32];
    reads_as(
        &format!("03 11*32 20 {}", "A1*32 CB 00 71 01 1F 90 ".repeat(32)),
        Message { nodes: &nodes, ..plain(Body::FoundNodes) },
    );
}

// Malformed bytes

#[test]
fn shorter_than_a_header_is_refused() {
    refused("", DecodeError::Short);
    refused("00", DecodeError::Short);
    refused("00 11*31", DecodeError::Short);
}

#[test]
fn longer_than_1280_bytes_is_refused() {
    let body = Body::Application { kind: 16, payload: &[0; MAX_READ - 33] };
    reads_as("10 11*32 00*1247", plain(body));
    refused("10 11*32 00*1248", DecodeError::Oversize);
    refused("10 11*32 00*65474", DecodeError::Oversize);
}

#[test]
fn reserved_types_are_refused() {
    for kind in 9..16 {
        refused(&format!("{kind:02X} 11*32"), DecodeError::UnknownType(kind));
    }
}

#[test]
fn a_cut_body_is_refused() {
    for kind in ["02", "05", "07"] {
        refused(&format!("{kind} 11*32 22*31"), DecodeError::Body);
    }
    for packet in ["03 11*32", "04 11*32 22*32 0F", "06 11*32 22*32", "08 11*32", "08 11*32 01"] {
        refused(packet, DecodeError::Body);
    }
}

#[test]
fn a_count_above_the_body_is_refused() {
    refused("03 11*32 02 A1*32 CB 00 71 01 1F 90", DecodeError::Body);
    refused("03 11*32 01 A1*37", DecodeError::Body);
    refused("03 11*32 FF", DecodeError::Body);
    refused("06 11*32 22*32 02 CB 00 71 01 1F 90", DecodeError::Body);
    refused("06 11*32 22*32 01 A1*5", DecodeError::Body);
    refused("08 11*32 01 02 66", DecodeError::Body);
}

#[test]
fn an_error_text_is_utf8_of_at_most_100_bytes() {
    let text = "f".repeat(100);
    reads_as("08 11*32 01 64 66*100", plain(Body::Error { code: 1, text: &text }));
    refused("08 11*32 01 65 66*101", DecodeError::Body);
    refused("08 11*32 01 02 C3 28", DecodeError::Body);
}

#[test]
fn a_field_that_is_cut_is_refused() {
    refused("00 11*32 4B 50 01 01", DecodeError::Trailer);
    refused("00 11*32 4B 50 01 01 00", DecodeError::Trailer);
    refused("00 11*32 4B 50 01 63 00 01", DecodeError::Trailer);
    refused("00 11*32 4B 50 01 08 FF FF 00", DecodeError::Trailer);
    refused("00 11*32 4B 50 01 01 00 08 C1 C2 C3 C4 C5 C6 C7", DecodeError::Trailer);
}

#[test]
fn a_tag_given_twice_is_refused() {
    refused("00 11*32 4B 50 01 01 00 08 C1*8 01 00 08 C1*8", DecodeError::Trailer);
    refused("00 11*32 4B 50 01 08 00 00 08 00 00", DecodeError::Trailer);
    refused("00 11*32 4B 50 01 C8 00 00 63 00 00 C8 00 00", DecodeError::Trailer);
}

#[test]
fn a_known_tag_of_a_wrong_length_is_refused() {
    let wrong: [(u8, &[usize]); 11] = [
        (1, &[0, 7, 9]),
        (2, &[0, 33]),
        (3, &[1, 37, 39]),
        (4, &[1, 49, 51]),
        (5, &[1, 17, 19]),
        (6, &[0, 5, 7, 17, 19]),
        (7, &[0, 2]),
        (9, &[0, 2]),
        (10, &[0, 17]),
        (12, &[0, 3, 5]),
        (13, &[0, 3, 5]),
    ];
    for (tag, lengths) in wrong {
        for len in lengths {
            let packet = format!("00 11*32 4B 50 01 {tag:02X} 00 {len:02X} 41*{len}");
            refused(&packet, DecodeError::Trailer);
        }
    }
}

#[test]
fn a_part_that_does_not_exist_is_refused() {
    for part in ["00 00 00 00", "00 01 00 01", "FF FF 00 02"] {
        refused(&format!("05 11*32 22*32 4B 50 01 0C 00 04 {part}"), DecodeError::Trailer);
    }
}

// Where not all fits

/// How many peers and nodes an encoding holds, which must be the first of each list.
#[track_caller]
fn held(message: &Message<'_>, limit: usize) -> (usize, usize) {
    let bytes = encoded(message, limit, 0).expect("room for a message without lists");
    assert!(bytes.len() <= limit);
    let mut lists = Lists::default();
    let read = native::decode(&bytes, &mut lists).expect("what is written can be read");
    let first = Message {
        peers: &message.peers[..read.peers.len()],
        nodes: &message.nodes[..read.nodes.len()],
        ..*message
    };
    assert_eq!((read.peers.to_vec(), read.nodes.to_vec()), carried(&first));
    (read.peers.len(), read.nodes.len())
}

#[test]
fn a_v01_request_of_65_bytes_gets_4_nodes_or_21_peers() {
    let nodes: Vec<Contact> = (0..20).map(|n| node(n, v4(n))).collect();
    let peers: Vec<Endpoint> = (0..64).map(v4).collect();
    let found = Message { nodes: &nodes, ..plain(Body::FoundNodes) };
    let known = Message { peers: &peers, ..plain(Body::Peers { topic: TOPIC }) };
    assert_eq!(held(&found, 3 * 65), (0, 4));
    assert_eq!(held(&known, 3 * 65), (21, 0));
}

#[test]
fn peers_come_before_nodes_and_the_first_before_the_rest() {
    let nodes: Vec<Contact> = (0..5).map(|n| node(n, v4(n))).chain([node(9, v6(9))]).collect();
    let peers: Vec<Endpoint> = (0..5).map(v4).chain((5..8).map(v6)).collect();
    let message =
        Message { nodes: &nodes, peers: &peers, ..with_txid(Body::Peers { topic: TOPIC }) };
    let mut last = (0, 0);
    for limit in 80..500 {
        let (peers_held, nodes_held) = held(&message, limit);
        assert!(peers_held >= last.0 && nodes_held >= last.1, "more room holds no less");
        assert!(nodes_held == 0 || peers_held == peers.len(), "a node before a peer");
        last = (peers_held, nodes_held);
    }
    assert_eq!(last, (peers.len(), nodes.len()));
}

#[test]
fn how_many_there_are_is_said_where_not_all_are_named() {
    for peers in [(0..64).map(v4).collect::<Vec<_>>(), (0..64).map(v6).collect()] {
        let trailer = Trailer { txid: Some(TXID), total: Some(64), ..Trailer::default() };
        let body = Body::Peers { topic: TOPIC };
        let message = Message { peers: &peers, ..with_trailer(body, trailer) };
        for limit in 80..=MAX_SENT {
            let bytes = encoded(&message, limit, 0).expect("room for a message without lists");
            assert!(bytes.len() <= limit);
            let mut lists = Lists::default();
            let read = native::decode(&bytes, &mut lists).expect("what is written can be read");
            let is_cut = read.peers.len() < 64;
            let has_room = limit >= 80 + 7;
            assert_eq!(read.trailer.unwrap().total, (is_cut && has_room).then_some(64), "{limit}");
        }
    }
}

#[test]
fn a_nearer_node_of_one_family_is_not_left_out_for_a_farther_one_of_the_other() {
    let nodes = [node(1, v6(1)), node(2, v4(2))];
    let message = Message { nodes: &nodes, ..with_txid(Body::FoundNodes) };
    let without_lists = 33 + 1 + 14;
    assert_eq!(held(&message, without_lists + 38), (0, 0));
    assert_eq!(held(&message, without_lists + 53), (0, 1));
    assert_eq!(held(&message, without_lists + 53 + 38), (0, 2));
}

#[test]
fn without_room_for_the_message_itself_nothing_is_written() {
    for (message, len) in [
        (plain(Body::Pong), 33),
        (with_txid(Body::Pong), 47),
        (plain(Body::FoundNodes), 34),
        (plain(Body::Error { code: 1, text: "full" }), 39),
    ] {
        assert_eq!(encoded(&message, len, 0).map(|bytes| bytes.len()), Some(len));
        let mut out = vec![0xEE];
        assert_eq!(native::encode(&message, len - 1, 0, &mut out), None);
        assert_eq!(out, [0xEE]);
    }
}

#[test]
fn no_datagram_is_above_1200_bytes() {
    let nodes: Vec<Contact> = (0..20).map(|n| node(n, v6(n.into()))).collect();
    let peers: Vec<Endpoint> = (0..64).map(v6).collect();
    let message =
        Message { nodes: &nodes, peers: &peers, ..with_txid(Body::Peers { topic: TOPIC }) };
    let bytes = encoded(&message, usize::MAX, 0).unwrap();
    assert!((MAX_SENT - 18..=MAX_SENT).contains(&bytes.len()));
    let payload = [0; MAX_SENT - 33 + 1];
    assert_eq!(
        encoded(&plain(Body::Application { kind: 16, payload: &payload }), usize::MAX, 0),
        None
    );
}

#[test]
fn an_error_text_above_100_bytes_is_not_written() {
    let text = "f".repeat(101);
    assert_eq!(encoded(&plain(Body::Error { code: 1, text: &text }), MAX_SENT, 0), None);
}

// Padding

#[test]
fn padding_is_a_field_of_zeros() {
    let bytes = encoded(&with_txid(Body::Ping), MAX_SENT, 60).unwrap();
    assert_eq!(bytes, hex("00 11*32 4B 50 01 01 00 08 C1 C2 C3 C4 C5 C6 C7 C8 08 00 0A 00*10"));
}

#[test]
fn a_padded_message_is_at_least_as_long_as_asked_and_means_the_same() {
    let message = with_txid(Body::FindNode { target: TOPIC });
    for pad_to in 0..500 {
        let bytes = encoded(&message, MAX_SENT, pad_to).unwrap();
        // A field takes three bytes, so where one or two are missing it comes out longer.
        assert!((pad_to..pad_to.max(79) + 3).contains(&bytes.len()), "{pad_to}: {}", bytes.len());
        assert_eq!(native::decode(&bytes, &mut Lists::default()), Ok(message));
    }
}

#[test]
fn a_message_without_a_trailer_is_not_padded() {
    let bytes = encoded(&plain(Body::FindNode { target: TOPIC }), MAX_SENT, 400).unwrap();
    assert_eq!(bytes.len(), 65);
}

#[test]
fn padding_stays_within_the_limit() {
    let message = with_txid(Body::FindNode { target: TOPIC });
    for limit in 79..100 {
        let bytes = encoded(&message, limit, limit).unwrap();
        assert!(bytes.len() <= limit, "{} bytes where {limit} are allowed", bytes.len());
    }
}

// What holds for any bytes

/// A type, and a body that is in order for it.
fn body() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let bytes = |len| prop::collection::vec(any::<u8>(), len);
    let counted = |entry: usize, max: usize| {
        let list = prop::collection::vec(prop::collection::vec(any::<u8>(), entry), 0..max);
        list.prop_map(|list| [vec![list.len() as u8], list.concat()].concat())
    };
    prop_oneof![
        (0_u8..2).prop_map(|kind| (kind, Vec::new())),
        (prop_oneof![Just(2_u8), Just(5), Just(7)], bytes(32..=32)),
        counted(38, 30).prop_map(|list| (3, list)),
        bytes(34..=34).prop_map(|body| (4, body)),
        (bytes(32..=32), counted(6, 100)).prop_map(|(topic, list)| (6, [topic, list].concat())),
        (any::<u8>(), "\\PC{0,25}")
            .prop_map(|(code, text)| (8, [&[code, text.len() as u8], text.as_bytes()].concat())),
        (16_u8.., bytes(0..=1_100)),
    ]
}

/// Fields that are in order, each tag once, in any order.
fn trailer() -> impl Strategy<Value = Vec<u8>> {
    let value = prop::collection::vec(any::<u8>(), 50..160);
    let fields = prop::collection::btree_map(0_u8..=15, value, 0..8);
    let in_order = |(tag, mut value): (u8, Vec<u8>)| {
        let len = match tag {
            1 => 8,
            2 => 1 + value.len() % 32,
            3 => value.len() / 38 * 38,
            4 => value.len() / 50 * 50,
            5 => value.len() / 18 * 18,
            6 => 6 + value.len() % 2 * 12,
            7 | 9 => 1,
            10 => 1 + value.len() % 16,
            11 => 2,
            12 | 13 => 4,
            14 => [8, 14, 26][value.len() % 3],
            _ => value.len(),
        };
        value.truncate(len);
        if let (12, [first, _, of, _]) = (tag, &mut value[..]) {
            (*first, *of) = (*first % 128, *of | 128);
        }
        [vec![tag, 0, len as u8], value].concat()
    };
    let shuffled = fields.prop_map(|fields| fields.into_iter().collect::<Vec<_>>()).prop_shuffle();
    shuffled.prop_map(move |fields| {
        let fields = fields.into_iter().flat_map(in_order);
        [0x4B, 0x50, 1].into_iter().chain(fields).collect()
    })
}

/// A packet that is in order, though it may be too long.
fn packet() -> impl Strategy<Value = Vec<u8>> {
    (body(), any::<[u8; 32]>(), prop::option::of(trailer())).prop_map(
        |((kind, body), sender, trailer)| {
            [vec![kind], sender.to_vec(), body, trailer.unwrap_or_default()].concat()
        },
    )
}

/// What `message` lists, as far as its type can carry it, in the order in which it is written.
fn carried(message: &Message<'_>) -> (Vec<Endpoint>, Vec<Contact>) {
    let is_peers = matches!(message.body, Body::Peers { .. });
    let is_found_nodes = message.body == Body::FoundNodes;
    let mut peers = if is_peers { message.peers.to_vec() } else { Vec::new() };
    let mut nodes = if is_peers || is_found_nodes { message.nodes.to_vec() } else { Vec::new() };
    peers.sort_by_key(|peer| !peer.is_ipv4());
    nodes.sort_by_key(|node| !node.endpoint.is_ipv4());
    (peers, nodes)
}

/// Reading is total, and what it gives can be written and read again.
fn check(datagram: &[u8]) {
    let mut lists = Lists::default();
    let Ok(message) = native::decode(datagram, &mut lists) else {
        return;
    };

    let body = native::body_of(datagram);
    let (head, rest) = datagram.split_at(33 + body.len());
    assert_eq!(&head[33..], body);
    assert_eq!(message.trailer.is_some(), rest.starts_with(b"KP\x01"));
    let mut lists = Lists::default();
    let head = native::decode(head, &mut lists).expect("a packet without its trailer is one");
    assert_eq!((head.sender, head.body, head.trailer), (message.sender, message.body, None));
    assert!(message.nodes.starts_with(head.nodes) || message.trailer.is_some());

    let Some(bytes) = encoded(&message, MAX_SENT, 0) else {
        assert!(datagram.len() > MAX_SENT);
        return;
    };
    let mut lists = Lists::default();
    let again = native::decode(&bytes, &mut lists).expect("what is written can be read");
    assert_eq!((again.sender, again.body), (message.sender, message.body));
    // How many peers there are, it says only where it does not name all.
    let is_said = |total: &u32| *total as usize > again.peers.len();
    let total = message.trailer.and_then(|trailer| trailer.total).filter(is_said);
    assert_eq!(again.trailer, message.trailer.map(|trailer| Trailer { total, ..trailer }));
    if datagram.len() <= MAX_SENT {
        assert_eq!((again.peers.to_vec(), again.nodes.to_vec()), carried(&message));
    }
    assert_eq!(encoded(&again, MAX_SENT, 0), Some(bytes.clone()));
}

proptest! {
    #[test]
    fn random_bytes_are_read_or_refused(
        kind in prop_oneof![0_u8..17, any::<u8>()],
        rest in prop::collection::vec(any::<u8>(), 0..1_400),
    ) {
        check(&[vec![kind], rest].concat());
    }

    #[test]
    fn packets_in_order_are_read_and_written_again(packet in packet()) {
        prop_assert_eq!(
            native::decode(&packet, &mut Lists::default()).is_ok(),
            packet.len() <= MAX_READ
        );
        check(&packet);
    }

    #[test]
    fn mutated_packets_are_read_or_refused(
        mut packet in packet(),
        changes in prop::collection::vec((any::<Index>(), any::<u8>()), 0..4),
        len in prop::option::of(0_usize..1_400),
        filler: u8,
    ) {
        for (at, byte) in changes {
            let at = at.index(packet.len());
            packet[at] = byte;
        }
        packet.resize(len.unwrap_or(packet.len()), filler);
        check(&packet);
    }

    #[test]
    fn an_encoding_never_exceeds_its_limit(packet in packet(), limit in 0_usize..1_400) {
        let mut lists = Lists::default();
        if let Ok(message) = native::decode(&packet, &mut lists) {
            let mut out = vec![0xEE; 7];
            let len = native::encode(&message, limit, 0, &mut out).unwrap_or(0);
            prop_assert!(len <= limit.min(MAX_SENT));
            prop_assert_eq!(out.len(), 7 + len);
            prop_assert_eq!(&out[..7], &[0xEE; 7]);
        }
    }
}
