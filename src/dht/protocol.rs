//! The engine: one DHT node as a state machine over the parts beside it. It decides everything
//! and does no I/O. This is its face; each step stands in the file that it names.
//!
//! A datagram comes in through [`Engine::receive`]. A request is served in `serve`; a reply is matched
//! with its request and goes to the operation that asked, in `drive`.
//!
//! An operation begins with a command, in `commands`. Its task (`dht::tasks`) says what it wants, and
//! `drive` does that until the task is over; [`Engine::poll_event`] gives the outcome. Memberships take
//! turns in `memberships`. What the node does by itself is in `upkeep`, and in `neighbors` what it does
//! to find others on its links.

mod commands;
mod drive;
mod engine;
mod memberships;
mod neighbors;
mod output;
mod serve;
mod stats;
mod upkeep;

pub use self::commands::TooLong;
pub use self::engine::Engine;
pub use self::output::{Event, Outbox, Warning};
pub use self::stats::{Counters, Refusal, Stats};
pub use super::operations::Busy;
use super::requests::{Due, Purpose, Request};
use super::routing::Admission;
pub use super::tasks::membership::Membership;
pub use super::tasks::step::{Obstacle, Outcome, SeedState, Seeds};
use crate::id::NodeId;
use crate::time::Time;
use crate::wire::message::{Contact, Endpoint, Kind, Message};
use crate::wire::native::{self, DecodeError, Lists};

/// What a datagram came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Via {
    Port,
    Group,
}

impl Engine {
    /// Takes in one datagram that came to the node's own port; answers go to `out`.
    pub fn receive(&mut self, now: Time, from: Endpoint, datagram: &mut [u8], out: &mut Outbox) {
        self.take_in(now, from, Via::Port, datagram, out);
    }

    /// Takes in one datagram that came to one of the [`groups`](super::beacons::groups), where every
    /// node on the link hears it. A PING from a local address counts like one that came to the port,
    /// and nothing else does. Of what does not open nobody is warned: other networks speak there too.
    pub fn hear(&mut self, now: Time, from: Endpoint, datagram: &mut [u8], out: &mut Outbox) {
        self.take_in(now, from, Via::Group, datagram, out);
    }

    fn take_in(
        &mut self,
        now: Time,
        from: Endpoint,
        via: Via,
        datagram: &mut [u8],
        out: &mut Outbox,
    ) {
        let len = datagram.len();
        self.counters.bytes_in += len as u64;
        if len > native::MAX_READ {
            return self.refuse(Refusal::Oversize);
        }
        if via == Via::Group && !from.is_local() {
            return self.refuse(Refusal::Source);
        }
        let Some(packet) = self.seal.open(datagram) else {
            if via == Via::Port {
                self.warn(now, Warning::Unopened(from));
            }
            return self.refuse(Refusal::Unopened);
        };
        let mut lists = Lists::of(&from);
        let message = match native::decode(packet, &mut lists) {
            Ok(message) => message,
            Err(error) => return self.refuse(error.into()),
        };
        if via == Via::Group && self.is_own_beacon(&message) {
            return;
        }
        self.counters.packets_in[message.body.kind() as usize] += 1;
        if !self.admits(now, &from, message.body.kind()) {
            return self.refuse(Refusal::Rate);
        }
        if self.is_observed {
            self.events.push_back(Event::Packet { from, packet: (&*packet).into() });
        }
        if message.sender == self.id {
            self.meet_own_id(now, from, &message, out);
            self.run(now, out);
        }
        if !from.is_sendable() || self.is_own(&from) {
            return self.refuse(Refusal::Source);
        }
        if [NodeId::ZERO, NodeId::MAX, self.id].contains(&message.sender) {
            return self.refuse(Refusal::SenderId);
        }
        self.last_arrival = now;
        match message.body.kind() {
            Kind::Ping if via == Via::Group => {
                self.serve(now, from, &message, len, Purpose::Neighbor, out);
            }
            _ if via == Via::Group => self.refuse(Refusal::Unsolicited),
            Kind::Ping | Kind::FindNode | Kind::GetPeers | Kind::AnnouncePeer => {
                self.serve(now, from, &message, len, Purpose::Candidate, out);
            }
            Kind::Pong | Kind::FoundNodes | Kind::Peers | Kind::Announced | Kind::Error => {
                self.take_reply(now, from, &message, out);
            }
            Kind::Application => {}
        }
        self.run(now, out);
    }

