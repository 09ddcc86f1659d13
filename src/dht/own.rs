//! The addresses at which others see this node, now and lately: what each of them says, and what most
//! of them agree on.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::time::Duration;

use crate::time::Time;
use crate::wire::message::{Endpoint, Reach};

/// The last votes that count, each of another public network: a round or two of lookups, so that a
/// new address wins within minutes.
const VOTES_MAX: usize = 40;
/// Of local nodes so many: there are few of them, and their votes win nothing outside.
const LOCAL_VOTES_MAX: usize = 8;
/// So many voters must agree, so that one alone wins nothing; with three networks in all, one of
/// which is this node's own, two others vote.
const AGREEING_MIN: usize = 2;
/// Addresses remembered: a node that moves more often has more worries.
const SEEN_MAX: usize = 8;

/// The addresses of one node as others see it.
#[derive(Default)]
pub struct Own {
    /// By how far the voters' addresses reach, and IPv4 before IPv6.
    ballots: [[Ballot; 2]; 3],
    /// The public address of each family, IPv4 first, that other networks agree on.
    external: [Option<Endpoint>; 2],
    /// Where most saw this node, and when they said so last; the latest last.
    seen: VecDeque<(Time, Endpoint)>,
}

/// Who votes: a public network, or a local node.
pub type Voter = [u8; 8];

/// What each voter said last, the latest last; each has one vote.
#[derive(Default)]
struct Ballot(Vec<(Voter, Endpoint)>);

/// Whose vote the node at `endpoint` has: that of its whole network, a /24 of IPv4 or a /48 of IPv6,
/// where addresses are had by the thousand; a local node has its own.
pub fn voter(endpoint: &Endpoint) -> Voter {
    let mut voter = [0; 8];
    match (endpoint.reach(), endpoint.ip()) {
        (Reach::Public, IpAddr::V4(v4)) => voter[..3].copy_from_slice(&v4.octets()[..3]),
        (Reach::Public, IpAddr::V6(v6)) => voter[..6].copy_from_slice(&v6.octets()[..6]),
        _ => {
            let mut hasher = DefaultHasher::new();
            endpoint.hash(&mut hasher);
            voter = hasher.finish().to_be_bytes();
        }
    }
    voter
}

/// How far an address is valid: on the host, on the site, everywhere.
fn reach(endpoint: &Endpoint) -> usize {
    match endpoint.reach() {
        Reach::Loopback => 0,
        Reach::Link | Reach::Private | Reach::Shared => 1,
        Reach::Public => 2,
    }
}

fn family(endpoint: &Endpoint) -> usize {
    usize::from(!endpoint.is_ipv4())
}

impl Own {
    /// Takes note that the node at `by` sees this one at `seen_at`. One node alone is believed only
    /// where there `is_no_other`, and never about the external address.
    pub fn told(&mut self, now: Time, by: Endpoint, seen_at: Endpoint, is_no_other: bool) {
        // A datagram does not change its family on its way.
        if by.is_ipv4() != seen_at.is_ipv4() {
            return;
        }
        let is_public = reach(&by) == 2;
        let ballot = &mut self.ballots[reach(&by)][family(&by)];
        let max = if is_public { VOTES_MAX } else { LOCAL_VOTES_MAX };
        let (agreeing, all) = ballot.cast(voter(&by), seen_at, max);
        let is_majority = agreeing * 2 > all;
        let has_won = is_majority && agreeing >= AGREEING_MIN;
        if has_won || is_majority && is_no_other {
            self.seen.retain(|(_, known)| *known != seen_at);
            if self.seen.len() >= SEEN_MAX {
                self.seen.pop_front();
            }
            self.seen.push_back((now, seen_at));
        }
        if !is_public {
            return;
        }
        let external = &mut self.external[family(&by)];
        if has_won && reach(&seen_at) == 2 {
            *external = Some(seen_at);
        }
        // While no other has won, it stays as long as anybody names it.
        *external = external.filter(|address| ballot.names(address));
    }

    /// The public address at which other networks agree that they see this node, of each family,
    /// IPv4 first.
    pub fn external(&self) -> [Option<Endpoint>; 2] {
        self.external
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

    /// Panics where a cap is passed or a voter has two votes.
    pub fn check_invariants(&self) {
        assert!(self.seen.len() <= SEEN_MAX);
        for ballot in self.ballots.iter().flatten() {
            assert!(ballot.0.len() <= VOTES_MAX);
            for (at, (voter, _)) in ballot.0.iter().enumerate() {
                assert!(ballot.0[..at].iter().all(|(other, _)| other != voter));
            }
        }
        for external in self.external.into_iter().flatten() {
            assert!(!external.is_local());
        }
    }
}

impl Ballot {
    /// Takes a vote in, in the place of the voter's last one and, beyond `max`, of the oldest; gives how
    /// many votes say the same, and how many there are.
    fn cast(&mut self, voter: Voter, seen_at: Endpoint, max: usize) -> (usize, usize) {
        let votes = &mut self.0;
        votes.retain(|(other, _)| *other != voter);
        if votes.len() >= max {
            votes.remove(0);
        }
        if votes.len() == votes.capacity() {
            // Idle nodes keep little: no more room than is used.
            votes.reserve_exact(LOCAL_VOTES_MAX);
        }
        votes.push((voter, seen_at));
        (votes.iter().filter(|(_, seen)| *seen == seen_at).count(), votes.len())
    }

    fn names(&self, address: &Endpoint) -> bool {
        self.0.iter().any(|(_, seen)| seen == address)
    }
}
