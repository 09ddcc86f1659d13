//! What the node does for strangers: it answers their requests, stores what they announce, and
//! considers whether to list who asked. What it asks of others itself is not here.

use arrayvec::ArrayVec;

use super::engine::Engine;
use super::output::Outbox;
use super::stats::Refusal;
use crate::dht::requests::Purpose;
use crate::dht::routing::{FRESH, MAX_CLOSEST};
use crate::id::NodeId;
use crate::time::Time;
use crate::wire::message::{Body, Contact, Endpoint, ErrorCode, Message, Part, Trailer, Want};

/// The bytes of a PING with a transaction id, not sealed: what a request may cause beside its answer.
const PROBE_LEN: usize = 47;

impl Engine {
    /// Serves a request of `len` bytes, and considers who sent it.
    pub(super) fn serve(
        &mut self,
        now: Time,
        from: Endpoint,
        request: &Message<'_>,
        len: usize,
        out: &mut Outbox,
    ) {
        let allowance = self.guard.allowance(&from, len);
        if let Some(used) = self.answer(now, from, request, allowance, out) {
            self.consider(now, from, request, allowance - used, out);
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
        let trailer = asked.map(|asked| Trailer {
            txid: asked.txid,
            endpoint: Some(from),
            ..Trailer::default()
        });
        let want = asked.and_then(|asked| asked.want).unwrap_or(Want::family_of(&from));
        let mut reply = Message::new(self.id, Body::Pong, trailer);
        let nodes: ArrayVec<Contact, MAX_CLOSEST>;
        let sampled: (ArrayVec<Endpoint, 128>, usize);
        let token;

        match request.body {
            Body::Ping => {}
            Body::FindNode { target } => {
                reply.body = Body::FoundNodes;
                nodes = self.closest_for(&from, want, &target);
                reply.nodes = &nodes;
            }
            Body::GetPeers { topic } => {
                let part = asked.unwrap_or_default().part;
                let guard = &self.guard;
                let wanted = |peer: &Endpoint| {
                    want.includes(peer) && is_for(peer, &from) && guard.is_in(part, peer)
                };
                let max = self.config.reply_peers;
                sampled = self.storage.sample(now, topic, max, wanted, &mut self.rng);
                let (peers, total) = &sampled;
                token = guard.token(now, &from, &topic);
                if let Some(trailer) = &mut reply.trailer {
                    trailer.token = Some(&token);
                    trailer.total = u32::try_from(*total).ok();
                }
                reply.body =
                    if peers.is_empty() { Body::FoundNodes } else { Body::Peers { topic } };
                reply.peers = peers;
                // Who asks for a part has asked for the whole before, and knows them.
                if part == Part::WHOLE {
                    nodes = self.closest_for(&from, want, &topic);
                    reply.nodes = &nodes;
                }
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

    /// Makes the sender of a request a candidate for the table, where what is left of the
    /// allowance pays for asking it.
    ///
    /// A local one is asked at once, for it cannot be a stranger whose address somebody else wrote
    /// into the packet; so the nodes of one machine know each other as soon as they have met.
    fn consider(
        &mut self,
        now: Time,
        from: Endpoint,
        request: &Message<'_>,
        allowance_left: usize,
        out: &mut Outbox,
    ) {
        if allowance_left < PROBE_LEN + self.seal.overhead() {
            return;
        }
        // A node that has moved is taken in under its new address once the old one is silent.
        let listed = self.table.get(&request.sender).map(|entry| (entry.contact, entry.seen));
        if let Some((listed, seen)) = listed {
            if listed.endpoint != from && now - seen > FRESH {
                self.check(now, listed, out);
            }
        }
        let is_welcome = !request.trailer.is_some_and(|trailer| trailer.read_only)
            && self.table.has_use_for(&request.sender)
            && !self.requests.is_asking(from);
        if !is_welcome {
            return;
        }
        let candidate = Contact { id: request.sender, endpoint: from };
        let is_taken = if from.is_local() {
            // Half of the room for requests is kept for what callers want.
            let has_room = self.requests.len() < self.config.open_requests / 2;
            has_room && self.greet(now, candidate, Purpose::Candidate, out)
        } else {
            self.guard.candidates().push(candidate)
        };
        if !is_taken {
            self.refuse(Refusal::Candidates);
        }
    }

    /// The contacts to list in an answer to `from`, the nearest to `target` first.
    fn closest_for(
        &self,
        from: &Endpoint,
        want: Want,
        target: &NodeId,
    ) -> ArrayVec<Contact, MAX_CLOSEST> {
        self.table.closest(target, self.config.k, |entry| {
            let endpoint = &entry.contact.endpoint;
            entry.is_reliable() && want.includes(endpoint) && is_for(endpoint, from)
        })
    }
}

/// Whether `listed` is an address to name to `asker`: local ones mean nothing outside.
fn is_for(listed: &Endpoint, asker: &Endpoint) -> bool {
    asker.is_local() || !listed.is_local()
}
