//! Lookups as operations: from the command over the queries to what was found, and the announce
//! that may follow. Which contact to query next is `dht::lookup`'s affair.

use std::collections::BTreeSet;
use std::time::Duration;

use arrayvec::ArrayVec;

use super::joins::{Join, SeedState};
use super::operations::{Busy, Outcome, Task, token_of};
use super::{Engine, Event, Outbox};
use crate::config::Config;
use crate::dht::lookup::Lookup;
use crate::dht::requests::{Announcement, OpId, Purpose, Question, Request};
use crate::dht::routing::MAX_CLOSEST;
use crate::id::NodeId;
use crate::time::Time;
use crate::wire::message::{Body, Contact, Endpoint, Message, Token};

/// A lookup and what it is for.
pub(super) struct LookupTask {
    lookup: Lookup,
    goal: Goal,
}

/// What a lookup is for.
pub(super) enum Goal {
    Find,
    Peers {
        found: BTreeSet<Endpoint>,
    },
    Announce {
        port: Option<u16>,
        announcing: Option<Announcing>,
        /// Nodes of v0.1 that were told, which store and do not say so.
        entrusted: usize,
    },
    /// For the own id.
    Join(Join),
    /// Keeps a bucket fresh; counted by the join that started it, if one did.
    Refresh {
        join: Option<OpId>,
    },
}

/// The last step of an announce: the nodes that are to store it, and what each has said.
type Announcing = Vec<(NodeId, Storing)>;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Storing {
    Pending,
    Confirmed,
    /// It refused, or was silent twice; it may still confirm late.
    Failed,
}

/// Commands.
impl Engine {
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
        self.look_up(now, target, Goal::Find, timeout, out)
    }

    /// Looks up the peers of `topic`, what this node stores itself included.
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
        let own: Vec<Endpoint> =
            self.storage.peers(now, &topic).take(self.config.lookup_peers).collect();
        let found = own.iter().copied().collect();
        self.check_room()?;
        let op = self.begin_lookup(now, topic, Goal::Peers { found }, timeout);
        if !own.is_empty() {
            self.events.push_back(Event::Peers { op, peers: own });
        }
        self.hold_or_launch(now, op, out);
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
        self.look_up(
            now,
            topic,
            Goal::Announce { port, announcing: None, entrusted: 0 },
            timeout,
            out,
        )
    }
}

impl Engine {
    fn look_up(
        &mut self,
        now: Time,
        target: NodeId,
        goal: Goal,
        timeout: Option<Duration>,
        out: &mut Outbox,
    ) -> Result<OpId, Busy> {
        self.check_room()?;
        let op = self.begin_lookup(now, target, goal, timeout);
        self.hold_or_launch(now, op, out);
        Ok(op)
    }

    pub(super) fn begin_lookup(
        &mut self,
        now: Time,
        target: NodeId,
        goal: Goal,
        timeout: Option<Duration>,
    ) -> OpId {
        let lookup = Lookup::new(target, &self.config);
        self.counters.lookups += 1;
        self.begin(now, Task::Lookup(Box::new(LookupTask { lookup, goal })), timeout)
    }

    fn hold_or_launch(&mut self, now: Time, op: OpId, out: &mut Outbox) {
        // With a timeout of zero it is over before any answer can come.
        self.end_overdue(now);
        if self.is_joining() && self.operations.contains_key(&op) {
            self.home.held.push(op);
        } else {
            self.launch(now, op, out);
        }
    }

    /// Sends a lookup on its way from the contacts in the table.
    pub(super) fn launch(&mut self, now: Time, op: OpId, out: &mut Outbox) {
        let Some(target) = self.lookup(op).map(|task| task.lookup.target()) else {
            return;
        };
        self.table.touch(now, &target);
        let nearest =
            self.table.closest(&target, MAX_CLOSEST, |entry| self.reaches(&entry.contact.endpoint));
        if let Some(task) = self.lookup(op) {
            nearest.into_iter().for_each(|contact| task.lookup.add(contact));
        }
        self.advance(now, op, out);
    }

    /// Looks up `target` to fill its bucket.
    pub(super) fn start_refresh(
        &mut self,
        now: Time,
        target: NodeId,
        join: Option<OpId>,
        out: &mut Outbox,
    ) {
        self.table.touch(now, &target);
        let op = self.begin_lookup(now, target, Goal::Refresh { join }, None);
        if join.is_none() {
            self.refreshing = Some(op);
        }
        self.launch(now, op, out);
    }

