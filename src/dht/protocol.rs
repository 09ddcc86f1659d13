//! The engine: one DHT node as a state machine over the parts beside it. It decides everything
//! and does no I/O; what callers start stands beside it, in `operations`,
//! `lookups`, `joins` and `memberships`.

mod joins;
mod lookups;
mod memberships;
mod operations;
mod stats;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;
use chacha20::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use thiserror::Error;

use self::joins::Home;
pub use self::joins::{SeedState, Seeds};
pub use self::memberships::Membership;
use self::memberships::Memberships;
use self::operations::Operation;
pub use self::operations::{Busy, Outcome};
use self::stats::Counters;
pub use self::stats::{Refusal, Stats};
use super::guard::Guard;
use super::requests::{Announcement, Due, Full, OpId, Purpose, Question, Request, Requests};
use super::routing::{Admission, Entry, FRESH, MAX_CLOSEST, Table};
use super::storage::Storage;
use crate::config::Config;
use crate::id::NodeId;
use crate::time::Time;
use crate::wire::message::{
    Body, Contact, Endpoint, ErrorCode, Kind, Message, Token, Trailer, TxId, Want,
};
use crate::wire::native::{self, DecodeError, Lists};
use crate::wire::seal::{NONCE_START_LEN, Network, Seal};

/// The bytes of a PING with a transaction id, not sealed: what a request may cause beside its answer.
const PROBE_LEN: usize = 47;
/// FIND_NODE and GET_PEERS are padded to this, so that three times their size holds the longest
/// answer and a probe, under any seal; the protocol asks for 400 at least.
const PADDED_LEN: usize = 416;
/// So often in the time in which every bucket is refreshed, so many contacts that fell silent are asked
/// again: few enough for whoever has one's address now, enough for two halves to find each other.
const DROPPED_ROUNDS: u32 = 4;
const DROPPED_GREETINGS: usize = 3;
/// How often old records are swept out, and what part of the topics at a time: all of them in the
/// default life of a record.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);
const SWEEP_SHARE: usize = 180;

/// One DHT node without socket and clock.
///
/// A driver feeds it datagrams ([`Engine::receive`]), commands and the time ([`Engine::tick`]),
/// sends what it finds in its [`Outbox`], takes the events ([`Engine::poll_event`]), and comes back at
/// [`Engine::next_deadline`] at the latest. `now` must never go back.
///
/// ```
/// use std::sync::Arc;
/// use kadepy::dht::protocol::{Engine, Outbox};
/// use kadepy::{Config, Endpoint, NodeId, Time};
///
/// let at = |port| Endpoint::new([127, 0, 0, 1], port);
/// let config = Arc::new(Config::default());
/// let mut engine = Engine::new(Time::ZERO, NodeId([1; 32]), at(4000), config, [0; 32]);
///
/// // A PING of v0.1 from another node: type 0, then its id.
/// let mut ping = [vec![0], vec![2; 32]].concat();
/// let mut outbox = Outbox::default();
/// engine.receive(Time::ZERO, at(4001), &mut ping, &mut outbox);
///
/// let (to, pong) = outbox.iter().next().expect("a PONG");
/// assert_eq!((to, pong[0], &pong[1..]), (at(4001), 1, &[1; 32][..]));
/// ```
pub struct Engine {
    id: NodeId,
    bound: Endpoint,
    config: Arc<Config>,
    rng: ChaCha20Rng,
    seal: Seal,
    table: Table,
    requests: Requests,
    storage: Storage,
    guard: Guard,
    operations: BTreeMap<OpId, Operation>,
    next_op: OpId,
    /// One entry for each of `operations` that has a deadline.
    deadlines: BTreeSet<(Time, OpId)>,
    home: Home,
    memberships: Memberships,
    /// The refresh of a bucket that is under way: one at a time.
    refreshing: Option<OpId>,
    /// When contacts that fell silent may be asked again.
    next_greeting: Time,
    events: VecDeque<Event>,
    is_observed: bool,
    counters: Counters,
    born: Time,
    /// When another node's last packet came in: while none comes, silence proves nothing about a
    /// contact.
    last_arrival: Time,
    next_sweep: Time,
}

