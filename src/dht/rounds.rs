//! When the rounds of a node's memberships start: one after the other, at a pace that no other node
//! feels. How a round goes is the affair of the membership.

use std::collections::BTreeSet;
use std::time::Duration;

use super::requests::OpId;
use super::tasks::MembershipTask;
use crate::id::NodeId;
use crate::time::Time;

/// Between the starts of two rounds. In a network so small that every round asks and announces to
/// each node, no node gets more than 20 requests a second, 40 where all are repeated: below the 50 up
/// to which a stranger is served.
const PACE: Duration = Duration::from_millis(100);

/// Rounds under way at once: where nobody answers, a round takes long.
const ROUNDS_MAX: usize = 16;

/// What the memberships of one node share.
#[derive(Default)]
pub struct Rounds {
    /// When the next round of each membership is due that has none under way.
    due: BTreeSet<(Time, OpId)>,
    /// Each membership by its topic.
    topics: BTreeSet<(NodeId, OpId)>,
    /// Rounds under way, at most [`ROUNDS_MAX`].
    running: usize,
    /// When a round may start again.
    next_start: Time,
    /// The peers that all memberships know, together; no more than `Config.records`.
    pub peers: usize,
}

impl Rounds {
    pub fn add(&mut self, op: OpId, task: &MembershipTask) {
        self.topics.insert((task.topic, op));
        self.due.insert((task.due, op));
    }

    pub fn remove(&mut self, op: OpId, task: &MembershipTask) {
        self.topics.remove(&(task.topic, op));
        self.peers -= task.peers.len();
        match task.round {
            Some(_) => self.running -= 1,
            None => {
                self.due.remove(&(task.due, op));
            }
        }
    }

    /// When a round starts next.
    pub fn next(&self) -> Option<Time> {
        let &(at, _) = self.due.first()?;
        (self.running < ROUNDS_MAX).then(|| at.max(self.next_start))
    }

    /// The membership whose round starts now.
    pub fn start(&mut self, now: Time) -> Option<OpId> {
        let (_, op) = self.due.pop_first()?;
        self.next_start = now + PACE;
        self.running += 1;
        Some(op)
    }

    pub fn ended(&mut self, op: OpId, task: &MembershipTask) {
        self.running -= 1;
        self.due.insert((task.due, op));
    }

    /// Makes the round of a membership that pauses due at `due`.
    pub fn put_off(&mut self, op: OpId, task: &mut MembershipTask, due: Time) {
        self.due.remove(&(task.due, op));
        task.due = due;
        self.due.insert((due, op));
    }

    pub fn of(&self, topic: NodeId) -> Vec<OpId> {
        let joined = self.topics.range((topic, OpId::MIN)..=(topic, OpId::MAX));
        joined.map(|&(_, op)| op).collect()
    }

    pub fn len(&self) -> usize {
        self.topics.len()
    }

    /// Panics where it disagrees with the memberships or a cap is passed.
    pub fn check_invariants<'a>(
        &self,
        memberships: impl Iterator<Item = (OpId, &'a MembershipTask)>,
    ) {
        let (mut pausing, mut running, mut peers) = (0, 0, 0);
        for (op, task) in memberships {
            peers += task.peers.len();
            assert!(self.topics.contains(&(task.topic, op)));
            match task.round {
                Some(_) => running += 1,
                None => {
                    pausing += 1;
                    assert!(self.due.contains(&(task.due, op)));
                }
            }
        }
        assert_eq!((pausing, running, peers), (self.due.len(), self.running, self.peers));
        assert_eq!(pausing + running, self.topics.len());
        assert!(running <= ROUNDS_MAX, "more rounds than allowed");
    }
}
