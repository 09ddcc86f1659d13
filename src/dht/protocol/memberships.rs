//! Memberships: topics that a caller has joined, announced and looked up in rounds for as long as it
//! wants, and the peers that come to light. How a round goes is the affair of `lookups`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand_core::Rng;

use super::lookups::LookupTask;
use super::operations::{Busy, Operation, Task};
use super::{Engine, Event, Outbox, Refusal};
use crate::config::Config;
use crate::dht::members::Members;
use crate::dht::requests::OpId;
use crate::id::NodeId;
use crate::time::Time;
use crate::wire::message::Endpoint;

/// How a membership stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The topic.
    pub topic: NodeId,
    /// The port announced; without one, the port that this node's packets come from.
    pub port: Option<u16>,
    /// How many nodes confirmed the announce of the last round; `None` before the end of the first.
    pub confirmed: Option<usize>,
    /// How many peers are known now.
    pub peers: usize,
}

/// What the memberships of one node share.
#[derive(Default)]
pub(super) struct Memberships {
    /// When the next round of each one is due that has none under way.
    due: BTreeSet<(Time, OpId)>,
    /// Each one by its topic.
    topics: BTreeSet<(NodeId, OpId)>,
    /// Rounds under way, at most [`ROUNDS_MAX`].
    rounds: usize,
    /// When a round may start again.
    next_start: Time,
    /// The peers that all of them know, together; no more than `Config.records`.
    peers: usize,
}

/// A topic that a caller has joined.
pub(super) struct MembershipTask {
    topic: NodeId,
    port: Option<u16>,
    /// The round under way: the lookup of an announce, whose answers name peers. Its end is the
    /// operation's deadline.
    round: Option<Box<LookupTask>>,
    /// Where it stands in [`Memberships::due`] while there is no round.
    due: Time,
    /// The last pause between two rounds, before it was jittered.
    wait: Duration,
    confirmed: Option<usize>,
    /// Whether the last round has left the announce anywhere; `None` before its end.
    was_stored: Option<bool>,
    /// At most `Config.lookup_peers`.
    peers: Members,
    /// Whether an [`Event::Members`] waits to be taken.
    is_told: bool,
    /// Where the last node that said so sees this one.
    seen_at: Option<Endpoint>,
}

/// The pause after the first round that a node confirmed. It doubles up to a third of a record's
/// life, so that one round may fail and the next still comes before the record expires.
const INTERVAL_MIN: Duration = Duration::from_secs(60);
const ROUNDS_PER_LIFE: u32 = 3;

/// The pause after a round that no node confirmed, which doubles with each such round.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// The part of a pause by which it may be longer or shorter, so that rounds drift apart.
const JITTER: f64 = 0.2;

/// Between the starts of two rounds. In a network so small that every round asks and announces to
/// each node, no node gets more than 20 requests a second, 40 where all are repeated: below the 50 up
/// to which a stranger is served.
const PACE: Duration = Duration::from_millis(100);

/// Rounds under way at once: where nobody answers, a round takes long.
const ROUNDS_MAX: usize = 16;

/// The longest that a round may take.
const ROUND_TIMEOUT: Duration = Duration::from_secs(30);

/// Commands.
impl Engine {
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
        let task = MembershipTask {
            topic,
            port,
            round: None,
            due: now,
            wait: Duration::ZERO,
            confirmed: None,
            was_stored: None,
            peers: Members::default(),
            is_told: false,
            seen_at: None,
        };
        if self.memberships.len() >= self.config.memberships {
            self.refuse(Refusal::Busy);
            return Err(Busy::MEMBERSHIPS);
        }
        let op = self.begin(now, Task::Membership(Box::new(task)), None);
        self.memberships.due.insert((now, op));
        self.memberships.topics.insert((topic, op));
        Ok(op)
    }

    /// The peers of a membership that came after the one with this number, each with its own, in the
    /// order in which they came; all that are known after number 0.
    ///
    /// A peer that was not seen for `Config.record_life` is forgotten, and new when it comes again.
    pub fn members(&self, op: OpId, after: u64) -> Vec<(u64, Endpoint)> {
        match self.operations.get(&op).map(|operation| &operation.task) {
            Some(Task::Membership(task)) => task.peers.after(after),
            _ => Vec::new(),
        }
    }

    /// How a membership stands; `None` where there is no such one any more.
    pub fn membership(&self, op: OpId) -> Option<Membership> {
        match &self.operations.get(&op)?.task {
            Task::Membership(task) => Some(Membership {
                topic: task.topic,
                port: task.port,
                confirmed: task.confirmed,
                peers: task.peers.len(),
            }),
            _ => None,
        }
    }
}

