//! The one loop that drives whatever is under way: here questions of tasks go out, here answers and
//! silences come back, and here tasks end. What a task asks is decided in `dht::tasks`.

use std::time::Duration;

use super::engine::Engine;
use super::output::{Event, Outbox};
use crate::dht::requests::{OpId, Purpose, Question, Request};
use crate::dht::routing::MAX_CLOSEST;
use crate::dht::tables::Closest;
use crate::dht::tasks::step::{Answer, Obstacle, Outcome, Step, Verdict};
use crate::dht::tasks::{Task, Walk};
use crate::id::NodeId;
use crate::time::Time;
use crate::wire::message::{Body, Contact, Endpoint, Message};

impl Engine {
    /// Takes a task in, and sends what it wants sent.
    pub(super) fn start(
        &mut self,
        now: Time,
        task: Task,
        timeout: Option<Duration>,
        out: &mut Outbox,
    ) -> OpId {
        let op = self.begin(now, task, timeout);
        // With a timeout of zero it is over before any answer can come.
        self.end_overdue(now);
        self.run(now, out);
        op
    }

    /// Takes a task in; [`Engine::run`] is to follow.
    pub(super) fn begin(&mut self, now: Time, task: Task, timeout: Option<Duration>) -> OpId {
        self.counters.lookups += task.walks().len() as u64;
        let op = self.operations.begin(now, task, timeout.map(|timeout| now + timeout));
        self.stir(op);
        op
    }

    /// Notes that an operation may want something.
    pub(super) fn stir(&mut self, op: OpId) {
        self.stirred.extend(self.operations.turn(op));
    }

    /// Does what the stirred operations want, in turn, until none wants anything more or there is no
    /// room for one more question. Then they wait: each answer makes room, and each that is late.
    pub(super) fn run(&mut self, now: Time, out: &mut Outbox) {
        while self.has_room() {
            let Some(&turn) = self.stirred.first() else {
                return;
            };
            if !self.step(now, turn.1, out) {
                self.stirred.remove(&turn);
            }
        }
    }

    /// Whether one more question of an operation may go out.
    pub(super) fn has_room(&self) -> bool {
        self.pace.has_room(&self.requests)
    }

    /// Sends what waits for room at a node of which a question is no longer under way.
    pub(super) fn freed(&mut self, now: Time, to: &Endpoint, out: &mut Outbox) {
        while let Some(request) = self.pace.next(to, &self.requests) {
            let is_over =
                matches!(request.purpose, Purpose::Op(op) if self.operations.get(op).is_none());
            if !is_over {
                self.put(Request { sent: now, ..request }, out);
            }
        }
    }

    /// Sends a question of an operation, and tells its task where that fails.
    fn put(&mut self, request: Request, out: &mut Outbox) {
        let is_sent = self.can_ask(&request) && self.ask(request, out);
        if let (false, Purpose::Op(op)) = (is_sent, request.purpose) {
            self.operations.get_mut(op).into_iter().for_each(|task| task.failed(&request));
            self.stir(op);
        }
    }

    /// Sends a question of an operation as soon as there is room at the node that it goes to.
    fn put_in_turn(&mut self, request: Request, out: &mut Outbox) {
        if self.pace.has_room_at(&request.to, &self.requests) {
            self.put(request, out);
        } else {
            self.pace.hold(request);
        }
    }

    /// Does the next thing that an operation wants; returns whether it may want more.
    fn step(&mut self, now: Time, op: OpId, out: &mut Outbox) -> bool {
        let Some(step) = self.operations.get_mut(op).map(|task| task.step(now)) else {
            return false;
        };
        match step {
            Step::Wait => return false,
            Step::Over => {
                self.finish(now, op);
                return false;
            }
            Step::Ask(question) => {
                let request = Request { purpose: Purpose::Op(op), ..question };
                if self.is_own(&request.to) && !is_callers(&request) {
                    self.met(&request, Obstacle::Itself);
                    return true;
                }
                self.put_in_turn(request, out);
            }
            Step::Tell(announce) => self.put_in_turn(announce, out),
            Step::Nearest(_) if self.is_joining() => {
                self.home.held.push(op);
                return false;
            }
            Step::Nearest(target) => {
                let nearest = self.nearest(now, &target);
                let walk = self.operations.get_mut(op).and_then(|task| task.walk(target));
                walk.into_iter().for_each(|walk| walk.begin(&nearest));
            }
            Step::Survey => {
                if let Some(Task::Join(join)) = self.operations.get_mut(op) {
                    join.survey(self.table.thin_ranges());
                }
            }
            Step::Refresh(bits) => {
                let random = self.random_id();
                let target = self.table.id_in_range(bits, &random);
                let mut walk = Walk::to_nodes(target, &self.config);
                walk.begin(&self.nearest(now, &target));
                self.counters.lookups += 1;
                if let Some(Task::Join(join)) = self.operations.get_mut(op) {
                    join.refresh(walk);
                }
            }
        }
        true
    }

