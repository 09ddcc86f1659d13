//! The operations of one node: each task under way with its number and its deadline. What a task does
//! is its own affair; who starts one and who is told of its end is the engine's.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use super::requests::OpId;
use super::tasks::{MembershipTask, Task};
use crate::config::Config;
use crate::time::Time;

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

/// The tasks under way.
#[derive(Default)]
pub struct Operations {
    under_way: BTreeMap<OpId, Operation>,
    last: OpId,
    /// One entry for each of `under_way` that has a deadline.
    deadlines: BTreeSet<(Time, OpId)>,
}

struct Operation {
    deadline: Option<Time>,
    task: Task,
}

impl Operations {
    pub fn begin(&mut self, task: Task, deadline: Option<Time>) -> OpId {
        self.last += 1;
        self.under_way.insert(self.last, Operation { deadline: None, task });
        self.set_deadline(self.last, deadline);
        self.last
    }

    pub fn remove(&mut self, op: OpId) -> Option<Task> {
        self.set_deadline(op, None);
        self.under_way.remove(&op).map(|operation| operation.task)
    }

    /// When a task is to end with what it has.
    pub fn set_deadline(&mut self, op: OpId, deadline: Option<Time>) {
        let Some(operation) = self.under_way.get_mut(&op) else {
            return;
        };
        if let Some(former) = std::mem::replace(&mut operation.deadline, deadline) {
            self.deadlines.remove(&(former, op));
        }
        self.deadlines.extend(deadline.map(|at| (at, op)));
    }

    /// The operation whose deadline comes first, and when that is.
    pub fn first_deadline(&self) -> Option<(Time, OpId)> {
        self.deadlines.first().copied()
    }

    pub fn get(&self, op: OpId) -> Option<&Task> {
        self.under_way.get(&op).map(|operation| &operation.task)
    }

    pub fn get_mut(&mut self, op: OpId) -> Option<&mut Task> {
        self.under_way.get_mut(&op).map(|operation| &mut operation.task)
    }

    pub fn membership(&self, op: OpId) -> Option<&MembershipTask> {
        match self.get(op)? {
            Task::Membership(task) => Some(task),
            _ => None,
        }
    }

    pub fn membership_mut(&mut self, op: OpId) -> Option<&mut MembershipTask> {
        match self.get_mut(op)? {
            Task::Membership(task) => Some(task),
            _ => None,
        }
    }

    pub fn memberships(&mut self) -> impl Iterator<Item = (OpId, &mut MembershipTask)> {
        self.under_way.iter_mut().filter_map(|(op, operation)| match &mut operation.task {
            Task::Membership(task) => Some((*op, &mut **task)),
            _ => None,
        })
    }

    pub fn iter(&self) -> impl Iterator<Item = (OpId, &Task)> {
        self.under_way.iter().map(|(op, operation)| (*op, &operation.task))
    }

    pub fn len(&self) -> usize {
        self.under_way.len()
    }

    /// Panics where a task's invariants are broken or the deadlines disagree with the tasks.
    pub fn check_invariants(&self, config: &Config) {
        let mut deadlines = 0;
        for (op, Operation { deadline, task }) in &self.under_way {
            task.check_invariants(config);
            assert!(deadline.is_none_or(|at| self.deadlines.contains(&(at, *op))));
            deadlines += usize::from(deadline.is_some());
        }
        assert_eq!(deadlines, self.deadlines.len());
    }
}