/// Rounds.
impl Engine {
    /// Starts the rounds that are due, as far as the pace allows.
    pub(super) fn start_rounds(&mut self, now: Time, out: &mut Outbox) {
        while self.next_round().is_some_and(|at| at <= now) {
            let Some((_, op)) = self.memberships.due.pop_first() else {
                return;
            };
            self.memberships.next_start = now + PACE;
            self.start_round(now, op, out);
        }
    }

    /// When a round starts next; none does while the node knows nobody and is joining.
    pub(super) fn next_round(&self) -> Option<Time> {
        let &(at, _) = self.memberships.due.first()?;
        let may_start = self.memberships.rounds < ROUNDS_MAX && !self.is_joining();
        may_start.then(|| at.max(self.memberships.next_start))
    }

    fn start_round(&mut self, now: Time, op: OpId, out: &mut Outbox) {
        let config = Arc::clone(&self.config);
        let Some(task) = self.membership_task(op) else {
            return;
        };
        let topic = task.topic;
        let before = task.peers.len();
        task.peers.forget_old(now, config.record_life);
        let forgotten = before - task.peers.len();
        task.round = Some(Box::new(LookupTask::announce(topic, task.port, &config)));
        self.memberships.peers -= forgotten;
        self.memberships.rounds += 1;
        self.counters.lookups += 1;
        self.set_deadline(op, Some(now + ROUND_TIMEOUT));
        let stored: Vec<Endpoint> = self.storage.peers(now, &topic).collect();
        self.meet(now, op, stored);
        self.launch(now, op, out);
    }

    /// Ends a round, if there is one, with what it has, and decides on the next.
    pub(super) fn end_round(&mut self, now: Time, op: OpId) {
        let jitter = self.jitter();
        let longest = self.config.record_life / ROUNDS_PER_LIFE;
        let Some(task) = self.membership_task(op) else {
            return;
        };
        let Some(round) = task.round.take() else {
            return;
        };
        let is_stored = round.is_stored();
        let (first, last) =
            if is_stored { (INTERVAL_MIN, longest) } else { (BACKOFF_MIN, BACKOFF_MAX) };
        let last = last.min(longest);
        let is_alike = task.was_stored == Some(is_stored);
        let wait = if is_alike { task.wait * 2 } else { Duration::ZERO };
        task.wait = wait.clamp(first.min(last), last);
        task.confirmed = Some(round.confirmed());
        task.was_stored = Some(is_stored);
        task.due = now + task.wait.mul_f64(jitter);
        let due = task.due;
        self.memberships.rounds -= 1;
        self.memberships.due.insert((due, op));
        self.set_deadline(op, None);
    }

    /// Makes all memberships due: there is a node that may not store their announces yet.
    pub(super) fn hurry_memberships(&mut self, now: Time) {
        let Self { operations, memberships, .. } = self;
        for (op, task) in pausing(operations).filter(|(_, task)| task.due > now) {
            memberships.put_off(op, task, now);
        }
    }

    /// Makes all memberships due, those too whose round is under way and waits for old answers.
    pub(super) fn renew_memberships(&mut self, now: Time) {
        let all: Vec<OpId> = self.operations.keys().copied().collect();
        for op in all {
            self.end_round(now, op);
        }
        self.hurry_memberships(now);
    }

    /// Has every membership begin anew, in a network that knows nothing of what was before.
    pub(super) fn restart_memberships(&mut self, now: Time) {
        self.renew_memberships(now);
        for (_, task) in pausing(&mut self.operations) {
            task.confirmed = None;
            task.was_stored = None;
            task.peers.clear();
        }
        self.memberships.peers = 0;
    }

    fn peers_of(&mut self, op: OpId) -> usize {
        self.membership_task(op).map_or(0, |task| task.peers.len())
    }

    fn jitter(&mut self) -> f64 {
        let share = f64::from(self.rng.next_u32()) / f64::from(u32::MAX);
        1.0 - JITTER + 2.0 * JITTER * share
    }

    fn membership_task(&mut self, op: OpId) -> Option<&mut MembershipTask> {
        match &mut self.operations.get_mut(&op)?.task {
            Task::Membership(task) => Some(task),
            _ => None,
        }
    }
}

/// Peers.
impl Engine {
    /// Takes in the peers that a node named, where the operation is a membership; `seen_at` is where
    /// that node sees this one, if it says so.
    ///
    /// What stands there with the own port is this node's own record, and no peer. Only for an
    /// answer of v0.1, which does not say so, another's word is taken. So a liar hides nothing but
    /// what it could have left out.
    pub(super) fn take_members(
        &mut self,
        now: Time,
        op: OpId,
        seen_at: Option<Endpoint>,
        mut peers: Vec<Endpoint>,
    ) {
        let Some(task) = self.membership_task(op) else {
            return;
        };
        task.seen_at = seen_at.or(task.seen_at);
        if let Some(seen_at) = task.seen_at {
            let own = seen_at.with_port(task.port.unwrap_or(seen_at.port()));
            peers.retain(|peer| *peer != own);
        }
        self.meet(now, op, peers);
    }

