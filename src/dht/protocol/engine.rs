//! The engine's state, how it is made, and what everything else here does with it: send a packet,
//! ask a question, judge an address. Who sends, asks and judges stands beside this.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use chacha20::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use super::output::{Event, Outbox, Warning};
use super::stats::{Counters, Refusal};
use crate::config::Config;
use crate::dht::beacons::Beacons;
use crate::dht::doubts::Doubts;
use crate::dht::guard::Guard;
use crate::dht::home::Home;
use crate::dht::operations::{Operations, Turn};
use crate::dht::own::Own;
use crate::dht::pace::Pace;
use crate::dht::requests::{Announcement, Full, OpId, Purpose, Question, Request, Requests};
use crate::dht::rounds::Rounds;
use crate::dht::routing::{Entry, MAX_CLOSEST};
use crate::dht::storage::Storage;
use crate::dht::tables::{Closest, Tables};
use crate::dht::tasks::Task;
use crate::id::NodeId;
use crate::time::Time;
use crate::wire::message::{Body, Contact, Endpoint, Message, Token, Trailer, TxId, Want};
use crate::wire::native;
use crate::wire::seal::Seal;

/// FIND_NODE and GET_PEERS are padded to this, so that three times their size holds the longest
/// answer and a probe, under any seal; the protocol asks for 400 at least.
const PADDED_LEN: usize = 416;