    /// Sends what a lookup wants sent, and concludes it when it is done.
    pub(super) fn advance(&mut self, now: Time, op: OpId, out: &mut Outbox) {
        while let Some(task) = self.lookup(op) {
            if task.is_announcing() {
                return;
            }
            let question = task.question();
            let Some(query) = task.lookup.next_query() else {
                break;
            };
            let first = Request::to_contact(now, query.contact, question, Purpose::Op(op));
            let request = Request { is_retry: query.is_retry, ..first };
            if !self.ask(request, out) {
                if let Some(task) = self.lookup(op) {
                    task.lookup.failed(&query.contact);
                }
            }
        }
        if self.lookup(op).is_some_and(|task| task.is_done()) {
            self.conclude(now, op, out);
        }
    }

    /// What follows when a lookup has found what there is to find.
    fn conclude(&mut self, now: Time, op: OpId, out: &mut Outbox) {
        let Some(task) = self.lookup(op) else {
            return;
        };
        match &mut task.goal {
            Goal::Find | Goal::Peers { .. } => self.finish_operation(now, op),
            Goal::Announce { port, announcing, .. } => {
                let port = *port;
                *announcing = Some(Announcing::new());
                self.announce_to_closest(now, op, port, out);
            }
            Goal::Join(_) => self.refresh_after_join(now, op, out),
            &mut Goal::Refresh { join } => {
                self.remove(op);
                match join {
                    Some(join) => self.refreshed(now, join, out),
                    None => self.refreshing = None,
                }
            }
        }
    }

    /// Takes in the answer to one of a lookup's requests.
    pub(super) fn lookup_answered(
        &mut self,
        now: Time,
        op: OpId,
        request: Request,
        contact: Contact,
        reply: &Message<'_>,
        out: &mut Outbox,
    ) {
        if matches!(request.question, Question::Announce(_)) {
            let is_confirmed = matches!(reply.body, Body::Announced { .. });
            let settled = if is_confirmed { Storing::Confirmed } else { Storing::Failed };
            return self.settle_announce(now, op, contact.id, settled);
        }
        self.absorb(now, op, contact, reply);
        self.settle_seed(op, contact.endpoint, SeedState::Answered);
        self.greet(now, op, out);
        self.advance(now, op, out);
    }

    /// What a lookup does when the answer to one of its requests is late.
    pub(super) fn lookup_late(&mut self, now: Time, op: OpId, request: Request, out: &mut Outbox) {
        match (request.question, request.id) {
            (Question::Announce(_), Some(id)) => {
                if request.is_retry || !self.ask(request.repeated(now), out) {
                    self.settle_announce(now, op, id, Storing::Failed);
                }
            }
            (_, Some(id)) => {
                if let Some(task) = self.lookup(op) {
                    task.lookup.late(&Contact { id, endpoint: request.to });
                }
                self.advance(now, op, out);
            }
            // A seed, whose id is not known before it answers.
            (_, None) => {
                let attempt = self
                    .next_attempt(op, request.to)
                    .filter(|_| self.ask(request.repeated(now), out));
                let settled = attempt.map_or(SeedState::Silent, SeedState::Late);
                self.settle_seed(op, request.to, settled);
                self.greet(now, op, out);
                self.advance(now, op, out);
            }
        }
    }

    /// Takes what a node answered into a lookup.
    fn absorb(&mut self, now: Time, op: OpId, contact: Contact, reply: &Message<'_>) {
        let nodes: ArrayVec<Contact, MAX_CLOSEST> =
            self.believable(contact.endpoint, reply).collect();
        let peers_max = self.config.lookup_peers;
        let believes = |peer: &Endpoint| self.guard.believes(peer, &contact.endpoint, true);
        let peers: Vec<Endpoint> = reply.peers.iter().copied().filter(believes).collect();
        let Some(task) = self.lookup(op) else {
            return;
        };
        if matches!(reply.body, Body::Error { .. }) {
            return task.lookup.failed(&contact);
        }
        task.lookup.answered(contact, token_of(reply));
        nodes.into_iter().for_each(|node| task.lookup.add(node));
        match &mut task.goal {
            Goal::Peers { found } => {
                let mut fresh = Vec::new();
                for peer in peers {
                    if found.len() < peers_max && found.insert(peer) {
                        fresh.push(peer);
                    }
                }
                if !fresh.is_empty() {
                    self.events.push_back(Event::Peers { op, peers: fresh });
                }
            }
            Goal::Announce { .. } => {
                let seen_at = reply.trailer.and_then(|trailer| trailer.endpoint);
                self.take_members(now, op, seen_at, peers);
            }
            Goal::Find | Goal::Join(_) | Goal::Refresh { .. } => {}
        }
    }