    /// Takes in the answer to a request, if the operation that asked is still under way.
    pub(super) fn answered(
        &mut self,
        now: Time,
        request: &Request,
        reply: &Message<'_>,
        round_trip: Duration,
    ) {
        let Purpose::Op(op) = request.purpose else {
            return;
        };
        let contact = Contact { id: reply.sender, endpoint: request.to };
        let nodes: Closest = self.believable(&contact, reply).collect();
        let believes = |peer: &Endpoint| self.guard.believes(peer, &contact.endpoint, true);
        let peers: Vec<Endpoint> = reply.peers.iter().copied().filter(believes).collect();
        let answer = Answer {
            question: request.question,
            contact,
            round_trip,
            verdict: match reply.body {
                Body::Error { .. } => Verdict::Refused,
                Body::Announced { .. } => Verdict::Stored,
                _ => Verdict::Served,
            },
            token: reply.trailer.and_then(|trailer| trailer.token?.try_into().ok()),
            takes_unproved: self.trusts_legacy(&contact.endpoint),
            nodes: &nodes,
            peers: &peers,
            total: reply.trailer.and_then(|trailer| trailer.total).map(|total| total as usize),
            seen_at: reply.trailer.and_then(|trailer| trailer.endpoint),
        };
        let Some(task) = self.operations.get_mut(op) else {
            return;
        };
        let news = task.answered(&answer);
        if matches!(task, Task::Membership(_)) {
            self.meet(now, op, news);
        } else if !news.is_empty() {
            self.events.push_back(Event::Peers { op, peers: news });
        }
        self.stir(op);
    }

    /// Takes note that the short wait for an answer is over.
    pub(super) fn late(&mut self, now: Time, request: &Request, out: &mut Outbox) {
        match request.purpose {
            Purpose::Op(op) => {
                self.operations.get_mut(op).into_iter().for_each(|task| task.late(request));
                self.stir(op);
            }
            Purpose::Check if !request.is_retry => {
                self.ask(request.repeated(now), out);
                // If it is there, its answer shows that silence is not the network's.
                self.ask_claimant(now, request, out);
            }
            _ => {}
        }
        self.freed(now, &request.to, out);
    }

    /// Takes note of what stands in the way of the answer to a request.
    pub(super) fn met(&mut self, request: &Request, obstacle: Obstacle) {
        if let Purpose::Op(op) = request.purpose {
            self.operations.get_mut(op).into_iter().for_each(|task| task.met(request, obstacle));
            self.stir(op);
        }
    }

    /// Ends the operations whose deadline is over, with what they have.
    pub(super) fn end_overdue(&mut self, now: Time) {
        while let Some((_, op)) = self.operations.first_deadline().filter(|&(at, _)| at <= now) {
            self.finish(now, op);
        }
    }

    /// Ends an operation, or the round of a membership, with what it has.
    pub(super) fn finish(&mut self, now: Time, op: OpId) {
        if let Some(topic) = self.operations.get(op).and_then(Task::full_topic) {
            self.events.push_back(Event::Full { topic, max: self.config.lookup_peers });
        }
        if self.operations.membership(op).is_some() {
            return self.end_round(now, op);
        }
        let Some(task) = self.remove(op) else {
            return;
        };
        match task.outcome(self.table.len()) {
            Some(Outcome::Joined { seeds, .. }) if self.home.join == Some(op) => {
                self.came_home(now, &seeds);
            }
            Some(Outcome::Joined { seeds, .. }) if self.home.check == Some(op) => {
                self.seeds_checked(now, &seeds);
            }
            Some(_) if self.met_neighbors(op) => {}
            Some(_) if self.refreshing == Some(op) => self.refreshing = None,
            Some(outcome) => self.events.push_back(Event::Done { op, outcome }),
            None => {}
        }
    }

    /// Takes an operation out, and tells nobody.
    pub(super) fn remove(&mut self, op: OpId) -> Option<Task> {
        self.operations.turn(op).map(|turn| self.stirred.remove(&turn));
        let task = self.operations.remove(op)?;
        self.requests.end(op);
        if let Task::Membership(task) = &task {
            self.rounds.remove(op, task);
        }
        self.home.held.retain(|held| *held != op);
        Some(task)
    }

    /// Whether this node can send where a request goes; a caller's ping goes where the caller says.
    fn can_ask(&self, request: &Request) -> bool {
        is_callers(request) || self.reaches(&request.to)
    }

    /// The nodes that `reply` lists and that are worth asking: of each family the first, each id and
    /// each address once.
    fn believable<'a>(
        &self,
        from: &Contact,
        reply: &Message<'a>,
    ) -> impl Iterator<Item = Contact> + use<'a, '_> {
        let from = from.endpoint;
        let has_trailer = reply.trailer.is_some();
        let is_first = |(at, node): &(usize, &Contact)| {
            let is_alike = |other: &&Contact| other.endpoint.is_ipv4() == node.endpoint.is_ipv4();
            let mut earlier = reply.nodes[..*at].iter().filter(is_alike);
            earlier.clone().count() < MAX_CLOSEST
                && earlier.all(|other| other.id != node.id && other.endpoint != node.endpoint)
        };
        let listed = reply.nodes.iter().enumerate().filter(is_first);
        listed.map(|(_, node)| *node).filter(move |node| {
            ![NodeId::ZERO, NodeId::MAX, self.id].contains(&node.id)
                && !self.is_own(&node.endpoint)
                && self.reaches(&node.endpoint)
                && self.guard.believes(&node.endpoint, &from, has_trailer)
        })
    }
}

/// Whether it is a ping that a caller wants.
fn is_callers(request: &Request) -> bool {
    request.id.is_none() && request.question == Question::Ping
}
