//! What the owner of a node has it do: each command starts an operation, or does something at once.
//! How an operation goes on is not decided here.

use std::collections::BTreeSet;
use std::time::Duration;

use thiserror::Error;

use super::engine::{Engine, boot_number};
use super::output::{Event, Outbox};
use super::stats::{Refusal, Stats};
use crate::dht::doubts::Doubts;
use crate::dht::guard::Guard;
use crate::dht::operations::Busy;
use crate::dht::own::Own;
use crate::dht::requests::{Announcement, OpId, Purpose, Question, Request};
use crate::dht::routing::Entry;
use crate::dht::storage::Storage;
use crate::dht::tables::Tables;
use crate::dht::tasks::membership::Membership;
use crate::dht::tasks::{Announce, GetPeers, Introduction, Join, MembershipTask, Ping, Task, Walk};
use crate::id::NodeId;
use crate::time::Time;
use crate::wire::message::{Contact, Endpoint, Kind};
use crate::wire::native;
use crate::wire::seal::{NONCE_START_LEN, Network, Seal};

/// An application's payload is longer than a packet takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a payload of {0} bytes; at most {max} fit", max = native::MAX_PAYLOAD)]
pub struct TooLong(usize);

/// For so long an announce to one node asks it for a token.
const INTRODUCTION_TIMEOUT: Duration = Duration::from_secs(30);

/// Operations.
impl Engine {
    /// Asks one node whether it is there, again and again, until it answers or `timeout` is over;
    /// without one, three times.
    ///
    /// # Errors
    ///
    /// [`Busy`] at the cap; likewise for every command that gives an [`OpId`].
    pub fn ping(
        &mut self,
        now: Time,
        to: Endpoint,
        timeout: Option<Duration>,
        out: &mut Outbox,
    ) -> Result<OpId, Busy> {
        self.check_room()?;
        Ok(self.start(now, Task::Ping(Ping::new(to, timeout.is_some())), timeout, out))
    }

    /// Looks up the nodes nearest to `target`.
    ///
    /// # Errors
    ///
    /// See [`Engine::ping`].
    pub fn find_node(
        &mut self,
        now: Time,
        target: NodeId,
        timeout: Option<Duration>,
        out: &mut Outbox,
    ) -> Result<OpId, Busy> {
        self.check_room()?;
        let mut walk = Walk::to_nodes(target, &self.config);
        walk.set_patient(timeout.is_some());
        Ok(self.start(now, Task::FindNode(Box::new(walk)), timeout, out))
    }

    /// Looks up the peers of `topic`, what this node stores itself included, and itself where it has
    /// joined the topic and others have told at which address they see it.
    ///
    /// # Errors
    ///
    /// See [`Engine::ping`].
    pub fn get_peers(
        &mut self,
        now: Time,
        topic: NodeId,
        timeout: Option<Duration>,
        out: &mut Outbox,
    ) -> Result<OpId, Busy> {
        self.check_room()?;
        let mut own = self.own_records(topic, None);
        let stored = self.storage.peers(now, &topic);
        let others: Vec<Endpoint> = stored.copied().filter(|peer| !own.contains(peer)).collect();
        own.extend(others);
        own.truncate(self.config.lookup_peers);
        let mut task = GetPeers::new(topic, &own, &self.config);
        task.walk.set_patient(timeout.is_some());
        let op = self.begin(now, Task::GetPeers(Box::new(task)), timeout);
        if !own.is_empty() {
            self.events.push_back(Event::Peers { op, peers: own });
        }
        self.end_overdue(now);
        self.run(now, out);
        Ok(op)
    }

    /// Stores this node as a peer of `topic` at the nodes nearest to it; without a `port`, with the
    /// port that its packets come from.
    ///
    /// # Errors
    ///
    /// See [`Engine::ping`].
    pub fn announce_peer(
        &mut self,
        now: Time,
        topic: NodeId,
        port: Option<u16>,
        timeout: Option<Duration>,
        out: &mut Outbox,
    ) -> Result<OpId, Busy> {
        self.check_room()?;
        let mut task = Announce::new(topic, port, &self.config);
        task.walk.set_patient(timeout.is_some());
        Ok(self.start(now, Task::Announce(Box::new(task)), timeout, out))
    }

