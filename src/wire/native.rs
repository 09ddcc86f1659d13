//! KadePy's own wire format: v0.1's packet, then an optional trailer of tagged fields.
//!
//! Reading is total: any bytes give a message or a [`DecodeError`]. Past this file no length is
//! checked again. `docs/wire-protocol.md` is the specification.

use arrayvec::ArrayVec;
use thiserror::Error;

use super::message::{Body, Contact, Endpoint, Message, Part, Probe, Trailer, TxId, Want};
use crate::id::{ID_LEN, NodeId};

/// The longest datagram that a node sends, in bytes.
pub const MAX_SENT: usize = 1_200;
/// The longest datagram that a node reads, in bytes.
pub const MAX_READ: usize = 1_280;
/// The bytes of a packet without a body.
pub const HEADER_LEN: usize = 1 + ID_LEN;
/// The longest payload of an application message, in bytes.
pub const MAX_PAYLOAD: usize = 1_100;
/// The first of the types that belong to applications.
pub const FIRST_APPLICATION_KIND: u8 = 16;
/// The most bytes of an error's text.
pub const MAX_ERROR_TEXT: usize = 100;

const MAGIC: [u8; 3] = [b'K', b'P', 1];
const FIELD_HEADER_LEN: usize = 3;
const NODE4_LEN: usize = ID_LEN + PEER4_LEN;
const NODE6_LEN: usize = ID_LEN + PEER6_LEN;
const PEER4_LEN: usize = 6;
const PEER6_LEN: usize = 18;
const PART_LEN: usize = 4;
const TOTAL_LEN: usize = 4;
const TXID_LEN: usize = 8;
/// A PROBE that names an IPv4 or an IPv6 address.
const PROBE4_LEN: usize = TXID_LEN + PEER4_LEN;
const PROBE6_LEN: usize = TXID_LEN + PEER6_LEN;
const MAX_NODES: usize = MAX_READ / NODE4_LEN;
const MAX_PEERS: usize = MAX_READ / PEER4_LEN;

const FLAG_READ_ONLY: u8 = 1;
const FLAG_IMPLIED_PORT: u8 = 2;
const WANT_V4: u8 = 1;
const WANT_V6: u8 = 2;

/// The tags of the trailer's fields.
mod tag {
    pub const TXID: u8 = 1;
    pub const TOKEN: u8 = 2;
    pub const NODES4: u8 = 3;
    pub const NODES6: u8 = 4;
    pub const PEERS6: u8 = 5;
    pub const ENDPOINT: u8 = 6;
    pub const FLAGS: u8 = 7;
    pub const PADDING: u8 = 8;
    pub const WANT: u8 = 9;
    pub const AGENT: u8 = 10;
    pub const BOOT: u8 = 11;
    pub const PART: u8 = 12;
    pub const TOTAL: u8 = 13;
    pub const PROBE: u8 = 14;
}

/// The types of packets.
mod kind {
    pub const PING: u8 = 0;
    pub const PONG: u8 = 1;
    pub const FIND_NODE: u8 = 2;
    pub const FOUND_NODES: u8 = 3;
    pub const ANNOUNCE_PEER: u8 = 4;
    pub const GET_PEERS: u8 = 5;
    pub const PEERS: u8 = 6;
    pub const ANNOUNCED: u8 = 7;
    pub const ERROR: u8 = 8;
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Shorter than a type and a sender id.
    #[error("shorter than a header of {HEADER_LEN} bytes")]
    Short,
    /// Longer than any node sends.
    #[error("longer than {MAX_READ} bytes")]
    Oversize,
    /// A reserved type.
    #[error("type {0} is reserved")]
    UnknownType(u8),
    /// The body is shorter than its type and counts say, or its text is none.
    #[error("the body is cut or malformed")]
    Body,
    /// The trailer breaks its rules.
    #[error("the trailer is malformed")]
    Trailer,
}

/// Room for the lists of one message while it is read: as much as a datagram can hold.
#[derive(Default)]
pub struct Lists {
    nodes: ArrayVec<Contact, MAX_NODES>,
    peers: ArrayVec<Endpoint, MAX_PEERS>,
    /// The interface of the link-local addresses that are read.
    scope: u32,
}

