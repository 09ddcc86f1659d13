//! A lookup for the peers of a topic: a walk to all of the nearest nodes, what they name on the way,
//! and then the rest of what they store.

use super::gathering::Gathering;
use super::step::{Answer, Outcome, Step};
use super::walk::Walk;
use crate::config::Config;
use crate::id::NodeId;
use crate::time::Time;
use crate::wire::message::Endpoint;

/// A lookup for peers under way.
pub struct GetPeers {
    pub walk: Walk,
    pub(super) peers: Gathering,
}

impl GetPeers {
    /// A lookup that has found the peers that this node stores itself.
    pub fn new(topic: NodeId, own: &[Endpoint], config: &Config) -> Self {
        let peers = Gathering::new(topic, own, config.lookup_peers, config);
        Self { walk: Walk::to_peers(topic, config), peers }
    }

    pub(super) fn step(&mut self, now: Time) -> Step {
        match self.walk.step(now) {
            Step::Over => self.peers.step(now, &self.walk.lookup),
            step => step,
        }
    }

    /// Returns the peers that are new.
    pub(super) fn answered(&mut self, answer: &Answer<'_>) -> Vec<Endpoint> {
        if answer.question.part().is_none() {
            self.walk.answered(answer);
        }
        self.peers.answered(answer)
    }

    pub(super) fn outcome(&self) -> Outcome {
        let obstacle = self.walk.obstacle().filter(|_| self.peers.is_empty());
        obstacle.map_or(Outcome::Found, Outcome::Failed)
    }
}