    /// Announces to one node, and waits for nothing: at once where v0.1's rules hold, else after
    /// fetching a token from it.
    pub fn announce_to(
        &mut self,
        now: Time,
        to: Endpoint,
        topic: NodeId,
        port: Option<u16>,
        out: &mut Outbox,
    ) {
        if self.trusts_legacy(&to) {
            let announcement = Announcement { topic, port, token: None };
            self.fire(now, to, Question::Announce(announcement), out);
        } else if self.check_room().is_ok() {
            let task = Introduction::new(to, topic, port);
            self.start(now, Task::Introduction(task), Some(INTRODUCTION_TIMEOUT), out);
        }
    }

    /// Joins a network through `seeds`: asks them, looks up the own id, refreshes.
    ///
    /// Where it `expects_more`, silence of all of them does not end it before
    /// [`Engine::add_seeds`] has brought the rest.
    ///
    /// # Errors
    ///
    /// See [`Engine::ping`].
    pub fn join(
        &mut self,
        now: Time,
        seeds: Vec<Endpoint>,
        expects_more: bool,
        timeout: Option<Duration>,
        out: &mut Outbox,
    ) -> Result<OpId, Busy> {
        self.check_room()?;
        let mut join = Join::new(self.id, seeds, Vec::new(), expects_more, &self.config);
        join.set_patient(timeout.is_some());
        self.table.touch(now, &self.id);
        Ok(self.start(now, Task::Join(Box::new(join)), timeout, out))
    }

    /// Brings a join more seeds, if it is still under way.
    pub fn add_seeds(
        &mut self,
        now: Time,
        op: OpId,
        seeds: Vec<Endpoint>,
        expects_more: bool,
        out: &mut Outbox,
    ) {
        if let Some(Task::Join(join)) = self.operations.get_mut(op) {
            join.add(seeds, expects_more);
            self.stir(op);
            self.run(now, out);
        }
    }

    /// Joins `topic` as a peer with this port, or, without one, the port that its packets come from:
    /// announces it and looks up its peers again and again, until [`Engine::cancel`].
    ///
    /// The first round starts at the next tick; the next ones follow after 1, 2, 4 minutes, up to a
    /// third of `Config.record_life`. A round that nobody confirmed is repeated after 1 s, 2 s, up
    /// to a minute. While the node knows no more than k others, each that it meets brings one at
    /// once. Rounds of several memberships start 100 ms apart, so that some 10,000 can be kept within
    /// the default life of a record.
    ///
    /// [`Event::Members`] says that there are new peers, [`Engine::members`] which.
    ///
    /// # Errors
    ///
    /// See [`Engine::ping`].
    ///
    /// ```
    /// use std::sync::Arc;
    /// use kadepy::dht::protocol::{Engine, Outbox};
    /// use kadepy::{Config, Endpoint, NodeId, Time};
    ///
    /// let at = Endpoint::new([127, 0, 0, 1], 4000);
    /// let config = Arc::new(Config::default());
    /// let mut engine = Engine::new(Time::ZERO, NodeId([1; 32]), at, config, [0; 32]);
    /// let op = engine.join_topic(Time::ZERO, NodeId::of_topic(b"chess"), Some(80))?;
    /// engine.tick(Time::ZERO, &mut Outbox::default());
    /// assert_eq!(engine.membership(op).and_then(|membership| membership.confirmed), Some(0));
    /// # Ok::<(), kadepy::dht::protocol::Busy>(())
    /// ```
    pub fn join_topic(
        &mut self,
        now: Time,
        topic: NodeId,
        port: Option<u16>,
    ) -> Result<OpId, Busy> {
        if self.rounds.len() >= self.config.memberships {
            self.refuse(Refusal::Busy);
            return Err(Busy::MEMBERSHIPS);
        }
        let task = MembershipTask::new(now, topic, port);
        let op = self.operations.begin(now, Task::Membership(Box::new(task)), None);
        if let Some(task) = self.operations.membership(op) {
            self.rounds.add(op, task);
        }
        Ok(op)
    }

    /// The peers of a membership that came after the one with this number, each with its own, in the
    /// order in which they came; all that are known after number 0.
    ///
    /// A peer that was not seen for `Config.record_life` is forgotten, and new when it comes again.
    pub fn members(&self, op: OpId, after: u64) -> Vec<(u64, Endpoint)> {
        self.operations.membership(op).map_or_else(Vec::new, |task| task.peers.after(after))
    }

