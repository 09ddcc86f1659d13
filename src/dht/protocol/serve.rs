//! What the node does for strangers: it answers their requests, stores what they announce, and
//! considers whether to list who asked. What it asks of others itself is not here.

use arrayvec::ArrayVec;

use super::engine::Engine;
use super::output::Outbox;
use super::stats::Refusal;
use crate::dht::requests::Purpose;
use crate::dht::routing::Entry;
use crate::dht::tables::Closest;
use crate::id::NodeId;
use crate::time::Time;
use crate::wire::message::{
    Body, Contact, Endpoint, ErrorCode, Message, Part, Trailer, TxId, Want,
};

/// The peers in an answer, at most.
type Peers = ArrayVec<Endpoint, 128>;

/// The bytes of a PING with a transaction id, not sealed: what a request may cause beside its answer.
const PROBE_LEN: usize = 47;

impl Engine {
    /// Serves a request of `len` bytes, and considers who sent it as what it is to be listed for.
    pub(super) fn serve(
        &mut self,
        now: Time,
        from: Endpoint,
        request: &Message<'_>,
        len: usize,
        purpose: Purpose,
        out: &mut Outbox,
    ) {
        let allowance = self.guard.allowance(&from, len);
        if let Some(used) = self.answer(now, from, request, allowance, out) {
            self.consider(now, from, request, allowance - used, purpose, out);
        }
    }

    /// Answers a request in at most `allowance` bytes; gives how many it took, or `None` where the
    /// request is refused.
    fn answer(
        &mut self,
        now: Time,
        from: Endpoint,
        request: &Message<'_>,
        allowance: usize,
        out: &mut Outbox,
    ) -> Option<usize> {
        let asked = request.trailer;
        let trailer = asked.map(|asked| self.trailer_for(&from, asked.txid));
        let want = asked.and_then(|asked| asked.want).unwrap_or(Want::family_of(&from));
        let mut reply = Message::new(self.id, Body::Pong, trailer);
        // Here, and filled where they are: to move them would cost more than to fill them.
        let mut nodes = Closest::new();
        let mut peers = Peers::new();
        let token;

        match request.body {
            Body::Ping => {}
            Body::FindNode { target } => {
                reply.body = Body::FoundNodes;
                self.list_closest(now, &from, want, &target, &mut nodes);
                reply.nodes = &nodes;
            }
            Body::GetPeers { topic } => {
                let part = asked.unwrap_or_default().part;
                let total = self.list_peers(now, &from, want, (topic, part), &mut peers);
                token = self.guard.token(now, &from, &topic);
                if let Some(trailer) = &mut reply.trailer {
                    trailer.token = Some(&token);
                    trailer.total = u32::try_from(total).ok();
                }
                if part == Part::WHOLE {
                    // Who asks for a part has asked for the whole before, and knows them.
                    self.list_closest(now, &from, want, &topic, &mut nodes);
                    reply.nodes = &nodes;
                }
                reply.body =
                    if peers.is_empty() { Body::FoundNodes } else { Body::Peers { topic } };
                reply.peers = &peers;
            }
            Body::AnnouncePeer { topic, port } => {
                if let Err(code) = self.store(now, from, topic, port, asked) {
                    // Noise gets no answer: only a request that names itself is told.
                    if let (Some(code), Some(_)) = (code, request.txid()) {
                        reply.body = Body::Error { code: code as u8, text: code.text() };
                        self.transmit(from, &reply, allowance, 0, out);
                    }
                    return None;
                }
                if asked.is_none() {
                    return Some(0);
                }
                reply.body = Body::Announced { topic };
            }
            _ => return None,
        }
        Some(self.transmit(from, &reply, allowance, 0, out))
    }

    /// What every answer to a request with a trailer says.
    fn trailer_for<'a>(&self, from: &Endpoint, txid: Option<TxId>) -> Trailer<'a> {
        Trailer { txid, endpoint: Some(*from), boot: Some(self.boot), ..Trailer::default() }
    }

    /// Lists the peers to name in an answer to `from`; returns how many are stored of what is asked.
    fn list_peers(
        &mut self,
        now: Time,
        from: &Endpoint,
        want: Want,
        (topic, part): (NodeId, Part),
        peers: &mut Peers,
    ) -> usize {
        let guard = &self.guard;
        let wanted = |peer: &Endpoint| {
            want.includes(peer) && peer.means_same_to(from) && guard.is_in(part, peer)
        };
        let max = self.config.reply_peers;
        let total = self.storage.sample(now, topic, max, wanted, &mut self.rng, peers);
        if part == Part::WHOLE {
            // A member is a peer itself, whether or not it stores its own record.
            for own in self.own_records(topic, Some(from)) {
                if want.includes(&own) && !peers.contains(&own) {
                    peers.truncate(max.saturating_sub(1));
                    peers.insert(0, own);
                }
            }
        }
        total
    }