/// Reads one datagram.
///
/// The link-local addresses in it are on the link that `lists` is for: they travel without their
/// interface.
///
/// # Errors
///
/// [`DecodeError`] says what is wrong with it; nothing of such a datagram is to be used.
pub fn decode<'a>(datagram: &'a [u8], lists: &'a mut Lists) -> Result<Message<'a>, DecodeError> {
    if datagram.len() > MAX_READ {
        return Err(DecodeError::Oversize);
    }
    let (header, rest) = datagram.split_first_chunk::<HEADER_LEN>().ok_or(DecodeError::Short)?;
    let (kind, sender) = (header[0], &header[1..]);
    let mut rest = Reader(rest);
    lists.nodes.clear();
    lists.peers.clear();

    let body = match kind {
        kind::PING => Body::Ping,
        kind::PONG => Body::Pong,
        kind::FIND_NODE => Body::FindNode { target: rest.id()? },
        kind::FOUND_NODES => {
            let count: usize = rest.u8()?.into();
            lists.read_nodes4(rest.take(count * NODE4_LEN)?);
            Body::FoundNodes
        }
        kind::ANNOUNCE_PEER => Body::AnnouncePeer { topic: rest.id()?, port: rest.u16()? },
        kind::GET_PEERS => Body::GetPeers { topic: rest.id()? },
        kind::PEERS => {
            let topic = rest.id()?;
            let count: usize = rest.u8()?.into();
            lists.read_peers4(rest.take(count * PEER4_LEN)?);
            Body::Peers { topic }
        }
        kind::ANNOUNCED => Body::Announced { topic: rest.id()? },
        kind::ERROR => {
            let code = rest.u8()?;
            let len: usize = rest.u8()?.into();
            let text = std::str::from_utf8(rest.take(len)?).map_err(|_| DecodeError::Body)?;
            if text.len() > MAX_ERROR_TEXT {
                return Err(DecodeError::Body);
            }
            Body::Error { code, text }
        }
        reserved @ ..FIRST_APPLICATION_KIND => return Err(DecodeError::UnknownType(reserved)),
        kind => Body::Application { kind, payload: std::mem::take(&mut rest.0) },
    };
    let trailer = match rest.0.strip_prefix(&MAGIC) {
        Some(fields) => Some(read_trailer(fields, lists)?),
        None => None,
    };
    Ok(Message { sender: id_from(sender), body, nodes: &lists.nodes, peers: &lists.peers, trailer })
}

/// The body of a packet as it came, without header and trailer.
///
/// `datagram` must be one that [`decode`] has read; an application message is all body.
pub fn body_of(datagram: &[u8]) -> &[u8] {
    let rest = datagram.get(HEADER_LEN..).unwrap_or_default();
    let count = |at: usize| usize::from(rest.get(at).copied().unwrap_or(0));
    let len = match datagram.first() {
        Some(&kind::PING | &kind::PONG) => 0,
        Some(&kind::FIND_NODE | &kind::GET_PEERS | &kind::ANNOUNCED) => ID_LEN,
        Some(&kind::ANNOUNCE_PEER) => ID_LEN + 2,
        Some(&kind::FOUND_NODES) => 1 + count(0) * NODE4_LEN,
        Some(&kind::PEERS) => ID_LEN + 1 + count(ID_LEN) * PEER4_LEN,
        Some(&kind::ERROR) => 2 + count(1),
        _ => rest.len(),
    };
    rest.get(..len).unwrap_or(rest)
}

/// Writes `message` to the end of `out`, in at most `limit` bytes ([`MAX_SENT`] at the most) and,
/// with a trailer, padded to `pad_to`; returns how many bytes that took.
///
/// Where not all fits, the peers come before the nodes and the first of each list before the
/// rest. `None`, and nothing written, where even the message without lists is too long.
#[must_use]
pub fn encode(
    message: &Message<'_>,
    limit: usize,
    pad_to: usize,
    out: &mut Vec<u8>,
) -> Option<usize> {
    let limit = limit.min(MAX_SENT);
    let plan = Plan::new(message, limit)?;
    let start = out.len();
    write_body(message, &plan, out);
    if let Some(trailer) = &message.trailer {
        write_trailer(message, trailer, &plan, out);
        let len = out.len() - start;
        if len < pad_to && len + FIELD_HEADER_LEN <= limit {
            let padding = pad_to.min(limit).saturating_sub(len + FIELD_HEADER_LEN);
            put_field_header(out, tag::PADDING, padding);
            out.resize(out.len() + padding, 0);
        }
    }
    Some(out.len() - start)
}

