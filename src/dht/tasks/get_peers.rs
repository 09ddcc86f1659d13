//! A lookup for the peers of a topic: a walk to all of the nearest nodes, and what they name on the
//! way, each peer once.

use std::collections::BTreeSet;

use super::step::{Answer, Outcome, Verdict};
use super::walk::Walk;
use crate::config::Config;
use crate::id::NodeId;
use crate::wire::message::Endpoint;

/// A lookup for peers under way.
pub struct GetPeers {
    pub walk: Walk,
    found: BTreeSet<Endpoint>,
    /// The most peers that it takes.
    max: usize,
}

impl GetPeers {
    /// A lookup that has found the peers that this node stores itself.
    pub fn new(topic: NodeId, own: &[Endpoint], config: &Config) -> Self {
        let found = own.iter().copied().collect();
        Self { walk: Walk::to_peers(topic, config), found, max: config.lookup_peers }
    }

    /// Returns the peers that are new.
    pub(super) fn answered(&mut self, answer: &Answer<'_>) -> Vec<Endpoint> {
        self.walk.answered(answer);
        let mut fresh = Vec::new();
        if answer.verdict != Verdict::Refused {
            for &peer in answer.peers {
                if self.found.len() < self.max && self.found.insert(peer) {
                    fresh.push(peer);
                }
            }
        }
        fresh
    }

    pub(super) fn outcome(&self) -> Outcome {
        let obstacle = self.walk.obstacle().filter(|_| self.found.is_empty());
        obstacle.map_or(Outcome::Found, Outcome::Failed)
    }
}
