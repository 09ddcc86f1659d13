//! The peers known of one topic that the node has joined: who is new, who was seen when, and who
//! makes room. Where peers come from is the engine's affair.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::time::Time;
use crate::wire::message::Endpoint;

/// Peers at one address that is not local, or in one IPv6 network of 64 bits: as many as an answer names by default. A NAT may hide
/// several; one host that announces each of its ports must not fill the list.
pub const IP_MAX: usize = 64;

/// Peers, each with its number in the order in which they came.
#[derive(Default)]
pub struct Members {
    known: BTreeMap<Endpoint, Known>,
    /// One entry for each of `known`, the one seen longest ago first.
    by_seen: BTreeSet<(Time, u64, Endpoint)>,
    /// The number of the peer that came last.
    arrivals: u64,
}

#[derive(Clone, Copy)]
struct Known {
    arrival: u64,
    seen: Time,
}

impl Members {
    /// Takes note of a peer. Where `max` are known, the one seen longest ago makes room.
    pub fn meet(&mut self, now: Time, peer: Endpoint, max: usize) {
        let known = self.forget(&peer);
        if known.is_none() {
            if max == 0 || !peer.is_local() && self.at_address(&peer) >= IP_MAX {
                return;
            }
            while self.len() >= max {
                if let Some((_, _, oldest)) = self.by_seen.pop_first() {
                    self.known.remove(&oldest);
                }
            }
            self.arrivals += 1;
        }
        let arrival = known.map_or(self.arrivals, |known| known.arrival);
        self.known.insert(peer, Known { arrival, seen: now });
        self.by_seen.insert((now, arrival, peer));
    }

    /// Forgets those that were not seen for `life`; they are new when they come again.
    pub fn forget_old(&mut self, now: Time, life: Duration) {
        while let Some(&(seen, _, peer)) = self.by_seen.first() {
            if now - seen < life {
                return;
            }
            self.forget(&peer);
        }
    }

    /// Forgets all; their numbers do not come again.
    pub fn clear(&mut self) {
        self.known.clear();
        self.by_seen.clear();
    }

    /// Those that came after the one with this number, in the order in which they came.
    pub fn after(&self, number: u64) -> Vec<(u64, Endpoint)> {
        let all = self.known.iter().map(|(peer, known)| (known.arrival, *peer));
        let mut later: Vec<(u64, Endpoint)> =
            all.filter(|(arrival, _)| *arrival > number).collect();
        later.sort_unstable();
        later
    }

    /// The number of the peer that came last.
    pub fn arrivals(&self) -> u64 {
        self.arrivals
    }

    /// How many are known.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    fn at_address(&self, peer: &Endpoint) -> usize {
        self.known.range(peer.same_host()).count()
    }

    fn forget(&mut self, peer: &Endpoint) -> Option<Known> {
        let known = self.known.remove(peer)?;
        self.by_seen.remove(&(known.seen, known.arrival, *peer));
        Some(known)
    }

    /// Panics where the index disagrees with the peers, or a number stands twice.
    pub fn check_invariants(&self) {
        let numbers: BTreeSet<u64> = self.known.values().map(|known| known.arrival).collect();
        assert_eq!(numbers.len(), self.known.len(), "two peers with one number");
        assert!(numbers.last().is_none_or(|&last| last <= self.arrivals));
        assert_eq!(self.by_seen.len(), self.known.len());
        for (peer, known) in &self.known {
            assert!(self.by_seen.contains(&(known.seen, known.arrival, *peer)));
        }
    }
}
