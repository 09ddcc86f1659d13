//! Manners towards strangers: whom to trust as v0.1 does, how much to answer, who proved its
//! address, which addresses to believe, whom to ask whether it is there.

use std::hash::Hasher;
use std::time::Duration;

use rand_core::Rng;
use siphasher::sip128::{Hasher128, SipHasher24};
use subtle::ConstantTimeEq;

use crate::config::{Config, Legacy};
use crate::dht::candidates::Candidates;
use crate::id::NodeId;
use crate::time::Time;
use crate::wire::message::{Endpoint, Part, Reach};

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
    pub fn trusts_legacy(&self, endpoint: &Endpoint, own: &Endpoint) -> bool {
        match self.legacy {
            Legacy::Local => Self::is_near(endpoint, own),
            Legacy::Never => false,
            Legacy::Always => true,
        }
    }

    /// Whether an address is one of the neighborhood of a node bound to `own`, from where nobody on the
    /// Internet sends, so that its packets need no proof of it.
    ///
    /// A node bound to one address has neighbors only where that address reaches; one bound to all of
    /// them does not know where a packet came in. A carrier or an overlay network may put anybody
    /// behind 100.64.0.0/10, and whoever is on a link may take an address of 169.254.0.0/16, so these
    /// are near only to nodes that are bound there themselves.
    pub fn is_near(endpoint: &Endpoint, own: &Endpoint) -> bool {
        match endpoint.reach() {
            Reach::Public => false,
            reach @ (Reach::Shared | Reach::Link) if endpoint.is_ipv4() => {
                reach == own.reach() && endpoint.means_same_to(own)
            }
            _ => own.ip().is_unspecified() || endpoint.means_same_to(own),
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

    /// Whether `peer` is in this part of the peers stored. It stays in it, whatever else is stored,
    /// and nobody outside can tell beforehand which part that is.
    pub fn is_in(&self, part: Part, peer: &Endpoint) -> bool {
        part == Part::WHOLE || part.holds(self.hash_of(peer))
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

    /// No token's hash: those are of more bytes.
    fn hash_of(&self, peer: &Endpoint) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.token_key);
        hasher.write(peer.ip_bytes());
        hasher.write(&peer.port().to_be_bytes());
        hasher.finish128().h1
    }

    /// Panics where a cap is passed.
    pub fn check_invariants(&self) {
        self.candidates.check_invariants();
    }
}

fn epoch(now: Time) -> u64 {
    now.as_micros() / TOKEN_EPOCH.as_micros() as u64
}