    /// Stores an announced peer.
    ///
    /// # Errors
    ///
    /// What to tell the sender, if anything; the refusal is counted.
    fn store(
        &mut self,
        now: Time,
        from: Endpoint,
        topic: NodeId,
        port: u16,
        trailer: Option<Trailer<'_>>,
    ) -> Result<(), Option<ErrorCode>> {
        let implied = trailer.is_some_and(|trailer| trailer.implied_port);
        let port = if implied { from.port() } else { port };
        if port == 0 {
            self.refuse(Refusal::Malformed);
            return Err(None);
        }
        let may_store = match trailer.and_then(|trailer| trailer.token) {
            Some(token) => self.guard.accepts_token(now, &from, &topic, token),
            None => self.trusts_legacy(&from),
        };
        if !may_store {
            self.refuse(Refusal::Token);
            return Err(Some(ErrorCode::BadToken));
        }
        let peer = from.with_port(port);
        self.storage.store(now, topic, peer).map_err(|_| {
            self.refuse(Refusal::Storage);
            Some(ErrorCode::StorageFull)
        })?;
        self.take_announced(now, topic, peer);
        Ok(())
    }

    /// Makes the sender of a request, or of the answer to a beacon, a candidate for the table, where
    /// what is left of the allowance pays for asking it.
    ///
    /// A local one is asked at once, for it cannot be a stranger whose address somebody else wrote
    /// into the packet; so the nodes of one machine know each other as soon as they have met.
    pub(super) fn consider(
        &mut self,
        now: Time,
        from: Endpoint,
        request: &Message<'_>,
        allowance_left: usize,
        purpose: Purpose,
        out: &mut Outbox,
    ) {
        if allowance_left < PROBE_LEN + self.seal.overhead() {
            return;
        }
        let candidate = Contact { id: request.sender, endpoint: from };
        let is_welcome = !request.trailer.is_some_and(|trailer| trailer.read_only)
            && (self.table.has_use_for(&candidate) || self.has_begun_anew(&from, request))
            && !self.requests.is_asking(from);
        if !is_welcome {
            return;
        }
        // One that is listed is asked about what does not fit, and not more often than it takes to
        // tell. If it has moved, it is taken in once nobody answers at the former address. That is
        // asked only when the other has answered: a packet may be forged to have it asked.
        let listed = self.table.of(&from).get(&candidate.id);
        if listed.is_some_and(|entry| entry.is_reliable()) {
            if self.doubts.raise(now, candidate) {
                self.check(now, candidate, out);
            }
            return;
        }
        let is_taken = if from.is_local() {
            // Half of the room for requests is kept for what callers want.
            let has_room = self.requests.len() < self.config.open_requests / 2;
            has_room && self.greet(now, candidate, purpose, out)
        } else {
            self.guard.candidates().push(candidate)
        };
        if !is_taken {
            self.refuse(Refusal::Candidates);
        }
    }

    /// Whether a request says that its sender, a contact, has begun anew since it last answered.
    fn has_begun_anew(&self, from: &Endpoint, request: &Message<'_>) -> bool {
        let boot = request.trailer.and_then(|trailer| trailer.boot);
        let known = self.table.of(from).get(&request.sender);
        boot.is_some() && known.is_some_and(|entry| entry.boot() != boot)
    }

    /// This node as a peer of a topic that it has joined, as a node at `asker` can use it, or as its
    /// own caller is told.
    pub(super) fn own_records(&self, topic: NodeId, asker: Option<&Endpoint>) -> Vec<Endpoint> {
        let Some(seen) = self.own.current(asker) else {
            return Vec::new();
        };
        let joined = self.rounds.of(topic).into_iter();
        let ports = joined.filter_map(|op| self.operations.membership(op)).map(|task| task.port);
        let mut records: Vec<Endpoint> =
            ports.map(|port| seen.with_port(port.unwrap_or(seen.port()))).collect();
        records.sort_unstable();
        records.dedup();
        records
    }

    /// Lists the contacts to name in an answer to `from`, the nearest to `target` first.
    fn list_closest(
        &self,
        now: Time,
        from: &Endpoint,
        want: Want,
        target: &NodeId,
        nodes: &mut Closest,
    ) {
        let is_for =
            |entry: &Entry| entry.is_reliable() && entry.contact.endpoint.means_same_to(from);
        self.table.list_closest(target, self.config.k, want, is_for, nodes);
        // One that has just answered elsewhere is there, until it answers at its former address too.
        for moved in self.doubts.proven(now).filter(|moved| moved.endpoint.means_same_to(from)) {
            let is_same = |node: &&mut Contact| {
                node.id == moved.id && node.endpoint.is_ipv4() == moved.endpoint.is_ipv4()
            };
            nodes.iter_mut().find(is_same).into_iter().for_each(|node| *node = moved);
        }
    }
}