    fn announce_to_closest(&mut self, now: Time, op: OpId, port: Option<u16>, out: &mut Outbox) {
        let Some(task) = self.lookup(op) else {
            return;
        };
        let topic = task.lookup.target();
        let storers: ArrayVec<(Contact, Option<Token>), MAX_CLOSEST> =
            task.lookup.closest().collect();
        for (contact, token) in storers {
            let question = Question::Announce(Announcement { topic, port, token });
            if token.is_some() {
                let request = Request::to_contact(now, contact, question, Purpose::Op(op));
                let is_sent = self.ask(request, out);
                if let Some(storers) = self.lookup(op).and_then(LookupTask::announcing) {
                    storers.extend(is_sent.then_some((contact.id, Storing::Pending)));
                }
            } else if self.trusts_legacy(&contact.endpoint) {
                // A node of v0.1, which stores and does not answer.
                self.fire(now, contact.endpoint, question, out);
                if let Some(Goal::Announce { entrusted, .. }) =
                    self.lookup(op).map(|task| &mut task.goal)
                {
                    *entrusted += 1;
                }
            }
        }
        self.finish_if_announced(now, op);
    }

    /// Notes what became of the announce to one node.
    fn settle_announce(&mut self, now: Time, op: OpId, id: NodeId, settled: Storing) {
        let Some(storers) = self.lookup(op).and_then(LookupTask::announcing) else {
            return;
        };
        if let Some((_, storing)) = storers.iter_mut().find(|(storer, _)| *storer == id) {
            if *storing != Storing::Confirmed {
                *storing = settled;
            }
        }
        self.finish_if_announced(now, op);
    }

    fn finish_if_announced(&mut self, now: Time, op: OpId) {
        let storers = self.lookup(op).and_then(LookupTask::announcing);
        if storers
            .is_some_and(|storers| storers.iter().all(|(_, storing)| *storing != Storing::Pending))
        {
            self.finish_operation(now, op);
        }
    }

    pub(super) fn lookup(&mut self, op: OpId) -> Option<&mut LookupTask> {
        match &mut self.operations.get_mut(&op)?.task {
            Task::Lookup(task) => Some(task),
            Task::Membership(task) => task.round_mut(),
            _ => None,
        }
    }
}

impl LookupTask {
    /// The lookup of an announce that knows nobody yet.
    pub(super) fn announce(topic: NodeId, port: Option<u16>, config: &Config) -> Self {
        let goal = Goal::Announce { port, announcing: None, entrusted: 0 };
        Self { lookup: Lookup::new(topic, config), goal }
    }

    /// Whether any node stores its announce, as far as can be known.
    pub(super) fn is_stored(&self) -> bool {
        self.confirmed() > 0
            || matches!(self.goal, Goal::Announce { entrusted, .. } if entrusted > 0)
    }

    /// How many nodes have confirmed that they store its announce.
    pub(super) fn confirmed(&self) -> usize {
        let Goal::Announce { announcing, .. } = &self.goal else {
            return 0;
        };
        let storers = announcing.iter().flatten();
        storers.filter(|(_, storing)| *storing == Storing::Confirmed).count()
    }

    /// What it has so far, where anybody is to be told; `contacts` are those in the table.
    pub(super) fn outcome(&self, contacts: usize) -> Option<Outcome> {
        match &self.goal {
            Goal::Find => {
                let nodes = self.lookup.closest().map(|(contact, _)| contact).collect();
                Some(Outcome::Nodes(nodes))
            }
            Goal::Peers { .. } => Some(Outcome::Found),
            Goal::Announce { .. } => Some(Outcome::Announced(self.confirmed())),
            Goal::Join(join) => Some(Outcome::Joined { contacts, seeds: join.seeds.clone() }),
            Goal::Refresh { .. } => None,
        }
    }

    /// What makes it a join, where it is one.
    pub(super) fn join(&mut self) -> Option<&mut Join> {
        match &mut self.goal {
            Goal::Join(join) => Some(join),
            _ => None,
        }
    }

    pub(super) fn check_invariants(&self) {
        self.lookup.check_invariants();
    }

    fn question(&self) -> Question {
        let target = self.lookup.target();
        match self.goal {
            Goal::Peers { .. } | Goal::Announce { .. } => Question::GetPeers(target),
            Goal::Find | Goal::Join(_) | Goal::Refresh { .. } => Question::FindNode(target),
        }
    }

    fn is_announcing(&self) -> bool {
        matches!(self.goal, Goal::Announce { announcing: Some(_), .. })
    }

    fn announcing(&mut self) -> Option<&mut Announcing> {
        match &mut self.goal {
            Goal::Announce { announcing, .. } => announcing.as_mut(),
            _ => None,
        }
    }

    /// Whether the lookup is over.
    fn is_done(&self) -> bool {
        let may_end = match &self.goal {
            Goal::Join(join) => join.may_conclude(),
            _ => true,
        };
        may_end && self.lookup.is_done()
    }
}
