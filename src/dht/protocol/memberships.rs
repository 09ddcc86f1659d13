//! The memberships of a node together: which round begins and ends when, and which peers are met.
//! How one membership goes is the affair of `dht::tasks`.

use std::time::Duration;

use rand_core::Rng;

use super::engine::Engine;
use super::output::{Event, Outbox};
use crate::dht::requests::OpId;
use crate::id::NodeId;
use crate::time::Time;
use crate::wire::message::Endpoint;

/// The part of a pause by which it may be longer or shorter, so that rounds drift apart.
const JITTER: f64 = 0.2;

/// The least time between two rounds, for each contact: where many begin anew together, one round tells
/// several of them.
const GAP_PER_CONTACT: Duration = Duration::from_millis(50);

/// The longest that a round may take.
const ROUND_TIMEOUT: Duration = Duration::from_secs(30);

impl Engine {
    /// Starts the rounds that are due, as far as the pace allows.
    pub(super) fn start_rounds(&mut self, now: Time, out: &mut Outbox) {
        while self.next_round().is_some_and(|at| at <= now) {
            let Some(op) = self.rounds.start(now) else {
                return;
            };
            self.begin_round(now, op);
            self.run(now, out);
        }
    }

    /// When a round starts next; none does while the node knows nobody and is joining.
    pub(super) fn next_round(&self) -> Option<Time> {
        self.rounds.next().filter(|_| !self.is_joining())
    }

    fn begin_round(&mut self, now: Time, op: OpId) {
        let everybody = self.is_small().then_some(self.small_max());
        let Some(task) = self.operations.membership_mut(op) else {
            return;
        };
        let before = task.peers.len();
        let stored: Vec<Endpoint> = self.storage.peers(now, &task.topic).copied().collect();
        task.begin_round(now, everybody, &stored, &self.config);
        self.rounds.peers -= before - task.peers.len();
        self.counters.lookups += 1;
        self.operations.set_deadline(op, Some(now + ROUND_TIMEOUT));
        self.stir(op);
        self.meet(now, op, stored);
    }

    /// Ends a round, if there is one, with what it has.
    pub(super) fn end_round(&mut self, now: Time, op: OpId) {
        let Some(task) = self.operations.membership_mut(op).filter(|task| task.round.is_some())
        else {
            return;
        };
        let share = f64::from(self.rng.next_u32()) / f64::from(u32::MAX);
        let jitter = 1.0 - JITTER + 2.0 * JITTER * share;
        let gap = GAP_PER_CONTACT * u32::try_from(self.table.most()).unwrap_or(u32::MAX);
        task.end_round(now, jitter, gap, &self.config);
        self.rounds.ended(op, task);
        self.requests.end(op);
        self.operations.set_deadline(op, None);
    }

    /// Has those memberships announce again that belong at a node that is new or has begun anew.
    pub(super) fn hurry_memberships(&mut self, now: Time, id: &NodeId) {
        let gap = GAP_PER_CONTACT * u32::try_from(self.table.most()).unwrap_or(u32::MAX);
        let is_small = self.is_small();
        for (op, task) in self.operations.memberships() {
            if let Some(due) = task.missed_by(now, id, is_small, gap) {
                self.rounds.put_off(op, task, due);
            }
        }
    }

    /// Makes all memberships due that pause.
    pub(super) fn hurry_all(&mut self, now: Time) {
        for (op, task) in self.operations.memberships() {
            if task.round.is_none() && task.due > now {
                self.rounds.put_off(op, task, now);
            }
        }
    }

    /// Makes all memberships due, those too whose round is under way and waits for old answers.
    pub(super) fn renew_memberships(&mut self, now: Time) {
        let all: Vec<OpId> = self.operations.iter().map(|(op, _)| op).collect();
        for op in all {
            self.end_round(now, op);
        }
        self.hurry_all(now);
    }

    /// Has every membership begin anew, in a network that knows nothing of what was before.
    pub(super) fn restart_memberships(&mut self, now: Time) {
        self.renew_memberships(now);
        self.operations.memberships().for_each(|(_, task)| task.restart());
        self.rounds.peers = 0;
    }

    /// Takes in a peer that was announced to this node itself: in a network so small that every node
    /// stores every topic, its members meet without waiting for a round.
    pub(super) fn take_announced(&mut self, now: Time, topic: NodeId, peer: Endpoint) {
        for op in self.rounds.of(topic) {
            self.meet(now, op, vec![peer]);
        }
    }

    /// Takes note of peers, but for the own port at an address that can only be this node's own, or at
    /// which others saw it within the life of a record; tells of new ones.
    pub(super) fn meet(&mut self, now: Time, op: OpId, mut peers: Vec<Endpoint>) {
        let bound_port = self.bound.port();
        let Some(named) = self.operations.membership(op).map(|task| task.port) else {
            return;
        };
        let port = named.unwrap_or(bound_port);
        peers.retain(|peer| {
            (peer.port() != port || !self.is_own(&peer.with_port(bound_port)))
                && !self.own.is_peer(now, peer, named, self.config.record_life)
        });
        let Some(task) = self.operations.membership_mut(op) else {
            return;
        };
        let others = self.rounds.peers - task.peers.len();
        let max = self.config.lookup_peers.min(self.config.records.saturating_sub(others));
        let before = task.peers.arrivals();
        peers.into_iter().for_each(|peer| task.peers.meet(now, peer, max));
        self.rounds.peers = others + task.peers.len();
        if task.peers.arrivals() > before && !std::mem::replace(&mut task.is_told, true) {
            self.events.push_back(Event::Members { op });
        }
    }

    /// Notes that the owner takes an event: what it says of new members is told.
    pub(super) fn told(&mut self, event: &Event) {
        if let &Event::Members { op } = event
            && let Some(task) = self.operations.membership_mut(op)
        {
            task.is_told = false;
        }
    }
}