/// Between two warnings of a kind at least so much passes, whatever strangers do.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// A network of at most so many times k others is small: in it, members tell everybody of their topics,
/// and look whether anybody has started again.
const SMALL: usize = 2;

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
    pub(super) id: NodeId,
    pub(super) bound: Endpoint,
    /// The families that its sockets speak.
    pub(super) families: Want,
    pub(super) config: Arc<Config>,
    pub(super) rng: ChaCha20Rng,
    pub(super) seal: Seal,
    pub(super) table: Tables,
    pub(super) requests: Requests,
    pub(super) storage: Storage,
    pub(super) guard: Guard,
    pub(super) doubts: Doubts,
    pub(super) own: Own,
    /// Another number each time the node begins with nothing stored. It says so in its answers, and in
    /// the questions that are padded, where it costs nothing.
    pub(super) boot: u16,
    pub(super) operations: Operations,
    /// Operations that may want something: new, or told of something since they were last asked. They
    /// wait here for room to ask, a new one with nothing but its target.
    pub(super) stirred: BTreeSet<Turn>,
    pub(super) pace: Pace,
    pub(super) home: Home,
    /// Where it looks for other nodes on its links.
    pub(super) beacons: Option<Box<Beacons>>,
    pub(super) rounds: Rounds,
    /// The refresh of a bucket that is under way: one at a time.
    pub(super) refreshing: Option<OpId>,
    /// When contacts that fell silent may be asked again.
    pub(super) next_greeting: Time,
    /// When a contact may be asked whether it has begun anew.
    pub(super) next_watch: Time,
    pub(super) events: VecDeque<Event>,
    pub(super) is_observed: bool,
    pub(super) counters: Counters,
    pub(super) born: Time,
    /// When another node's last packet came in: while none comes, silence proves nothing about a
    /// contact.
    pub(super) last_arrival: Time,
    pub(super) next_sweep: Time,
    /// When each kind of warning may be given next.
    next_warnings: [Time; 3],
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
            families: Want::family_of(&bound),
            table: Tables::new(now, id, &config),
            requests: Requests::new(&config),
            storage: Storage::new(id, &config),
            guard: Guard::new(&config, &mut rng),
            pace: Pace::new(config.open_requests),
            doubts: Doubts::default(),
            own: Own::default(),
            boot: boot_number(&mut rng),
            config,
            rng,
            seal: Seal::default(),
            operations: Operations::default(),
            stirred: BTreeSet::new(),
            home: Home::default(),
            beacons: None,
            rounds: Rounds::default(),
            refreshing: None,
            next_greeting: now,
            next_watch: now,
            events: VecDeque::new(),
            is_observed: false,
            counters: Counters::default(),
            born: now,
            last_arrival: now,
            next_sweep: now,
            next_warnings: [now; 3],
        }
    }

    /// Tells it that its socket's receive buffer holds so many answers of the greatest length. It
    /// asks no more at once than what can come back; until it is told, up to 1,024 questions, or as
    /// many as `Config.open_requests`.
    pub fn set_buffer(&mut self, answers: usize) {
        self.pace.set_buffer(answers);
    }

    /// Tells it which families its sockets speak; until it is told, that of the address that it is
    /// bound to.
    pub fn set_families(&mut self, families: Want) {
        self.families = families;
    }

    /// The node's id.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Where its sockets are bound.
    pub fn bound(&self) -> Endpoint {
        self.bound
    }

    /// The routing tables.
    pub fn table(&self) -> &Tables {
        &self.table
    }

    /// Notes something that came in and was not served.
    pub fn refuse(&mut self, refusal: Refusal) {
        self.counters.refused[refusal as usize] += 1;
    }

    /// Gives a warning, unless one of its kind was given within a minute.
    pub fn warn(&mut self, now: Time, warning: Warning) {
        let next = match warning {
            Warning::Namesake(_) => &mut self.next_warnings[0],
            Warning::Unopened(_) => &mut self.next_warnings[1],
            Warning::AddressLost => &mut self.next_warnings[2],
        };
        if now >= *next {
            *next = now + WARNING_INTERVAL;
            self.events.push_back(Event::Warning(warning));
        }
    }

    /// Sends a question; whether there was room for one more.
    pub(super) fn ask(&mut self, request: Request, out: &mut Outbox) -> bool {
        let mut txid = TxId([0; 8]);
        self.rng.fill_bytes(&mut txid.0);
        let table = self.table.of(&request.to);
        let known_rtt = request.id.and_then(|id| table.get(&id)).map(Entry::rtt);
        match self.requests.open(txid, request, known_rtt) {
            Ok(None) => {}
            Ok(Some(given_up)) => {
                self.expire(&given_up);
            }
            Err(Full) => {
                self.refuse(Refusal::Busy);
                return false;
            }
        }
        let mut trailer = Trailer { txid: Some(txid), ..Trailer::default() };
        let (body, pad_to) = match &request.question {
            Question::Ping => (Body::Ping, 0),
            &Question::FindNode(target) => {
                trailer.boot = Some(self.boot);
                trailer.want = self.want();
                (Body::FindNode { target }, PADDED_LEN)
            }
            &Question::GetPeers(topic, part) => {
                trailer.boot = Some(self.boot);
                trailer.want = self.want();
                trailer.part = part;
                (Body::GetPeers { topic }, PADDED_LEN)
            }
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
    pub(super) fn transmit(
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
    pub(super) fn post(
        &mut self,
        to: Endpoint,
        out: &mut Outbox,
        write: impl FnOnce(&mut Vec<u8>) -> Option<usize>,
    ) -> usize {
        let len = out.push(to, |bytes| self.seal.append(bytes, write)).unwrap_or(0);
        self.counters.bytes_out += len as u64;
        len
    }

    /// Tells the task of a request that its answer is no longer accepted.
    pub(super) fn expire(&mut self, request: &Request) {
        if let Purpose::Op(op) = request.purpose
            && let Some(task) = self.operations.get_mut(op)
        {
            task.expired();
            self.stir(op);
        }
    }

    /// Whether v0.1's unproved packets are trusted from there. Where the seal proves its members
    /// there are no nodes of v0.1, and what is unproved was recorded or cut by a stranger.
    pub(super) fn trusts_legacy(&self, from: &Endpoint) -> bool {
        !self.seal.proves_members() && self.guard.trusts_legacy(from, &self.bound)
    }

    /// The contacts that this node knows nearest to `target`, which a lookup is about to pass through, or
    /// all of them in a small network. Those that have answered in the name of a contact which may have
    /// moved come with them.
    pub(super) fn nearest(&mut self, now: Time, target: &NodeId) -> Vec<Contact> {
        self.table.touch(now, target);
        let mut known: Vec<Contact> = self.doubts.proven(now).collect();
        if self.is_small() {
            let all = self.table.entries().map(|entry| entry.contact);
            known.extend(all.filter(|contact| self.reaches(&contact.endpoint)));
        } else {
            let mut closest = Closest::new();
            let families = self.families;
            self.table.list_closest(target, MAX_CLOSEST, families, |_| true, &mut closest);
            known.extend(closest);
        }
        known
    }

    /// Whether the network is small, as far as this node knows it.
    pub(super) fn is_small(&self) -> bool {
        self.table.most() <= self.small_max()
    }

    /// The most others in a small network.
    pub(super) fn small_max(&self) -> usize {
        SMALL * self.config.k
    }

    /// Whether this node's socket can send there.
    pub fn reaches(&self, endpoint: &Endpoint) -> bool {
        self.families.includes(endpoint)
    }

    /// The families to ask for, where it is not the one that the question goes over.
    fn want(&self) -> Option<Want> {
        Some(self.families).filter(|families| families.v4 && families.v6)
    }

    /// Whether a packet from there can only be this node's own.
    pub(super) fn is_own(&self, endpoint: &Endpoint) -> bool {
        endpoint.port() == self.bound.port()
            && if self.bound.ip().is_unspecified() {
                endpoint.ip().is_loopback()
            } else {
                *endpoint == self.bound
            }
    }

    /// Whether a packet from there may be this node's own: a node bound to every address of its host
    /// does not know them.
    pub(super) fn may_be_own(&self, endpoint: &Endpoint) -> bool {
        let is_anywhere = self.bound.ip().is_unspecified();
        self.is_own(endpoint) || is_anywhere && endpoint.port() == self.bound.port()
    }

    pub(super) fn random_id(&mut self) -> NodeId {
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
        self.doubts.check_invariants();
        self.own.check_invariants();
        self.operations.check_invariants(&self.config);
        assert!(self.table.get(&self.id).is_none());
        self.pace.check_invariants(&self.requests);
        let is_waiting = !self.stirred.is_empty();
        assert!(!is_waiting || !self.has_room(), "an operation waits though there is room");
        assert!(self.stirred.iter().all(|turn| self.operations.turn(turn.1) == Some(*turn)));
        let memberships = self.operations.iter().filter_map(|(op, task)| match task {
            Task::Membership(task) => Some((op, &**task)),
            _ => None,
        });
        self.rounds.check_invariants(memberships);
        assert!(self.rounds.peers <= self.config.records, "more peers than allowed in all");
    }
}

/// A boot number; the smallest mean that there is none.
pub(super) fn boot_number(rng: &mut impl Rng) -> u16 {
    ((rng.next_u32() >> 16) as u16).max(2)
}
