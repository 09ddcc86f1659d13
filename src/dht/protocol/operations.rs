//! What callers start: pings, lookups, announces and joins, from the command to the outcome.

use std::collections::BTreeSet;
use std::time::Duration;

use arrayvec::ArrayVec;
use thiserror::Error;

use super::{Engine, Event, Outbox, Refusal};
use crate::dht::lookup::{Lookup, Token};
use crate::dht::requests::{OpId, Purpose, Question, Request};
use crate::dht::routing::MAX_CLOSEST;
use crate::id::NodeId;
use crate::time::Time;
use crate::wire::message::{Body, Contact, Endpoint, Message};

/// As many operations are under way as the configuration allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("too many operations under way; wait for some to end, or raise Config.operations")]
pub struct Busy;

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The pinged node answered after so long.
    Pong(Duration),
    /// The pinged node did not answer.
    Silence,
    /// The nodes nearest to the target that answered, the nearest first.
    Nodes(Vec<Contact>),
    /// A lookup for peers is over; they came as [`Event::Peers`].
    Found,
    /// So many nodes confirmed that they store the announce.
    Announced(usize),
    /// A join is over.
    Joined {
        /// Contacts in the table now.
        contacts: usize,
        /// What became of each contact asked.
        seeds: Vec<(Endpoint, SeedState)>,
    },
}

/// What became of a contact that a join asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeedState {
    /// Not asked yet.
    Unasked,
    /// No answer yet.
    Asking,
    /// It answered.
    Answered,
    /// It did not answer, twice.
    Silent,
}

/// An operation under way.
pub(super) struct Operation {
    pub(super) deadline: Option<Time>,
    task: Task,
}

enum Task {
    Ping {
        attempts: u8,
        expired: u8,
    },
    /// An announce to one node, for which a token is fetched first.
    Introduction {
        topic: NodeId,
        port: Option<u16>,
    },
    Lookup(Box<LookupTask>),
}

struct LookupTask {
    lookup: Lookup,
    goal: Goal,
}

/// What a lookup is for.
enum Goal {
    Find,
    Peers {
        found: BTreeSet<Endpoint>,
    },
    Announce {
        port: Option<u16>,
        announcing: Option<Announcing>,
    },
    Join {
        seeds: Vec<(Endpoint, SeedState)>,
        refreshing: usize,
    },
    /// Keeps a bucket fresh; counted by the join that started it, if one did.
    Refresh {
        join: Option<OpId>,
    },
}

/// The last step of an announce: the nodes that are to store it, and what each has said.
type Announcing = ArrayVec<(NodeId, Storing), MAX_CLOSEST>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Storing {
    Pending,
    Confirmed,
    /// It refused, or was silent twice; it may still confirm late.
    Failed,
}

/// The contacts through which the node joins by itself whenever it knows nobody.
#[derive(Default)]
pub(super) struct Home {
    seeds: Vec<Endpoint>,
    /// Whether the seeds are still being resolved.
    is_expected: bool,
    join: Option<OpId>,
    next_try: Time,
    /// The wait after the next failure; zero before the first.
    backoff: Duration,
    /// Lookups that wait for the join.
    held: Vec<OpId>,
}