    /// Does what time has made due; to be called after every batch of calls and at
    /// [`Engine::next_deadline`].
    pub fn tick(&mut self, now: Time, out: &mut Outbox) {
        while let Some(due) = self.requests.due(now) {
            match due {
                Due::Late(request) => self.late(now, &request, out),
                Due::Expired(request) => self.expired(now, &request, out),
            }
            self.run(now, out);
        }
        self.end_overdue(now);
        self.ask_candidates(now, out);
        self.send_beacons(now, out);
        self.join_if_due(now, out);
        self.check_seeds(now, out);
        self.start_rounds(now, out);
        self.refresh(now, out);
        self.watch(now, out);
        self.sweep(now);
        self.run(now, out);
    }

    /// Takes note that the system refused to send a datagram there, with this code of its own: who
    /// waits for the answer is told.
    pub fn unsent(&mut self, now: Time, to: Endpoint, code: i32, out: &mut Outbox) {
        if let Some(request) = self.requests.unsent(to) {
            self.met(&request, Obstacle::System(code));
            self.freed(now, &to, out);
            self.run(now, out);
        }
    }

    /// When [`Engine::tick`] has something to do next, if nothing comes before.
    pub fn next_deadline(&mut self) -> Option<Time> {
        [
            self.requests.next_wake(),
            self.operations.first_deadline().map(|(at, _)| at),
            self.guard.candidates().next_at(),
            self.next_join(),
            self.next_seed_check(),
            self.must_release().then_some(Time::ZERO),
            self.next_round(),
            self.next_beacon(),
            self.next_refresh(),
            self.next_watch(),
            self.next_sweep_at(),
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

    /// Takes in a packet that carries this node's own id: its own question that came to itself, or
    /// a packet of another node with the same id.
    fn meet_own_id(&mut self, now: Time, from: Endpoint, message: &Message<'_>, out: &mut Outbox) {
        let asks = matches!(
            message.body.kind(),
            Kind::Ping | Kind::FindNode | Kind::GetPeers | Kind::AnnouncePeer
        );
        let is_mine = |request: &Request| request.to == from;
        let open = message.txid().and_then(|txid| Some((txid, self.requests.get(txid)?)));
        match open {
            // Its own question; whoever else sends that back does nothing.
            Some((txid, request)) if asks && is_mine(&request) && self.may_be_own(&from) => {
                self.requests.take(txid);
                self.met(&request, Obstacle::Itself);
            }
            Some((txid, request)) if !asks && is_mine(&request) => {
                self.requests.take(txid);
                self.met(&request, Obstacle::Namesake);
                self.warn(now, Warning::Namesake(from));
            }
            None if asks && !self.may_be_own(&from) => self.warn(now, Warning::Namesake(from)),
            _ => {}
        }
        self.freed(now, &from, out);
    }

    fn take_reply(&mut self, now: Time, from: Endpoint, reply: &Message<'_>, out: &mut Outbox) {
        if self.answers_beacon(&from, reply) {
            return self.consider(now, from, reply, usize::MAX, Purpose::Neighbor, out);
        }
        let trusts_legacy = self.trusts_legacy(&from);
        let Some((request, round_trip)) = self.requests.answer(now, from, reply, trusts_legacy)
        else {
            return self.refuse(Refusal::Unsolicited);
        };
        self.home.heard(now, from);
        let trailer = reply.trailer.unwrap_or_default();
        if request.id.is_some_and(|id| id != reply.sender) {
            self.table.of_mut(&from).vacate(&from);
        }
        if let (true, Some(seen_at)) = (self.rounds.len() > 0, trailer.endpoint)
            && self.guard.believes(&seen_at, &from, true)
        {
            self.own.told(now, from, seen_at, self.table.len() <= 1);
        }
        if !trailer.read_only {
            let contact = Contact { id: reply.sender, endpoint: from };
            let was_alone = self.table.is_empty();
            match self.table.answered(now, contact, round_trip) {
                Admission::Listed => {
                    self.doubts.settle(&contact.id);
                    self.welcome(now, &request, was_alone);
                }
                Admission::Waiting => {}
                Admission::AskFirst(listed) => {
                    if listed.id == contact.id {
                        self.doubts.raise(now, contact);
                        self.doubts.prove(now, contact);
                    }
                    self.check(now, listed, out);
                }
            }
            if self.table.of_mut(&from).began(&contact, trailer.boot) {
                self.hurry_memberships(now, &contact.id);
            }
        }
        self.answered(now, &request, reply, round_trip);
        self.freed(now, &from, out);
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