/// An application's payload is longer than a packet takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a payload of {0} bytes; at most {max} fit", max = native::MAX_PAYLOAD)]
pub struct TooLong(usize);

/// Datagrams to send, in order.
#[derive(Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    /// Each with where it ends in `bytes`.
    datagrams: Vec<(Endpoint, usize)>,
}

/// What an engine has to tell its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A lookup found peers that it had not found before.
    Peers {
        /// The lookup.
        op: OpId,
        /// The peers.
        peers: Vec<Endpoint>,
    },
    /// A membership has peers that are new; [`Engine::members`] gives them. Until this is taken it is
    /// not told again.
    Members {
        /// The membership.
        op: OpId,
    },
    /// An operation has ended.
    Done {
        /// The operation.
        op: OpId,
        /// How.
        outcome: Outcome,
    },
    /// A packet that decodes, where [`Engine::observe`] asked for them.
    Packet {
        /// Its source.
        from: Endpoint,
        /// Its bytes, opened.
        packet: Box<[u8]>,
    },
    /// The node has joined through its home contacts and lists so many contacts.
    Joined(usize),
    /// The node has tried to join and knows nobody still.
    Alone {
        /// The contacts that it was made with.
        seeds: Vec<Endpoint>,
        /// It tries again after so long.
        wait: Duration,
    },
}

impl Engine {
    /// A node with this id, bound to this address.
    ///
    /// `seed` seeds its random generator: from the system's generator in a node, from the run's seed
    /// in a simulation.
    pub fn new(
        now: Time,
        id: NodeId,
        bound: Endpoint,
        config: Arc<Config>,
        seed: [u8; 32],
    ) -> Self {
        let mut rng = ChaCha20Rng::from_seed(seed);
        Self {
            id,
            bound,
            table: Table::new(now, id, &config),
            requests: Requests::new(&config),
            storage: Storage::new(id, &config),
            guard: Guard::new(&config, &mut rng),
            config,
            rng,
            seal: Seal::default(),
            operations: BTreeMap::new(),
            next_op: 0,
            deadlines: BTreeSet::new(),
            home: Home::default(),
            memberships: Memberships::default(),
            refreshing: None,
            next_greeting: now,
            events: VecDeque::new(),
            is_observed: false,
            counters: Counters::default(),
            born: now,
            last_arrival: now,
            next_sweep: now,
        }
    }

    /// The node's id.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// The routing table.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Makes it a node of `network`; before this it is one of [`Network::Public`].
    ///
    /// Between a public network and a private one it forgets whom it knows and what it stores: that
    /// is no business of the others. Where only the key changes it keeps them. `start` begins the
    /// nonces, as in [`Seal::new`].
    pub fn enter(&mut self, now: Time, network: &Network, start: [u8; NONCE_START_LEN]) {
        let was_public = self.seal.is_public();
        self.seal = Seal::new(network, start);
        if self.seal.is_public() != was_public {
            self.table = Table::new(now, self.id, &self.config);
            self.home.recalled.clear();
            self.storage = Storage::new(self.id, &self.config);
            self.guard = Guard::new(&self.config, &mut self.rng);
            self.restart_memberships(now);
        }
    }

    /// Begins the nonces of a private network anew, see [`Seal::restart`].
    pub fn restart_nonces(&mut self, start: [u8; NONCE_START_LEN]) {
        self.seal.restart(start);
    }

    /// Whether every packet that decodes is to be reported as [`Event::Packet`].
    pub fn observe(&mut self, every_packet: bool) {
        self.is_observed = every_packet;
    }

