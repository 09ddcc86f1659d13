//! Where others see this node, now and lately: what they say, and what most of them agree on.

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::Time;
use crate::wire::message::Endpoint;

/// The last answers that count, each by another node: enough for one liar to be outvoted.
const VOTES_MAX: usize = 8;
/// Addresses remembered: a node that moves more often has more worries.
const SEEN_MAX: usize = 8;

/// The addresses of one node as others see it.
#[derive(Default)]
pub struct Own {
    /// Who answered last, the latest last, and where it sees this node.
    votes: VecDeque<(Endpoint, Endpoint)>,
    /// Where most saw this node, and when they said so last; the latest last.
    seen: VecDeque<(Time, Endpoint)>,
}

/// How far an address is valid: on the host, on the site, everywhere.
fn reach(endpoint: &Endpoint) -> u8 {
    match (endpoint.ip().is_loopback(), endpoint.is_local()) {
        (true, _) => 0,
        (false, true) => 1,
        (false, false) => 2,
    }
}

impl Own {
    /// Takes note that the node at `by` sees this one at `seen_at`. One node alone is believed only
    /// where there `is_no_other`.
    pub fn told(&mut self, now: Time, by: Endpoint, seen_at: Endpoint, is_no_other: bool) {
        self.votes.retain(|(voter, _)| *voter != by);
        if self.votes.len() >= VOTES_MAX {
            self.votes.pop_front();
        }
        self.votes.push_back((by, seen_at));
        let alike = self.votes.iter().filter(|(voter, _)| reach(voter) == reach(&by));
        let (all, agreeing) = alike.fold((0, 0), |(all, agreeing), (_, seen)| {
            (all + 1, agreeing + usize::from(*seen == seen_at))
        });
        if agreeing * 2 > all && (all > 1 || is_no_other) {
            self.seen.retain(|(_, known)| *known != seen_at);
            if self.seen.len() >= SEEN_MAX {
                self.seen.pop_front();
            }
            self.seen.push_back((now, seen_at));
        }
    }

    /// Whether `peer` is this node, with this port or the one that its packets come from, at an address
    /// at which it was seen within `life`.
    pub fn is_peer(&self, now: Time, peer: &Endpoint, port: Option<u16>, life: Duration) -> bool {
        let mut lately = self.seen.iter().filter(|(at, _)| now - *at < life);
        lately.any(|(_, seen)| *peer == seen.with_port(port.unwrap_or(seen.port())))
    }

    /// Where this node is seen now, as a node at `asker` can use it, or for its own caller without one.
    pub fn current(&self, asker: Option<&Endpoint>) -> Option<Endpoint> {
        let is_usable = |seen: &&Endpoint| match asker.map(reach) {
            None => true,
            Some(0) => reach(seen) == 0,
            Some(1) => reach(seen) > 0,
            Some(_) => reach(seen) > 1,
        };
        let seen = self.seen.iter().map(|(_, seen)| seen);
        // Of those that reach as far, the last one.
        seen.filter(is_usable).max_by_key(|seen| reach(seen)).copied()
    }

    /// Panics where a cap is passed.
    pub fn check_invariants(&self) {
        assert!(self.votes.len() <= VOTES_MAX && self.seen.len() <= SEEN_MAX);
    }
}
