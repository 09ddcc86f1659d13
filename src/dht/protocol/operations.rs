//! Whatever a caller starts: how an operation begins, which answers and silences reach it, and how
//! it ends. Lookups, joins and memberships stand beside this; a ping, which is one request, stands here.

use std::time::Duration;

use thiserror::Error;

use super::joins::SeedState;
use super::lookups::LookupTask;
use super::memberships::MembershipTask;
use super::{Engine, Event, Outbox, Refusal};
use crate::dht::requests::{Announcement, OpId, Purpose, Question, Request};
use crate::id::NodeId;
use crate::time::Time;
use crate::wire::message::{Contact, Endpoint, Message, Token};

/// As many operations are under way as the configuration allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("too many {0} under way; wait for some to end, or raise Config.{0}")]
pub struct Busy(&'static str);

impl Busy {
    /// Of the lookups, pings and joins that callers wait for.
    pub(super) const OPERATIONS: Self = Self("operations");
    /// Of the topics that callers have joined.
    pub(super) const MEMBERSHIPS: Self = Self("memberships");
}

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

/// An operation under way.
pub(super) struct Operation {
    pub(super) deadline: Option<Time>,
    pub(super) task: Task,
}

pub(super) enum Task {
    Ping {
        attempts: u8,
        expired: u8,
    },
    /// An announce to one node, for which a token is fetched first.
    Introduction {
        port: Option<u16>,
    },
    Lookup(Box<LookupTask>),
    Membership(Box<MembershipTask>),
}

/// So often a ping asks.
const PING_ATTEMPTS: u8 = 3;

/// Commands.
impl Engine {
    /// Asks one node whether it is there, up to three times, until it answers, no answer is accepted
    /// any more or `timeout` is over.
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
        let op = self.begin(now, Task::Ping { attempts: 1, expired: 0 }, timeout);
        if !self.ask(Request::to_endpoint(now, to, Question::Ping, Purpose::Op(op)), out) {
            self.remove(op);
            return Err(Busy::OPERATIONS);
        }
        self.end_overdue(now);
        Ok(op)
    }

    /// Sends one question, and waits for nothing.
    pub fn fire(&mut self, now: Time, to: Endpoint, question: Question, out: &mut Outbox) {
        self.ask(Request::to_endpoint(now, to, question, Purpose::Nothing), out);
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
            return;
        }
        let timeout = Some(2 * self.config.request_timeout);
        if self.check_room().is_ok() {
            let op = self.begin(now, Task::Introduction { port }, timeout);
            let question = Question::GetPeers(topic);
            self.ask(Request::to_endpoint(now, to, question, Purpose::Op(op)), out);
        }
    }

    /// Ends an operation without an outcome.
    pub fn cancel(&mut self, op: OpId) {
        self.remove(op);
    }
}

/// From the command to the outcome.
impl Engine {
    /// Whether there is room for one more of what callers start. What the node does by itself, to
    /// stay joined, is bounded in its own way and needs none; memberships have their own cap.
    pub(super) fn check_room(&mut self) -> Result<(), Busy> {
        if self.operations.len() - self.memberships.len() >= self.config.operations {
            self.refuse(Refusal::Busy);
            return Err(Busy::OPERATIONS);
        }
        Ok(())
    }

    pub(super) fn begin(&mut self, now: Time, task: Task, timeout: Option<Duration>) -> OpId {
        self.next_op += 1;
        let op = self.next_op;
        self.operations.insert(op, Operation { deadline: None, task });
        self.set_deadline(op, timeout.map(|timeout| now + timeout));
        op
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
            Some(&Task::Introduction { port }) => {
                self.remove(op);
                if let Question::GetPeers(topic) = request.question {
                    let announcement = Announcement { topic, port, token: token_of(reply) };
                    self.fire(now, request.to, Question::Announce(announcement), out);
                }
            }
            Some(Task::Lookup(_) | Task::Membership(_)) => {
                self.lookup_answered(now, op, request, contact, reply, out);
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
        match self.operations.get(&op).map(|operation| &operation.task) {
            None => {}
            Some(&Task::Ping { attempts, .. }) if attempts >= PING_ATTEMPTS => {}
            Some(Task::Ping { .. }) => {
                // Counted first: at the cap it may itself be given up for its repetition.
                if let Some(Task::Ping { attempts, .. }) = self.task(op) {
                    *attempts += 1;
                }
                self.ask(request.repeated(now), out);
            }
            Some(Task::Introduction { .. }) if request.is_retry => {}
            Some(Task::Introduction { .. }) => {
                self.ask(request.repeated(now), out);
            }
            Some(Task::Lookup(_) | Task::Membership(_)) => {
                self.lookup_late(now, op, request, out);
            }
        }
    }

    /// What an operation does when an answer is no longer accepted: only a ping minds, which is over
    /// when that holds for each of its questions.
    pub(super) fn operation_expired(&mut self, now: Time, op: OpId) {
        if let Some(Task::Ping { attempts, expired }) = self.task(op) {
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

    /// Ends an operation, or the round of a membership, with what it has.
    pub(super) fn finish_operation(&mut self, now: Time, op: OpId) {
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
            Task::Lookup(task) => match task.outcome(contacts) {
                Some(outcome) => outcome,
                None => {
                    self.remove(op);
                    return;
                }
            },
            Task::Membership(_) => return self.end_round(now, op),
        };
        self.end(now, op, outcome);
    }

    fn task(&mut self, op: OpId) -> Option<&mut Task> {
        self.operations.get_mut(&op).map(|operation| &mut operation.task)
    }

    pub(super) fn end(&mut self, now: Time, op: OpId, outcome: Outcome) {
        self.remove(op);
        match outcome {
            Outcome::Joined { seeds, .. } if self.home.join == Some(op) => {
                self.came_home(now, &seeds);
            }
            outcome => self.events.push_back(Event::Done { op, outcome }),
        }
    }

    pub(super) fn remove(&mut self, op: OpId) {
        self.set_deadline(op, None);
        if let Some(Task::Membership(task)) = self.operations.remove(&op).map(|it| it.task) {
            self.memberships.remove(op, &task);
        }
        self.home.held.retain(|held| *held != op);
    }

    pub(super) fn set_deadline(&mut self, op: OpId, deadline: Option<Time>) {
        let Some(operation) = self.operations.get_mut(&op) else {
            return;
        };
        if let Some(former) = std::mem::replace(&mut operation.deadline, deadline) {
            self.deadlines.remove(&(former, op));
        }
        self.deadlines.extend(deadline.map(|at| (at, op)));
    }
}

/// The token that a reply hands out.
pub(super) fn token_of(reply: &Message<'_>) -> Option<Token> {
    reply.trailer?.token?.try_into().ok()
}

impl Operation {
    pub(super) fn is_lookup(&self) -> bool {
        self.lookup().is_some()
    }

    /// Its lookup, or the round of a membership.
    fn lookup(&self) -> Option<&LookupTask> {
        match &self.task {
            Task::Lookup(task) => Some(task),
            Task::Membership(task) => task.round(),
            _ => None,
        }
    }

    pub(super) fn check_invariants(&self) {
        if let Some(task) = self.lookup() {
            task.check_invariants();
        }
    }
}