    /// How a membership stands; `None` where there is no such one any more.
    pub fn membership(&self, op: OpId) -> Option<Membership> {
        self.operations.membership(op).map(MembershipTask::status)
    }

    /// Ends an operation without an outcome.
    pub fn cancel(&mut self, op: OpId) {
        self.remove(op);
    }

    /// Whether there is room for one more of what callers start. What the node does by itself, to
    /// stay joined, is bounded in its own way and needs none; memberships have their own cap.
    fn check_room(&mut self) -> Result<(), Busy> {
        if self.operations.len() - self.rounds.len() >= self.config.operations {
            self.refuse(Refusal::Busy);
            return Err(Busy::OPERATIONS);
        }
        Ok(())
    }
}

/// What is done at once.
impl Engine {
    /// Sends one question, and waits for nothing.
    pub fn fire(&mut self, now: Time, to: Endpoint, question: Question, out: &mut Outbox) {
        self.ask(Request::to_endpoint(now, to, question, Purpose::Nothing), out);
        self.run(now, out);
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

    /// Has the node join through `seeds`, from the next tick on, and whenever it knows nobody again.
    /// Where it `expects_more`, lookups wait for them to come in another call.
    pub fn stay_joined(
        &mut self,
        now: Time,
        seeds: Vec<Endpoint>,
        expects_more: bool,
        out: &mut Outbox,
    ) {
        self.home.stay(now, seeds.clone(), expects_more);
        if let Some(join) = self.home.join {
            self.add_seeds(now, join, seeds, false, out);
        }
    }

    /// Has the node join at the next tick through `contacts` too, which an earlier run has left, and
    /// whenever it knows nobody again; the one to ask first comes first.
    pub fn recall(&mut self, now: Time, contacts: Vec<Contact>) {
        self.home.recalled = contacts;
        if self.has_recalled() {
            self.home.hurry(now);
            // One under way does not know every contact.
            if let Some(join) = self.home.join.take() {
                self.remove(join);
            }
        }
    }

    /// Does what a restart would, after a time in which the node could do nothing, as in a suspend of
    /// the machine: asks its contacts whether they are still there, and at the next tick joins through
    /// its seeds, whoever is known, and announces its memberships. What time has made due in between
    /// comes by itself.
    pub fn resumed(&mut self, now: Time, out: &mut Outbox) {
        self.home.resumed(now);
        self.seek_again(now);
        self.renew_memberships(now);
        let listed: Vec<Contact> = self.table.entries().map(|entry| entry.contact).collect();
        for contact in listed {
            // A question from before the sleep that is still open says nothing.
            self.greet(now, contact, Purpose::Check, out);
        }
    }

    /// The contacts to [`Engine::recall`] in a later run, `max` at most, the one to ask first first.
    ///
    /// Those that answered last come first: they are the likeliest to be there still, and a join asks
    /// in this order. Then come those that fell silent within a day, and then those recalled in this
    /// run that nobody has heard of since, so that a run in which nothing answers loses nothing.
    pub fn remembered(&mut self, now: Time, max: usize) -> Vec<Contact> {
        let mut listed: Vec<&Entry> = self.table.entries().collect();
        listed.sort_by_key(|entry| (entry.is_reliable(), entry.seen()));
        let mut contacts: Vec<Contact> = listed.iter().rev().map(|entry| entry.contact).collect();
        contacts.extend(self.table.dropped(now));
        contacts.extend(&self.home.recalled);
        let mut known = BTreeSet::new();
        contacts.retain(|contact| known.insert(contact.endpoint));
        contacts.truncate(max);
        contacts
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
            self.table = Tables::new(now, self.id, &self.config);
            self.home.recalled.clear();
            self.storage = Storage::new(self.id, &self.config);
            self.guard = Guard::new(&self.config, &mut self.rng);
            self.doubts = Doubts::default();
            self.own = Own::default();
            self.boot = boot_number(&mut self.rng);
            self.restart_memberships(now);
            self.seek_again(now);
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
            lookups_active: self.operations.iter().map(|(_, task)| task.walks().len()).sum(),
            contacts: self.table.len(),
            topics: self.storage.topics(),
            records: self.storage.records(),
            uptime: now - self.born,
        }
    }
}
