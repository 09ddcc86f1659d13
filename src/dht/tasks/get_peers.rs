//! A lookup for the peers of a topic: a walk to all of the nearest nodes, and what they name on the
//! way, each peer once.

use std::collections::BTreeSet;

use super::step::{Answer, Step, Verdict};
use super::walk::Walk;
use crate::config::Config;
use crate::id::NodeId;
use crate::wire::message::{Contact, Endpoint};

/// A lookup for peers under way.
pub struct GetPeers {
    walk: Walk,
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

    /// Gives it the contacts to begin with.
    pub fn begin(&mut self, contacts: &[Contact]) {
        self.walk.begin(contacts);
    }

    /// What it wants next.
    pub fn step(&mut self) -> Step {
        self.walk.step()
    }

    /// Takes an answer in; returns the peers that are new.
    pub fn answered(&mut self, answer: &Answer<'_>) -> Vec<Endpoint> {
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

    /// Notes that the short wait for a contact is over.
    pub fn late(&mut self, contact: &Contact) {
        self.walk.late(contact);
    }

    /// Notes that a contact cannot be asked.
    pub fn failed(&mut self, contact: &Contact) {
        self.walk.failed(contact);
    }

    /// Panics where the walk's invariants are broken or the cap is passed.
    pub fn check_invariants(&self) {
        self.walk.check_invariants();
        assert!(self.found.len() <= self.max, "more peers than allowed");
    }
}