    /// Takes in a peer that was announced to this node itself: in a network so small that every node
    /// stores every topic, its members meet without waiting for a round.
    pub(super) fn take_announced(&mut self, now: Time, topic: NodeId, peer: Endpoint) {
        let joined = self.memberships.topics.range((topic, OpId::MIN)..=(topic, OpId::MAX));
        let ops: Vec<OpId> = joined.map(|&(_, op)| op).collect();
        for op in ops {
            self.meet(now, op, vec![peer]);
        }
    }

    /// Takes note of peers, but for the own port at an address that can only be this node's own;
    /// tells of new ones.
    fn meet(&mut self, now: Time, op: OpId, mut peers: Vec<Endpoint>) {
        let bound_port = self.bound.port();
        let Some(port) = self.membership_task(op).map(|task| task.port.unwrap_or(bound_port))
        else {
            return;
        };
        peers.retain(|peer| peer.port() != port || !self.is_own(&peer.with_port(bound_port)));
        let (peers_max, peers_max_in_all) = (self.config.lookup_peers, self.config.records);
        let others = self.memberships.peers - self.peers_of(op);
        let Some(task) = self.membership_task(op) else {
            return;
        };
        let max = peers_max.min(peers_max_in_all.saturating_sub(others));
        let before = task.peers.arrivals();
        peers.into_iter().for_each(|peer| task.peers.meet(now, peer, max));
        let known = task.peers.len();
        if task.peers.arrivals() > before && !std::mem::replace(&mut task.is_told, true) {
            self.events.push_back(Event::Members { op });
        }
        self.memberships.peers = others + known;
    }

    /// Notes that the owner takes an event: what it says of new members is told.
    pub(super) fn told(&mut self, event: &Event) {
        if let &Event::Members { op } = event {
            if let Some(task) = self.membership_task(op) {
                task.is_told = false;
            }
        }
    }

    /// Panics where an index disagrees with the memberships or a cap is passed.
    pub(super) fn check_memberships(&self) {
        let Memberships { due, topics, rounds, .. } = &self.memberships;
        let (mut pausing, mut running, mut peers) = (0, 0, 0);
        for (op, operation) in &self.operations {
            let Task::Membership(task) = &operation.task else {
                continue;
            };
            task.check_invariants(&self.config);
            peers += task.peers.len();
            assert!(topics.contains(&(task.topic, *op)));
            assert_eq!(task.round.is_some(), operation.deadline.is_some());
            match task.round {
                Some(_) => running += 1,
                None => {
                    pausing += 1;
                    assert!(due.contains(&(task.due, *op)));
                }
            }
        }
        assert_eq!((pausing, running), (due.len(), *rounds));
        assert_eq!(pausing + running, topics.len());
        assert!(running <= ROUNDS_MAX, "more rounds than allowed");
        assert_eq!(peers, self.memberships.peers);
        assert!(peers <= self.config.records, "more peers than allowed in all");
    }
}

/// The memberships that have no round under way.
fn pausing(
    operations: &mut BTreeMap<OpId, Operation>,
) -> impl Iterator<Item = (OpId, &mut MembershipTask)> {
    operations.iter_mut().filter_map(|(op, operation)| match &mut operation.task {
        Task::Membership(task) if task.round.is_none() => Some((*op, &mut **task)),
        _ => None,
    })
}

impl Memberships {
    /// Forgets one that has ended.
    pub(super) fn remove(&mut self, op: OpId, task: &MembershipTask) {
        self.topics.remove(&(task.topic, op));
        self.peers -= task.peers.len();
        match task.round {
            Some(_) => self.rounds -= 1,
            None => {
                self.due.remove(&(task.due, op));
            }
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.topics.len()
    }

    fn put_off(&mut self, op: OpId, task: &mut MembershipTask, due: Time) {
        self.due.remove(&(task.due, op));
        task.due = due;
        self.due.insert((due, op));
    }
}

impl MembershipTask {
    /// The round under way.
    pub(super) fn round(&self) -> Option<&LookupTask> {
        self.round.as_deref()
    }

    /// The round under way.
    pub(super) fn round_mut(&mut self) -> Option<&mut LookupTask> {
        self.round.as_deref_mut()
    }

    fn check_invariants(&self, config: &Config) {
        assert!(self.peers.len() <= config.lookup_peers, "more peers than allowed");
        self.peers.check_invariants();
    }
}