impl Lists {
    /// For a datagram that came from `from`.
    pub fn of(from: &Endpoint) -> Self {
        Self { scope: from.scope(), ..Self::default() }
    }

    fn read_nodes4(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks_exact(NODE4_LEN) {
            let (id, address) = chunk.split_at(ID_LEN);
            self.push_node(Contact { id: id_from(id), endpoint: endpoint4(address) });
        }
    }

    fn read_nodes6(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks_exact(NODE6_LEN) {
            let (id, address) = chunk.split_at(ID_LEN);
            self.push_node(Contact { id: id_from(id), endpoint: self.endpoint6(address) });
        }
    }

    fn read_peers4(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks_exact(PEER4_LEN) {
            self.push_peer(endpoint4(chunk));
        }
    }

    fn read_peers6(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks_exact(PEER6_LEN) {
            self.push_peer(self.endpoint6(chunk));
        }
    }

    fn endpoint6(&self, bytes: &[u8]) -> Endpoint {
        let mut ip = [0; 16];
        ip.copy_from_slice(&bytes[..16]);
        let port = u16::from_be_bytes([bytes[16], bytes[17]]);
        Endpoint::new(ip, port).with_scope(self.scope)
    }

    fn push_node(&mut self, node: Contact) {
        self.nodes
            .try_push(node)
            .expect("a datagram of MAX_READ bytes holds no more than MAX_NODES");
    }

    fn push_peer(&mut self, peer: Endpoint) {
        self.peers
            .try_push(peer)
            .expect("a datagram of MAX_READ bytes holds no more than MAX_PEERS");
    }
}

/// What is left of a datagram.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(DecodeError::Body)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn id(&mut self) -> Result<NodeId, DecodeError> {
        self.take(ID_LEN).map(id_from)
    }
}

fn read_trailer<'a>(fields: &'a [u8], lists: &mut Lists) -> Result<Trailer<'a>, DecodeError> {
    let mut trailer = Trailer::default();
    let mut seen = [0_u64; 4];
    let mut rest = Reader(fields);
    while !rest.0.is_empty() {
        let cut = |_| DecodeError::Trailer;
        let tag = rest.u8().map_err(cut)?;
        let len: usize = rest.u16().map_err(cut)?.into();
        let value = rest.take(len).map_err(cut)?;

        let (word, bit) = (usize::from(tag / 64), 1 << (tag % 64));
        if seen[word] & bit != 0 {
            return Err(DecodeError::Trailer);
        }
        seen[word] |= bit;

        match (tag, len) {
            (tag::TXID, TXID_LEN) => trailer.txid = Some(txid_from(value)),
            (tag::TOKEN, 1..=32) => trailer.token = Some(value),
            (tag::NODES4, len) if len % NODE4_LEN == 0 => lists.read_nodes4(value),
            (tag::NODES6, len) if len % NODE6_LEN == 0 => lists.read_nodes6(value),
            (tag::PEERS6, len) if len % PEER6_LEN == 0 => lists.read_peers6(value),
            (tag::ENDPOINT, PEER4_LEN) => trailer.endpoint = Some(endpoint4(value)),
            (tag::ENDPOINT, PEER6_LEN) => trailer.endpoint = Some(lists.endpoint6(value)),
            (tag::FLAGS, 1) => {
                trailer.read_only = value[0] & FLAG_READ_ONLY != 0;
                trailer.implied_port = value[0] & FLAG_IMPLIED_PORT != 0;
            }
            (tag::PADDING, _) => {}
            (tag::WANT, 1) => {
                trailer.want =
                    Some(Want { v4: value[0] & WANT_V4 != 0, v6: value[0] & WANT_V6 != 0 });
            }
            (tag::AGENT, 1..=16) => trailer.agent = std::str::from_utf8(value).ok(),
            (tag::BOOT, 2) => trailer.boot = Some(u16::from_be_bytes([value[0], value[1]])),
            (tag::PART, PART_LEN) => trailer.part = part_from(value).ok_or(DecodeError::Trailer)?,
            (tag::TOTAL, TOTAL_LEN) => {
                trailer.total = Some(u32::from_be_bytes([value[0], value[1], value[2], value[3]]));
            }
            (tag::PROBE, TXID_LEN | PROBE4_LEN | PROBE6_LEN) => {
                let (txid, to) = value.split_at(TXID_LEN);
                let to = match to.len() {
                    PEER4_LEN => Some(endpoint4(to)),
                    PEER6_LEN => Some(lists.endpoint6(to)),
                    _ => None,
                };
                trailer.probe = Some(Probe { txid: txid_from(txid), to });
            }
            (tag::TXID..=tag::PROBE, _) => return Err(DecodeError::Trailer),
            _ => {}
        }
    }
    Ok(trailer)
}