/// A ping is repeated so often before only its deadline is waited for.
const PING_ATTEMPTS: u8 = 3;
/// Contacts that one join asks at once.
const GREETINGS: usize = 16;
/// The wait before a failed join is tried again, which doubles with each failure.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Commands.
impl Engine {
    /// Asks one node whether it is there, repeatedly until it answers or `timeout` is over.
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
        let op = self.begin(
            now,
            Task::Ping {
                attempts: 1,
                expired: 0,
            },
            timeout,
        )?;
        if !self.ask(now, to, None, Question::Ping, Purpose::Op(op), false, out) {
            self.remove(op);
            return Err(Busy);
        }
        self.end_overdue(now);
        Ok(op)
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
        let mut own: Vec<Endpoint> = Vec::new();
        let max = self.config.lookup_peers;
        self.storage
            .sample(now, topic, max, |_| true, &mut self.rng, &mut own);
        let found = own.iter().copied().collect();
        let op = self.begin_lookup(now, topic, Goal::Peers { found }, timeout)?;
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
            Goal::Announce {
                port,
                announcing: None,
            },
            timeout,
            out,
        )
    }

    /// Joins a network through `seeds`: asks them, looks up the own id, refreshes.
    ///
    /// # Errors
    ///
    /// See [`Engine::ping`].
    pub fn join(
        &mut self,
        now: Time,
        seeds: Vec<Endpoint>,
        timeout: Option<Duration>,
        out: &mut Outbox,
    ) -> Result<OpId, Busy> {
        let mut distinct: Vec<(Endpoint, SeedState)> = Vec::new();
        for seed in seeds {
            if distinct.iter().all(|(known, _)| *known != seed) {
                distinct.push((seed, SeedState::Unasked));
            }
        }
        let goal = Goal::Join {
            seeds: distinct,
            refreshing: 0,
        };
        let op = self.begin_lookup(now, self.id, goal, timeout)?;
        self.end_overdue(now);
        self.table.touch(now, &self.id);
        self.greet(now, op, out);
        self.advance(now, op, out);
        Ok(op)
    }

    /// Lets lookups wait for seeds that [`Engine::stay_joined`] is going to bring.
    pub fn expect_seeds(&mut self) {
        self.home.is_expected = true;
    }

    /// Joins through `seeds` at the next tick, and again whenever the node knows nobody.
    pub fn stay_joined(&mut self, now: Time, seeds: Vec<Endpoint>) {
        self.home.is_expected = false;
        self.home.seeds = seeds;
        self.home.next_try = now;
    }

    /// Sends one PING, FIND_NODE or GET_PEERS, and waits for nothing.
    pub fn fire(&mut self, now: Time, to: Endpoint, question: Question, out: &mut Outbox) {
        self.ask(now, to, None, question, Purpose::Nothing, false, out);
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
        if self.guard.trusts_legacy(&to) {
            let request = Request {
                to,
                id: None,
                question: Question::Announce(topic),
                purpose: Purpose::Nothing,
                sent: now,
                is_retry: false,
            };
            self.send_announce(request, topic, port, None, out);
            return;
        }
        let timeout = Some(2 * self.config.request_timeout);
        if let Ok(op) = self.begin(now, Task::Introduction { topic, port }, timeout) {
            self.ask(
                now,
                to,
                None,
                Question::GetPeers(topic),
                Purpose::Op(op),
                false,
                out,
            );
        }
    }

    /// Ends an operation without an outcome.
    pub fn cancel(&mut self, op: OpId) {
        self.remove(op);
    }
}

/// From the command to the outcome.
impl Engine {
    fn begin(&mut self, now: Time, task: Task, timeout: Option<Duration>) -> Result<OpId, Busy> {
        if self.operations.len() >= self.config.operations {
            self.refuse(Refusal::Busy);
            return Err(Busy);
        }
        self.next_op += 1;
        let op = self.next_op;
        let deadline = timeout.map(|timeout| now + timeout);
        self.deadlines.extend(deadline.map(|at| (at, op)));
        self.operations.insert(op, Operation { deadline, task });
        Ok(op)
    }

    fn begin_lookup(
        &mut self,
        now: Time,
        target: NodeId,
        goal: Goal,
        timeout: Option<Duration>,
    ) -> Result<OpId, Busy> {
        let lookup = Lookup::new(target, &self.config);
        let op = self.begin(
            now,
            Task::Lookup(Box::new(LookupTask { lookup, goal })),
            timeout,
        )?;
        self.counters.lookups += 1;
        Ok(op)
    }