    /// Takes one datagram in; answers go to `out`.
    pub fn receive(&mut self, now: Time, from: Endpoint, datagram: &mut [u8], out: &mut Outbox) {
        let len = datagram.len();
        self.counters.bytes_in += len as u64;
        if len > native::MAX_READ {
            return self.refuse(Refusal::Oversize);
        }
        let Some(packet) = self.seal.open(datagram) else {
            return self.refuse(Refusal::Unopened);
        };
        let mut lists = Lists::default();
        let message = match native::decode(packet, &mut lists) {
            Ok(message) => message,
            Err(error) => return self.refuse(error.into()),
        };
        self.counters.packets_in[message.body.kind() as usize] += 1;
        if self.is_observed {
            self.events.push_back(Event::Packet { from, packet: (&*packet).into() });
        }
        if !from.is_sendable() || self.is_own(&from) {
            return self.refuse(Refusal::Source);
        }
        if [NodeId::ZERO, NodeId::MAX, self.id].contains(&message.sender) {
            return self.refuse(Refusal::SenderId);
        }
        self.last_arrival = now;
        match message.body.kind() {
            Kind::Ping | Kind::FindNode | Kind::GetPeers | Kind::AnnouncePeer => {
                let allowance = self.guard.allowance(&from, len);
                if let Some(used) = self.serve(now, from, &message, allowance, out) {
                    self.consider(now, from, &message, allowance - used, out);
                }
            }
            Kind::Pong | Kind::FoundNodes | Kind::Peers | Kind::Announced | Kind::Error => {
                self.take_reply(now, from, &message, out);
            }
            Kind::Application => {}
        }
    }

    /// Does what time has made due; to be called after every batch of calls and at
    /// [`Engine::next_deadline`].
    pub fn tick(&mut self, now: Time, out: &mut Outbox) {
        while let Some(due) = self.requests.due(now) {
            match due {
                Due::Late(request) => self.late(now, request, out),
                Due::Expired(request) => self.expired(now, request),
            }
        }
        self.end_overdue(now);
        while let Some(candidate) = self.guard.candidates().next(now) {
            if self.table.has_use_for(&candidate.id) && !self.requests.is_asking(candidate.endpoint)
            {
                self.guard.candidates().asked(now);
                self.greet_candidate(now, candidate, out);
            }
        }
        self.rejoin(now, out);
        self.start_rounds(now, out);
        self.refresh(now, out);
        if self.storage.records() > 0 && now >= self.next_sweep {
            self.next_sweep = now + SWEEP_INTERVAL;
            self.storage.sweep(now, self.config.topics.div_ceil(SWEEP_SHARE));
        }
    }