fn id_from(bytes: &[u8]) -> NodeId {
    let mut id = [0; ID_LEN];
    id.copy_from_slice(bytes);
    NodeId(id)
}

fn txid_from(bytes: &[u8]) -> TxId {
    let mut txid = [0; TXID_LEN];
    txid.copy_from_slice(bytes);
    TxId(txid)
}

fn part_from(bytes: &[u8]) -> Option<Part> {
    let number = |at| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    Part::new(number(0), number(2))
}

fn endpoint4(bytes: &[u8]) -> Endpoint {
    Endpoint::new(
        [bytes[0], bytes[1], bytes[2], bytes[3]],
        u16::from_be_bytes([bytes[4], bytes[5]]),
    )
}

/// How much of a message's lists is written.
struct Plan<'a> {
    peers: &'a [Endpoint],
    nodes: &'a [Contact],
    total: Option<u32>,
}

/// Where a family's entries go: the bytes of one, and of the field that the first one opens.
#[derive(Clone, Copy)]
struct Slot {
    entry: usize,
    opening: usize,
}

impl<'a> Plan<'a> {
    fn new(message: &Message<'a>, limit: usize) -> Option<Self> {
        let field = message.trailer.map(|_| FIELD_HEADER_LEN);
        let in_field = |entry| field.map(|opening| Slot { entry, opening });
        let in_body = |entry| Some(Slot { entry, opening: 0 });
        let (body, peer_slots, node_slots) = match message.body {
            Body::Ping | Body::Pong => (0, [None, None], [None, None]),
            Body::FindNode { .. } | Body::GetPeers { .. } | Body::Announced { .. } => {
                (ID_LEN, [None, None], [None, None])
            }
            Body::AnnouncePeer { .. } => (ID_LEN + 2, [None, None], [None, None]),
            Body::FoundNodes => (1, [None, None], [in_body(NODE4_LEN), in_field(NODE6_LEN)]),
            Body::Peers { .. } => (
                ID_LEN + 1,
                [in_body(PEER4_LEN), in_field(PEER6_LEN)],
                [in_field(NODE4_LEN), in_field(NODE6_LEN)],
            ),
            Body::Error { text, .. } if text.len() > MAX_ERROR_TEXT => return None,
            Body::Error { text, .. } => (2 + text.len(), [None, None], [None, None]),
            Body::Application { payload, .. } => (payload.len(), [None, None], [None, None]),
        };
        let trailer = message.trailer.as_ref().map_or(0, trailer_len);
        let mut room = limit.checked_sub(HEADER_LEN + body + trailer)?;
        let is_ipv4 = |peer: &Endpoint| peer.is_ipv4();
        let mut left = room;
        let mut peers = fitting(message.peers, is_ipv4, &peer_slots, &mut left);
        let total = message.trailer.and_then(|trailer| trailer.total);
        let total = total.filter(|&total| total as usize > peers.len());
        // Where not even this much room is left, who asked so sparingly gets what fits.
        let total = total.filter(|_| room >= FIELD_HEADER_LEN + TOTAL_LEN);
        if total.is_some() {
            room -= FIELD_HEADER_LEN + TOTAL_LEN;
            left = room;
            peers = fitting(message.peers, is_ipv4, &peer_slots, &mut left);
        }
        let nodes = fitting(message.nodes, |node| node.endpoint.is_ipv4(), &node_slots, &mut left);
        Some(Self { peers, nodes, total })
    }
}