    fn look_up(
        &mut self,
        now: Time,
        target: NodeId,
        goal: Goal,
        timeout: Option<Duration>,
        out: &mut Outbox,
    ) -> Result<OpId, Busy> {
        let op = self.begin_lookup(now, target, goal, timeout)?;
        self.hold_or_launch(now, op, out);
        Ok(op)
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
    fn launch(&mut self, now: Time, op: OpId, out: &mut Outbox) {
        let Some(target) = self.lookup(op).map(|task| task.lookup.target()) else {
            return;
        };
        self.table.touch(now, &target);
        let nearest = self.table.closest(&target, MAX_CLOSEST, |entry| {
            self.reaches(&entry.contact.endpoint)
        });
        if let Some(task) = self.lookup(op) {
            for contact in nearest {
                task.lookup.add(contact);
            }
        }
        self.advance(now, op, out);
    }

    pub(super) fn start_refresh(
        &mut self,
        now: Time,
        target: NodeId,
        join: Option<OpId>,
        out: &mut Outbox,
    ) {
        self.table.touch(now, &target);
        match self.begin_lookup(now, target, Goal::Refresh { join }, None) {
            Ok(op) => self.launch(now, op, out),
            Err(Busy) => join.into_iter().for_each(|join| self.refreshed(now, join)),
        }
    }

    /// Sends what a lookup wants sent, and concludes it when it is done.
    fn advance(&mut self, now: Time, op: OpId, out: &mut Outbox) {
        while let Some(task) = self.lookup(op) {
            if task.is_announcing() {
                return;
            }
            let question = task.question();
            let Some(query) = task.lookup.next_query() else {
                break;
            };
            let Contact { id, endpoint } = query.contact;
            if !self.ask(
                now,
                endpoint,
                Some(id),
                question,
                Purpose::Op(op),
                query.is_retry,
                out,
            ) {
                if let Some(task) = self.lookup(op) {
                    task.lookup.failed(&id);
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
            Goal::Announce { announcing, .. } => {
                *announcing = Some(Announcing::new());
                self.announce_to_closest(now, op, out);
            }
            Goal::Join { seeds, .. } => {
                if !seeds.iter().any(|(_, state)| *state == SeedState::Answered) {
                    return self.finish_operation(now, op);
                }
                self.refresh_after_join(now, op, out);
            }
            Goal::Refresh { join } => {
                let join = *join;
                self.remove(op);
                if let Some(join) = join {
                    self.refreshed(now, join);
                }
            }
        }
    }

    fn announce_to_closest(&mut self, now: Time, op: OpId, out: &mut Outbox) {
        let Some(task) = self.lookup(op) else {
            return;
        };
        let storers: ArrayVec<(Contact, Option<Token>), MAX_CLOSEST> = task
            .lookup
            .closest()
            .map(|(contact, token)| (contact, token.cloned()))
            .collect();
        for (contact, token) in storers {
            // Without a token it is a node of v0.1, which stores and does not answer.
            if token.is_some() {
                if self.announce_once(now, op, contact, token.as_ref(), false, out) {
                    if let Some(storers) = self.lookup(op).and_then(LookupTask::announcing) {
                        storers.push((contact.id, Storing::Pending));
                    }
                }
            } else if self.guard.trusts_legacy(&contact.endpoint) {
                self.announce_once(now, op, contact, None, false, out);
            }
        }
        self.finish_if_announced(now, op);
    }

    fn announce_once(
        &mut self,
        now: Time,
        op: OpId,
        contact: Contact,
        token: Option<&Token>,
        is_retry: bool,
        out: &mut Outbox,
    ) -> bool {
        let Some((topic, port)) = self.lookup(op).and_then(|task| match task.goal {
            Goal::Announce { port, .. } => Some((task.lookup.target(), port)),
            _ => None,
        }) else {
            return false;
        };
        let request = Request {
            to: contact.endpoint,
            id: Some(contact.id),
            question: Question::Announce(topic),
            purpose: if token.is_some() {
                Purpose::Op(op)
            } else {
                Purpose::Nothing
            },
            sent: now,
            is_retry,
        };
        self.send_announce(
            request,
            topic,
            port,
            token.map(|token| token.as_slice()),
            out,
        )
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
        if storers.is_some_and(|storers| {
            storers
                .iter()
                .all(|(_, storing)| *storing != Storing::Pending)
        }) {
            self.finish_operation(now, op);
        }
    }

    /// Asks the seeds of a join, a few at once.
    fn greet(&mut self, now: Time, op: OpId, out: &mut Outbox) {
        loop {
            let own_id = self.id;
            let Some(Goal::Join { seeds, .. }) = self.lookup(op).map(|task| &mut task.goal) else {
                return;
            };
            let asking = seeds
                .iter()
                .filter(|(_, state)| *state == SeedState::Asking)
                .count();
            let unasked = seeds
                .iter_mut()
                .find(|(_, state)| *state == SeedState::Unasked);
            let Some((to, state)) = unasked.filter(|_| asking < GREETINGS) else {
                return;
            };
            *state = SeedState::Asking;
            let to = *to;
            let question = Question::FindNode(own_id);
            let is_sent = self.reaches(&to)
                && !self.is_own(&to)
                && self.ask(now, to, None, question, Purpose::Op(op), false, out);
            if !is_sent {
                self.settle_seed(op, to, SeedState::Silent);
            }
        }
    }

    fn settle_seed(&mut self, op: OpId, endpoint: Endpoint, settled: SeedState) {
        if let Some(Goal::Join { seeds, .. }) = self.lookup(op).map(|task| &mut task.goal) {
            if let Some((_, state)) = seeds.iter_mut().find(|(seed, _)| *seed == endpoint) {
                *state = settled;
            }
        }
    }

    /// Looks up an id in each bucket that the lookup of the own id left thin.
    fn refresh_after_join(&mut self, now: Time, op: OpId, out: &mut Outbox) {
        let ranges = self.table.thin_buckets();
        if ranges.is_empty() {
            return self.finish_operation(now, op);
        }
        if let Some(Goal::Join { refreshing, .. }) = self.lookup(op).map(|task| &mut task.goal) {
            *refreshing = ranges.len();
        }
        for bucket in ranges {
            let random = self.random_id();
            let target = self.table.id_in_bucket(bucket, &random);
            self.start_refresh(now, target, Some(op), out);
        }
    }

    fn refreshed(&mut self, now: Time, join: OpId) {
        if let Some(Goal::Join { refreshing, .. }) = self.lookup(join).map(|task| &mut task.goal) {
            *refreshing = refreshing.saturating_sub(1);
            if *refreshing == 0 {
                self.finish_operation(now, join);
            }
        }
    }

    /// Takes in the answer to a request of an operation, if that is still under way.
    #[expect(
        clippy::too_many_arguments,
        reason = "an answer is what these say, and no two belong together"
    )]
    pub(super) fn operation_answered(
        &mut self,
        now: Time,
        op: OpId,
        request: Request,
        contact: Contact,
        reply: &Message<'_>,
        round_trip: Duration,
        out: &mut Outbox,
    ) {
        match self.operations.get(&op).map(|operation| &operation.task) {
            None => {}
            Some(Task::Ping { .. }) => self.end(now, op, Outcome::Pong(round_trip)),
            Some(&Task::Introduction { topic, port }) => {
                self.remove(op);
                let request = Request {
                    id: Some(contact.id),
                    question: Question::Announce(topic),
                    purpose: Purpose::Nothing,
                    sent: now,
                    ..request
                };
                let token = reply.trailer.and_then(|trailer| trailer.token);
                self.send_announce(request, topic, port, token, out);
            }
            Some(Task::Lookup(_)) => {
                if matches!(request.question, Question::Announce(_)) {
                    let is_confirmed = matches!(reply.body, Body::Announced { .. });
                    let settled = if is_confirmed {
                        Storing::Confirmed
                    } else {
                        Storing::Failed
                    };
                    return self.settle_announce(now, op, contact.id, settled);
                }
                self.absorb(op, contact, reply);
                self.settle_seed(op, contact.endpoint, SeedState::Answered);
                self.greet(now, op, out);
                self.advance(now, op, out);
            }
        }
    }

    /// Takes what a node answered into a lookup.
    fn absorb(&mut self, op: OpId, contact: Contact, reply: &Message<'_>) {
        let nodes: ArrayVec<Contact, MAX_CLOSEST> =
            self.believable(contact.endpoint, reply).collect();
        let peers_max = self.config.lookup_peers;
        let believes = |peer: &Endpoint| self.guard.believes(peer, &contact.endpoint, true);
        let peers: Vec<Endpoint> = reply.peers.iter().copied().filter(believes).collect();
        let Some(task) = self.lookup(op) else {
            return;
        };
        if matches!(reply.body, Body::Error { .. }) {
            return task.lookup.failed(&contact.id);
        }
        let token = reply
            .trailer
            .and_then(|trailer| trailer.token)
            .and_then(|token| token.try_into().ok());
        task.lookup.answered(contact, token);
        for node in nodes {
            task.lookup.add(node);
        }
        if let Goal::Peers { found } = &mut task.goal {
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
    }

    /// What an operation does when an answer is late.
    pub(super) fn operation_late(
        &mut self,
        now: Time,
        op: OpId,
        request: Request,
        out: &mut Outbox,
    ) {
        let again = |engine: &mut Engine, out: &mut Outbox| {
            engine.ask(
                now,
                request.to,
                request.id,
                request.question,
                Purpose::Op(op),
                true,
                out,
            )
        };
        match self
            .operations
            .get_mut(&op)
            .map(|operation| &mut operation.task)
        {
            None => {}
            Some(Task::Ping { attempts, .. }) => {
                if *attempts < PING_ATTEMPTS {
                    *attempts += 1;
                    again(self, out);
                }
            }
            Some(Task::Introduction { .. }) => {
                if !request.is_retry {
                    again(self, out);
                }
            }
            Some(Task::Lookup(task)) => match (request.question, request.id) {
                (Question::Announce(_), Some(id)) => {
                    let mut storers = task.lookup.closest();
                    let token = storers
                        .find(|(contact, _)| contact.id == id)
                        .and_then(|(_, token)| token.cloned());
                    drop(storers);
                    let contact = Contact {
                        id,
                        endpoint: request.to,
                    };
                    if request.is_retry
                        || !self.announce_once(now, op, contact, token.as_ref(), true, out)
                    {
                        self.settle_announce(now, op, id, Storing::Failed);
                    }
                }
                (_, Some(id)) => {
                    task.lookup.late(&id);
                    self.advance(now, op, out);
                }
                (_, None) => {
                    if request.is_retry || !again(self, out) {
                        self.settle_seed(op, request.to, SeedState::Silent);
                        self.greet(now, op, out);
                        self.advance(now, op, out);
                    }
                }
            },
        }
    }

    /// What an operation does when an answer is no longer accepted: only a ping minds.
    pub(super) fn operation_expired(&mut self, now: Time, op: OpId) {
        if let Some(Task::Ping {
            attempts, expired, ..
        }) = self.operations.get_mut(&op).map(|o| &mut o.task)
        {
            *expired += 1;
            if *expired >= *attempts {
                self.end(now, op, Outcome::Silence);
            }
        }
    }

    /// Ends the operations whose deadline is over, with what they have.
    pub(super) fn end_overdue(&mut self, now: Time) {
        while let Some(&(deadline, op)) = self.deadlines.first() {
            if deadline > now {
                return;
            }
            self.finish_operation(now, op);
        }
    }

    /// Ends an operation with what it has.
    fn finish_operation(&mut self, now: Time, op: OpId) {
        let contacts = self.table.len();
        let Some(operation) = self.operations.get(&op) else {
            return;
        };
        let outcome = match &operation.task {
            Task::Ping { .. } => Outcome::Silence,
            Task::Introduction { .. } => {
                self.remove(op);
                return;
            }
            Task::Lookup(task) => match &task.goal {
                Goal::Find => {
                    Outcome::Nodes(task.lookup.closest().map(|(contact, _)| contact).collect())
                }
                Goal::Peers { .. } => Outcome::Found,
                Goal::Announce { announcing, .. } => {
                    let storers = announcing.iter().flatten();
                    Outcome::Announced(
                        storers
                            .filter(|(_, storing)| *storing == Storing::Confirmed)
                            .count(),
                    )
                }
                Goal::Join { seeds, .. } => Outcome::Joined {
                    contacts,
                    seeds: seeds.clone(),
                },
                Goal::Refresh { .. } => {
                    self.remove(op);
                    return;
                }
            },
        };
        self.end(now, op, outcome);
    }

    fn end(&mut self, now: Time, op: OpId, outcome: Outcome) {
        self.remove(op);
        if self.home.join == Some(op) {
            self.came_home(now);
        } else {
            self.events.push_back(Event::Done { op, outcome });
        }
    }

    fn remove(&mut self, op: OpId) {
        if let Some(deadline) = self
            .operations
            .remove(&op)
            .and_then(|operation| operation.deadline)
        {
            self.deadlines.remove(&(deadline, op));
        }
        self.home.held.retain(|held| *held != op);
    }

    fn lookup(&mut self, op: OpId) -> Option<&mut LookupTask> {
        match &mut self.operations.get_mut(&op)?.task {
            Task::Lookup(task) => Some(task),
            _ => None,
        }
    }
}

/// Joining by itself.
impl Engine {
    /// Whether lookups wait because a join is to come first.
    fn is_joining(&self) -> bool {
        let home = &self.home;
        home.join.is_some() || self.table.is_empty() && (home.is_expected || !home.seeds.is_empty())
    }

    /// Joins through the home contacts, and those known before, when the table is empty; lets
    /// lookups go that waited for it.
    pub(super) fn rejoin(&mut self, now: Time, out: &mut Outbox) {
        if self.next_rejoin().is_some_and(|at| at <= now) {
            let mut seeds = self.home.seeds.clone();
            seeds.extend(self.table.dropped(now).map(|contact| contact.endpoint));
            // Known before it begins, for a join that nobody can be asked for ends at once.
            self.home.join = Some(self.next_op + 1);
            if self.join(now, seeds, None, out).is_err() {
                self.came_home(now);
            }
        }
        if !self.home.held.is_empty() && !self.is_joining() {
            for op in std::mem::take(&mut self.home.held) {
                self.launch(now, op, out);
            }
        }
    }

    pub(super) fn next_rejoin(&self) -> Option<Time> {
        let home = &self.home;
        let knows_where = !home.seeds.is_empty() || self.table.has_dropped();
        (knows_where && home.join.is_none() && self.table.is_empty()).then_some(home.next_try)
    }

    fn came_home(&mut self, now: Time) {
        self.home.join = None;
        if self.table.is_empty() {
            let wait = self.home.backoff.max(BACKOFF_MIN);
            self.home.backoff = (wait * 2).min(BACKOFF_MAX);
            self.home.next_try = now + wait;
            self.events.push_back(Event::Alone(wait));
        } else {
            self.home.backoff = BACKOFF_MIN;
            self.home.next_try = now;
            self.events.push_back(Event::Joined(self.table.len()));
        }
    }
}

impl Operation {
    pub(super) fn is_lookup(&self) -> bool {
        matches!(self.task, Task::Lookup(_))
    }

    pub(super) fn check_invariants(&self) {
        if let Task::Lookup(task) = &self.task {
            task.lookup.check_invariants();
        }
    }
}

impl LookupTask {
    fn question(&self) -> Question {
        let target = self.lookup.target();
        match self.goal {
            Goal::Peers { .. } | Goal::Announce { .. } => Question::GetPeers(target),
            Goal::Find | Goal::Join { .. } | Goal::Refresh { .. } => Question::FindNode(target),
        }
    }

    fn is_announcing(&self) -> bool {
        matches!(
            self.goal,
            Goal::Announce {
                announcing: Some(_),
                ..
            }
        )
    }

    fn announcing(&mut self) -> Option<&mut Announcing> {
        match &mut self.goal {
            Goal::Announce { announcing, .. } => announcing.as_mut(),
            _ => None,
        }
    }

    /// Whether the lookup is over; that of a join is not before a seed has answered or all are
    /// silent, nor again while its refreshes run.
    fn is_done(&self) -> bool {
        let may_end = match &self.goal {
            Goal::Join { seeds, refreshing } => {
                *refreshing == 0
                    && (seeds.iter().any(|(_, state)| *state == SeedState::Answered)
                        || seeds.iter().all(|(_, state)| *state == SeedState::Silent))
            }
            _ => true,
        };
        may_end && self.lookup.is_done()
    }
}