    /// When [`Engine::tick`] has something to do next, if nothing comes before.
    pub fn next_deadline(&mut self) -> Option<Time> {
        [
            self.requests.next_wake(),
            self.deadlines.first().map(|&(at, _)| at),
            self.guard.candidates().next_at(),
            self.next_rejoin(),
            self.next_round(),
            (!self.table.is_empty() && self.refreshing.is_none()).then(|| self.table.next_stale()),
            self.must_release().then_some(Time::ZERO),
            (self.storage.records() > 0).then_some(self.next_sweep),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether [`Engine::poll_event`] has something.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// The next event, to be called until it gives `None`.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        self.told(&event);
        Some(event)
    }

    /// Sends a packet of any type with these bytes as its body.
    ///
    /// # Errors
    ///
    /// [`TooLong`] above [`native::MAX_PAYLOAD`].
    pub fn send(
        &mut self,
        to: Endpoint,
        kind: u8,
        payload: &[u8],
        out: &mut Outbox,
    ) -> Result<(), TooLong> {
        if payload.len() > native::MAX_PAYLOAD {
            return Err(TooLong(payload.len()));
        }
        self.counters.packets_out[usize::from(kind).min(Kind::Application as usize)] += 1;
        let id = self.id;
        self.post(to, out, |bytes| {
            bytes.push(kind);
            bytes.extend_from_slice(&id.0);
            bytes.extend_from_slice(payload);
            Some(native::HEADER_LEN + payload.len())
        });
        Ok(())
    }

    /// Forgets the stored records of `age` or more.
    pub fn clean_storage(&mut self, now: Time, age: Duration) {
        self.storage.cleanup(now, age);
    }

    /// Stores a record that nobody announced, for a simulation.
    pub(crate) fn plant(&mut self, now: Time, topic: NodeId, peer: Endpoint) {
        // Where it is full, that is what the simulation is to show.
        let _ = self.storage.store(now, topic, peer);
    }

    /// What the node did so far and holds now.
    pub fn stats(&self, now: Time) -> Stats {
        Stats {
            counters: self.counters.clone(),
            rtt: self.requests.smoothed_rtt(),
            lookups_active: self.operations.values().filter(|op| op.is_lookup()).count(),
            contacts: self.table.len(),
            topics: self.storage.topics(),
            records: self.storage.records(),
            uptime: now - self.born,
        }
    }

    /// Notes something that came in and was not served.
    pub fn refuse(&mut self, refusal: Refusal) {
        self.counters.refused[refusal as usize] += 1;
    }

    /// Answers a request in at most `allowance` bytes; gives how many it took, or `None` where the
    /// request is refused.
    fn serve(
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
        let peers: ArrayVec<Endpoint, 128>;
        let token;

        match request.body {
            Body::Ping => {}
            Body::FindNode { target } => {
                reply.body = Body::FoundNodes;
                nodes = self.closest_for(&from, want, &target);
                reply.nodes = &nodes;
            }
            Body::GetPeers { topic } => {
                token = self.guard.token(now, &from, &topic);
                if let Some(trailer) = &mut reply.trailer {
                    trailer.token = Some(&token);
                }
                let wanted = |peer: &Endpoint| want.includes(peer) && is_for(peer, &from);
                let max = self.config.reply_peers;
                peers = self.storage.sample(now, topic, max, wanted, &mut self.rng);
                reply.body =
                    if peers.is_empty() { Body::FoundNodes } else { Body::Peers { topic } };
                reply.peers = &peers;
                nodes = self.closest_for(&from, want, &topic);
                reply.nodes = &nodes;
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
            has_room && self.greet_candidate(now, candidate, out)
        } else {
            self.guard.candidates().push(candidate)
        };
        if !is_taken {
            self.refuse(Refusal::Candidates);
        }
    }

    fn greet_candidate(&mut self, now: Time, candidate: Contact, out: &mut Outbox) -> bool {
        self.ask(Request::to_contact(now, candidate, Question::Ping, Purpose::Candidate), out)
    }

    fn take_reply(&mut self, now: Time, from: Endpoint, reply: &Message<'_>, out: &mut Outbox) {
        let trusts_legacy = self.trusts_legacy(&from);
        let Some((request, round_trip)) = self.requests.answer(now, from, reply, trusts_legacy)
        else {
            return self.refuse(Refusal::Unsolicited);
        };
        let contact = Contact { id: reply.sender, endpoint: from };
        if !reply.trailer.is_some_and(|trailer| trailer.read_only) {
            let known = self.table.len();
            if let Admission::AskFirst(listed) = self.table.answered(now, contact, round_trip) {
                self.check(now, listed, out);
            }
            // In a network that small, whoever comes stores every topic.
            if (known + 1..=self.config.k).contains(&self.table.len()) {
                self.hurry_memberships(now);
            }
        }
        if let Purpose::Op(op) = request.purpose {
            self.operation_answered(now, op, request, contact, reply, round_trip, out);
        }
    }

    fn late(&mut self, now: Time, request: Request, out: &mut Outbox) {
        match request.purpose {
            Purpose::Op(op) => self.operation_late(now, op, request, out),
            Purpose::Check if !request.is_retry => {
                self.ask(request.repeated(now), out);
            }
            Purpose::Check | Purpose::Candidate | Purpose::Nothing => {}
        }
    }

    fn expired(&mut self, now: Time, request: Request) {
        self.counters.timeouts += 1;
        if let Purpose::Op(op) = request.purpose {
            self.operation_expired(now, op);
        }
        let is_proof = request.is_retry && self.last_arrival > request.sent;
        if let (true, Some(id)) = (is_proof, request.id) {
            self.table.failed(now, &Contact { id, endpoint: request.to }, request.sent);
        }
    }

    /// Asks a listed contact whether it is still there.
    fn check(&mut self, now: Time, listed: Contact, out: &mut Outbox) {
        if !self.requests.is_asking(listed.endpoint) {
            self.ask(Request::to_contact(now, listed, Question::Ping, Purpose::Check), out);
        }
    }

    /// Looks up an id in a bucket that no lookup went through for long; one at a time, for peers can
    /// make up as many buckets as there may be.
    fn refresh(&mut self, now: Time, out: &mut Outbox) {
        while self.refreshing.is_none() && self.table.next_stale() <= now && !self.table.is_empty()
        {
            let random = self.random_id();
            let Some(target) = self.table.stale(now, &random) else {
                return;
            };
            self.start_refresh(now, target, None, out);
            self.greet_dropped(now, out);
        }
    }

    /// Asks a few contacts that fell silent once whether they are there again: after a partition that
    /// has healed, both sides know each other by no one else.
    fn greet_dropped(&mut self, now: Time, out: &mut Outbox) {
        if now < self.next_greeting {
            return;
        }
        self.next_greeting = now + self.config.bucket_refresh / DROPPED_ROUNDS;
        let dropped: Vec<Contact> = self.table.dropped(now).collect();
        for _ in 0..DROPPED_GREETINGS.min(dropped.len()) {
            let contact = dropped[(self.rng.next_u64() % dropped.len() as u64) as usize];
            if !self.requests.is_asking(contact.endpoint) {
                self.greet_candidate(now, contact, out);
            }
        }
    }

    /// Sends a question; whether there was room for one more.
    fn ask(&mut self, request: Request, out: &mut Outbox) -> bool {
        let mut txid = TxId([0; 8]);
        self.rng.fill_bytes(&mut txid.0);
        let known_rtt = request.id.and_then(|id| self.table.get(&id)).map(Entry::rtt);
        match self.requests.open(txid, request, known_rtt) {
            Ok(None) => {}
            Ok(Some(given_up)) => {
                if let Purpose::Op(op) = given_up.purpose {
                    self.operation_expired(request.sent, op);
                }
            }
            Err(Full) => {
                self.refuse(Refusal::Busy);
                return false;
            }
        }
        let mut trailer = Trailer { txid: Some(txid), ..Trailer::default() };
        let (body, pad_to) = match &request.question {
            Question::Ping => (Body::Ping, 0),
            &Question::FindNode(target) => (Body::FindNode { target }, PADDED_LEN),
            &Question::GetPeers(topic) => (Body::GetPeers { topic }, PADDED_LEN),
            Question::Announce(Announcement { topic, port, token }) => {
                trailer.token = token.as_ref().map(Token::as_bytes);
                trailer.implied_port = port.is_none();
                (Body::AnnouncePeer { topic: *topic, port: port.unwrap_or(self.bound.port()) }, 0)
            }
        };
        let message = Message::new(self.id, body, Some(trailer));
        self.counters.requests += 1;
        self.transmit(request.to, &message, native::MAX_SENT, pad_to, out);
        true
    }

    /// Writes a message to `out`, in at most `limit` bytes on the wire; returns how many it takes
    /// there.
    fn transmit(
        &mut self,
        to: Endpoint,
        message: &Message<'_>,
        limit: usize,
        pad_to: usize,
        out: &mut Outbox,
    ) -> usize {
        let limit = limit.min(native::MAX_SENT).saturating_sub(self.seal.overhead());
        let sent = self.post(to, out, |bytes| native::encode(message, limit, pad_to, bytes));
        if sent > 0 {
            self.counters.packets_out[message.body.kind() as usize] += 1;
        }
        sent
    }

    /// Seals the packet that `write` puts at the end of the outbox; returns the datagram's bytes,
    /// none where nothing was written.
    fn post(
        &mut self,
        to: Endpoint,
        out: &mut Outbox,
        write: impl FnOnce(&mut Vec<u8>) -> Option<usize>,
    ) -> usize {
        let Some(len) = self.seal.append(&mut out.bytes, write) else {
            return 0;
        };
        self.counters.bytes_out += len as u64;
        out.datagrams.push((to, out.bytes.len()));
        len
    }

    /// Whether v0.1's unproved packets are trusted from there. Where the seal proves its members
    /// there are no nodes of v0.1, and what is unproved was recorded or cut by a stranger.
    fn trusts_legacy(&self, from: &Endpoint) -> bool {
        !self.seal.proves_members() && self.guard.trusts_legacy(from)
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

    /// The nodes that `reply` lists and that are worth asking, each id and each address once.
    fn believable<'a>(
        &self,
        from: Endpoint,
        reply: &Message<'a>,
    ) -> impl Iterator<Item = Contact> + use<'a, '_> {
        let has_trailer = reply.trailer.is_some();
        let listed = &reply.nodes[..reply.nodes.len().min(MAX_CLOSEST)];
        let is_first = |(at, node): &(usize, &Contact)| {
            let mut earlier = listed[..*at].iter();
            earlier.all(|other| other.id != node.id && other.endpoint != node.endpoint)
        };
        listed.iter().enumerate().filter(is_first).map(|(_, node)| *node).filter(move |node| {
            ![NodeId::ZERO, NodeId::MAX, self.id].contains(&node.id)
                && !self.is_own(&node.endpoint)
                && self.reaches(&node.endpoint)
                && self.guard.believes(&node.endpoint, &from, has_trailer)
        })
    }

    /// Whether this node's socket can send there.
    pub fn reaches(&self, endpoint: &Endpoint) -> bool {
        endpoint.is_ipv4() == self.bound.is_ipv4()
    }

    /// Whether a packet from there can only be this node's own.
    fn is_own(&self, endpoint: &Endpoint) -> bool {
        endpoint.port() == self.bound.port()
            && if self.bound.ip().is_unspecified() {
                endpoint.ip().is_loopback()
            } else {
                *endpoint == self.bound
            }
    }

    fn random_id(&mut self) -> NodeId {
        let mut id = NodeId::ZERO;
        self.rng.fill_bytes(&mut id.0);
        id
    }

    /// Panics where a part's invariants or those between the parts are broken.
    pub fn check_invariants(&self) {
        self.table.check_invariants();
        self.requests.check_invariants();
        self.storage.check_invariants();
        self.guard.check_invariants();
        assert!(self.table.get(&self.id).is_none());
        for (id, operation) in &self.operations {
            operation.check_invariants();
            assert!(operation.deadline.is_none_or(|at| self.deadlines.contains(&(at, *id))));
        }
        assert_eq!(
            self.deadlines.len(),
            self.operations.values().filter(|operation| operation.deadline.is_some()).count()
        );
        self.check_memberships();
    }
}

/// Whether `listed` is an address to name to `asker`: local ones mean nothing outside.
fn is_for(listed: &Endpoint, asker: &Endpoint) -> bool {
    asker.is_local() || !listed.is_local()
}

impl Outbox {
    /// The bytes of memory that an emptied outbox keeps: a burst is not worth more.
    const KEPT_LEN: usize = 64 << 10;

    /// The datagrams, in the order in which they are to leave.
    pub fn iter(&self) -> impl Iterator<Item = (Endpoint, &[u8])> {
        let starts = std::iter::once(0).chain(self.datagrams.iter().map(|&(_, end)| end));
        self.datagrams.iter().zip(starts).map(|(&(to, end), start)| (to, &self.bytes[start..end]))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.datagrams.len()
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }

    /// Empties it, keeping some memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(Self::KEPT_LEN);
        self.datagrams.clear();
        self.datagrams.shrink_to(Self::KEPT_LEN / native::MAX_SENT);
    }
}

impl From<DecodeError> for Refusal {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::Short => Refusal::Short,
            DecodeError::Oversize => Refusal::Oversize,
            DecodeError::UnknownType(_) => Refusal::UnknownType,
            DecodeError::Body | DecodeError::Trailer => Refusal::Malformed,
        }
    }
}