/// The longest head of `list` whose entries fit in `room`, which shrinks by what they take. An
/// entry that has no slot in this message takes nothing.
fn fitting<'a, T>(
    list: &'a [T],
    is_ipv4: impl Fn(&T) -> bool,
    &[mut slot4, mut slot6]: &[Option<Slot>; 2],
    room: &mut usize,
) -> &'a [T] {
    for (index, entry) in list.iter().enumerate() {
        let slot = if is_ipv4(entry) { &mut slot4 } else { &mut slot6 };
        if let Some(slot) = slot {
            let Some(left) = room.checked_sub(slot.entry + slot.opening) else {
                return &list[..index];
            };
            *room = left;
            slot.opening = 0;
        }
    }
    list
}

fn trailer_len(trailer: &Trailer<'_>) -> usize {
    let field = |len: usize| FIELD_HEADER_LEN + len;
    MAGIC.len()
        + trailer.txid.map_or(0, |_| field(TXID_LEN))
        + trailer.endpoint.map_or(0, |endpoint| field(endpoint_len(&endpoint)))
        + trailer.token.map_or(0, |token| field(token.len()))
        + if flags(trailer) == 0 { 0 } else { field(1) }
        + trailer.want.map_or(0, |_| field(1))
        + trailer.agent.map_or(0, |agent| field(agent.len()))
        + trailer.boot.map_or(0, |_| field(2))
        + if trailer.part == Part::WHOLE { 0 } else { field(PART_LEN) }
        + trailer.probe.map_or(0, |probe| field(probe_len(&probe)))
}

fn endpoint_len(endpoint: &Endpoint) -> usize {
    if endpoint.is_ipv4() { PEER4_LEN } else { PEER6_LEN }
}

fn probe_len(probe: &Probe) -> usize {
    TXID_LEN + probe.to.as_ref().map_or(0, endpoint_len)
}

fn flags(trailer: &Trailer<'_>) -> u8 {
    u8::from(trailer.read_only) * FLAG_READ_ONLY
        + u8::from(trailer.implied_port) * FLAG_IMPLIED_PORT
}

fn write_body(message: &Message<'_>, plan: &Plan<'_>, out: &mut Vec<u8>) {
    let header = |kind: u8, out: &mut Vec<u8>| {
        out.push(kind);
        out.extend_from_slice(&message.sender.0);
    };
    match message.body {
        Body::Ping => header(kind::PING, out),
        Body::Pong => header(kind::PONG, out),
        Body::FindNode { target } => {
            header(kind::FIND_NODE, out);
            out.extend_from_slice(&target.0);
        }
        Body::FoundNodes => {
            header(kind::FOUND_NODES, out);
            put_counted(out, |out| put_nodes(out, plan.nodes, true));
        }
        Body::AnnouncePeer { topic, port } => {
            header(kind::ANNOUNCE_PEER, out);
            out.extend_from_slice(&topic.0);
            out.extend_from_slice(&port.to_be_bytes());
        }
        Body::GetPeers { topic } => {
            header(kind::GET_PEERS, out);
            out.extend_from_slice(&topic.0);
        }
        Body::Peers { topic } => {
            header(kind::PEERS, out);
            out.extend_from_slice(&topic.0);
            put_counted(out, |out| put_peers(out, plan.peers, true));
        }
        Body::Announced { topic } => {
            header(kind::ANNOUNCED, out);
            out.extend_from_slice(&topic.0);
        }
        Body::Error { code, text } => {
            header(kind::ERROR, out);
            let len = u8::try_from(text.len()).expect("the plan refuses a text above 100 bytes");
            out.extend_from_slice(&[code, len]);
            out.extend_from_slice(text.as_bytes());
        }
        Body::Application { kind, payload } => {
            header(kind, out);
            out.extend_from_slice(payload);
        }
    }
}

