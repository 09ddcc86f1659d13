//! Manners towards strangers: whom to trust as v0.1 does, how much to answer, who proved its
//! address, which addresses to believe, whom to ask whether it is there.

use std::collections::{BTreeSet, VecDeque};
use std::hash::Hasher;
use std::time::Duration;

use rand_core::Rng;
use siphasher::sip128::{Hasher128, SipHasher24};
use subtle::ConstantTimeEq;

use crate::config::{Config, Legacy};
use crate::id::NodeId;
use crate::time::Time;
use crate::wire::message::{Contact, Endpoint};

/// The most that a request may cause to be sent to an address that is not local, as a multiple
/// of its own bytes.
pub const AMPLIFICATION: usize = 3;
/// Bytes in a token.
pub const TOKEN_LEN: usize = 16;
/// How long a token's epoch lasts; a token of the last epoch is accepted too.
pub const TOKEN_EPOCH: Duration = Duration::from_secs(300);

/// One node's guard.
pub struct Guard {
    legacy: Legacy,
    token_key: [u8; 16],
    candidates: Candidates,
}

impl Guard {
    /// A guard with a token secret of its own, drawn from `rng`.
    pub fn new(config: &Config, rng: &mut impl Rng) -> Self {
        let mut token_key = [0; 16];
        rng.fill_bytes(&mut token_key);
        Self { legacy: config.legacy, token_key, candidates: Candidates::new(config) }
    }

    /// Whether v0.1's unproved packets are trusted from there by a node that is bound to `own`.
    ///
    /// A node bound to one address has neighbors only where that address reaches; one bound to all of
    /// them does not know where a packet came in.
    pub fn trusts_legacy(&self, endpoint: &Endpoint, own: &Endpoint) -> bool {
        match self.legacy {
            Legacy::Local => {
                let is_near = own.ip().is_unspecified() || endpoint.means_same_to(own);
                endpoint.is_local() && is_near
            }
            Legacy::Never => false,
            Legacy::Always => true,
        }
    }

    /// The bytes that a request of `len` bytes from there may cause to be sent back, in all.
    pub fn allowance(&self, from: &Endpoint, len: usize) -> usize {
        if from.is_local() { usize::MAX } else { len * AMPLIFICATION }
    }

    /// The token that lets the owner of `endpoint`'s address announce `topic` now.
    pub fn token(&self, now: Time, endpoint: &Endpoint, topic: &NodeId) -> [u8; TOKEN_LEN] {
        self.token_of_epoch(epoch(now), endpoint, topic)
    }

    /// Whether `token` is one that was handed to that address for that topic lately.
    pub fn accepts_token(
        &self,
        now: Time,
        endpoint: &Endpoint,
        topic: &NodeId,
        token: &[u8],
    ) -> bool {
        let current = epoch(now);
        let matches = |epoch| self.token_of_epoch(epoch, endpoint, topic).ct_eq(token);
        let last = current.checked_sub(1).map_or(0.into(), matches);
        (matches(current) | last).into()
    }

    /// Whether `listed`, which `from` names, is an address to send anything to.
    ///
    /// `has_trailer` says whether `from` speaks more than v0.1, whose FOUND_NODES carries its
    /// addresses reversed on little-endian machines: 127.0.0.1 would be 1.0.0.127.
    pub fn believes(&self, listed: &Endpoint, from: &Endpoint, has_trailer: bool) -> bool {
        let may_be_reversed = !has_trailer && from.is_local() && !listed.is_local();
        listed.is_sendable() && listed.means_same_to(from) && !may_be_reversed
    }

    /// The senders of requests that wait to be asked whether they are there.
    pub fn candidates(&mut self) -> &mut Candidates {
        &mut self.candidates
    }

    fn token_of_epoch(&self, epoch: u64, endpoint: &Endpoint, topic: &NodeId) -> [u8; TOKEN_LEN] {
        let mut hasher = SipHasher24::new_with_key(&self.token_key);
        hasher.write(endpoint.ip_bytes());
        hasher.write(&topic.0);
        hasher.write(&epoch.to_be_bytes());
        hasher.finish128().as_u128().to_be_bytes()
    }

    /// Panics where a cap is passed.
    pub fn check_invariants(&self) {
        self.candidates.check_invariants();
    }
}

fn epoch(now: Time) -> u64 {
    now.as_micros() / TOKEN_EPOCH.as_micros() as u64
}

/// Senders of requests that are not listed yet: they are asked, a few a second, and listed once
/// they answer. Who came first is asked first, so that no choice of ids puts anybody last.
pub struct Candidates {
    queue: VecDeque<Contact>,
    /// The addresses of `queue`, each once.
    endpoints: BTreeSet<Endpoint>,
    /// When the last ones were asked, the oldest first; never more than `pings_per_second`.
    asked: VecDeque<Time>,
    queue_max: usize,
    pings_per_second: usize,
}

impl Candidates {
    const PING_WINDOW: Duration = Duration::from_secs(1);

    fn new(config: &Config) -> Self {
        Self {
            queue: VecDeque::new(),
            endpoints: BTreeSet::new(),
            asked: VecDeque::new(),
            queue_max: config.candidates,
            pings_per_second: config.candidate_pings,
        }
    }

    /// Takes a sender in; `false` where the queue is full.
    pub fn push(&mut self, contact: Contact) -> bool {
        if self.endpoints.contains(&contact.endpoint) {
            return true;
        }
        if self.queue.len() >= self.queue_max {
            return false;
        }
        self.endpoints.insert(contact.endpoint);
        self.queue.push_back(contact);
        true
    }

    /// The next one to ask at `now`, to be called until it gives `None`.
    #[must_use]
    pub fn next(&mut self, now: Time) -> Option<Contact> {
        if self.next_at()? > now {
            return None;
        }
        let contact = self.queue.pop_front()?;
        self.endpoints.remove(&contact.endpoint);
        Some(contact)
    }

    /// Notes that a candidate is asked at `now`: it counts against the rate.
    pub fn asked(&mut self, now: Time) {
        if self.asked.len() >= self.pings_per_second {
            self.asked.pop_front();
        }
        self.asked.push_back(now);
    }

    /// When [`Candidates::next`] gives one.
    pub fn next_at(&self) -> Option<Time> {
        if self.queue.is_empty() {
            return None;
        }
        let oldest = self.asked.front().filter(|_| self.asked.len() >= self.pings_per_second);
        Some(oldest.map_or(Time::ZERO, |&at| at + Self::PING_WINDOW))
    }

    fn check_invariants(&self) {
        assert!(self.queue.len() <= self.queue_max, "more candidates than allowed");
        assert_eq!(self.queue.len(), self.endpoints.len());
        assert!(self.asked.len() <= self.pings_per_second);
        assert!(self.asked.iter().is_sorted());
    }
}