fn write_trailer(message: &Message<'_>, trailer: &Trailer<'_>, plan: &Plan<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&MAGIC);
    if let Some(txid) = trailer.txid {
        put_field(out, tag::TXID, &txid.0);
    }
    if let Some(endpoint) = &trailer.endpoint {
        put_field_header(out, tag::ENDPOINT, endpoint_len(endpoint));
        put_endpoint(out, endpoint);
    }
    if let Some(token) = trailer.token {
        put_field(out, tag::TOKEN, token);
    }
    if flags(trailer) != 0 {
        put_field(out, tag::FLAGS, &[flags(trailer)]);
    }
    if let Some(want) = trailer.want {
        put_field(out, tag::WANT, &[u8::from(want.v4) * WANT_V4 + u8::from(want.v6) * WANT_V6]);
    }
    if let Some(agent) = trailer.agent {
        put_field(out, tag::AGENT, agent.as_bytes());
    }
    if let Some(boot) = trailer.boot {
        put_field(out, tag::BOOT, &boot.to_be_bytes());
    }
    if trailer.part != Part::WHOLE {
        put_field_header(out, tag::PART, PART_LEN);
        out.extend_from_slice(&trailer.part.index().to_be_bytes());
        out.extend_from_slice(&trailer.part.count().to_be_bytes());
    }
    if let Some(probe) = &trailer.probe {
        put_field_header(out, tag::PROBE, probe_len(probe));
        out.extend_from_slice(&probe.txid.0);
        probe.to.iter().for_each(|to| put_endpoint(out, to));
    }
    if let Some(total) = plan.total {
        put_field(out, tag::TOTAL, &total.to_be_bytes());
    }
    match message.body {
        Body::FoundNodes => {
            put_list(out, tag::NODES6, NODE6_LEN, |out| put_nodes(out, plan.nodes, false))
        }
        Body::Peers { .. } => {
            put_list(out, tag::PEERS6, PEER6_LEN, |out| put_peers(out, plan.peers, false));
            put_list(out, tag::NODES4, NODE4_LEN, |out| put_nodes(out, plan.nodes, true));
            put_list(out, tag::NODES6, NODE6_LEN, |out| put_nodes(out, plan.nodes, false));
        }
        _ => {}
    }
}

/// A list behind one byte that counts its entries.
fn put_counted(out: &mut Vec<u8>, list: impl FnOnce(&mut Vec<u8>) -> usize) {
    let at = out.len();
    out.push(0);
    let count = list(out);
    out[at] =
        u8::try_from(count).expect("a datagram of MAX_SENT bytes holds fewer than 256 entries");
}

/// A list as a field, which is left out where it is empty.
fn put_list(out: &mut Vec<u8>, tag: u8, entry: usize, list: impl FnOnce(&mut Vec<u8>) -> usize) {
    let at = out.len();
    put_field_header(out, tag, 0);
    match list(out) {
        0 => out.truncate(at),
        count => {
            let len =
                u16::try_from(count * entry).expect("a datagram is shorter than 65,536 bytes");
            out[at + 1..at + 3].copy_from_slice(&len.to_be_bytes());
        }
    }
}

fn put_nodes(out: &mut Vec<u8>, nodes: &[Contact], ipv4: bool) -> usize {
    let mut count = 0;
    for node in nodes.iter().filter(|node| node.endpoint.is_ipv4() == ipv4) {
        out.extend_from_slice(&node.id.0);
        put_endpoint(out, &node.endpoint);
        count += 1;
    }
    count
}

fn put_peers(out: &mut Vec<u8>, peers: &[Endpoint], ipv4: bool) -> usize {
    let mut count = 0;
    for peer in peers.iter().filter(|peer| peer.is_ipv4() == ipv4) {
        put_endpoint(out, peer);
        count += 1;
    }
    count
}

fn put_endpoint(out: &mut Vec<u8>, endpoint: &Endpoint) {
    let ip = endpoint.ip_bytes();
    out.extend_from_slice(if endpoint.is_ipv4() { &ip[12..] } else { ip });
    out.extend_from_slice(&endpoint.port().to_be_bytes());
}

fn put_field(out: &mut Vec<u8>, tag: u8, value: &[u8]) {
    put_field_header(out, tag, value.len());
    out.extend_from_slice(value);
}

fn put_field_header(out: &mut Vec<u8>, tag: u8, len: usize) {
    let len = u16::try_from(len).expect("a datagram is shorter than 65,536 bytes");
    out.push(tag);
    out.extend_from_slice(&len.to_be_bytes());
}
