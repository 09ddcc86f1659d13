//! Translators (NAT) in front of simulated nodes, as most home routers and carriers have them (RFC 4787):
//! a node has one external port towards everybody, which is another one after a pause, and only those
//! addresses get in that the node has sent to lately.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::time::Time;
use crate::wire::message::Endpoint;

/// For so long a mapping lives without a datagram that leaves: home routers forget it after half a
/// minute to two.
const LIFE_MIN: Duration = Duration::from_secs(30);
const LIFE_MAX: Duration = Duration::from_secs(120);
/// Addresses that may get in before those are forgotten that may not any more.
const ADDRESSES_MIN: usize = 64;

/// The translator of one node.
pub(super) struct Nat {
    life: Duration,
    /// When a datagram left last; none before the first.
    left: Option<Time>,
    /// When one left last to each address, of those that may get in.
    sent: HashMap<IpAddr, Time>,
    tidied_len: usize,
}

impl Nat {
    /// The address of every node behind a translator, as it knows it itself.
    pub(super) fn inside() -> Endpoint {
        Endpoint::new([192, 168, 1, 2], 4_000)
    }

    /// One whose idle mappings live for a while that `share`, from 0 to 1, decides.
    pub(super) fn new(share: f64) -> Self {
        let life = LIFE_MIN + (LIFE_MAX - LIFE_MIN).mul_f64(share);
        Self { life, left: None, sent: HashMap::new(), tidied_len: ADDRESSES_MIN }
    }

    /// Lets a datagram out; returns whether it leaves from another port than those before.
    pub(super) fn let_out(&mut self, now: Time, to: &Endpoint) -> bool {
        let is_forgotten = self.left.is_some_and(|left| now - left >= self.life);
        if is_forgotten {
            self.sent.clear();
        }
        self.left = Some(now);
        self.sent.insert(to.ip(), now);
        if self.sent.len() > self.tidied_len {
            self.sent.retain(|_, sent| now - *sent < self.life);
            self.tidied_len = ADDRESSES_MIN.max(self.sent.len() * 2);
        }
        is_forgotten
    }

    /// Whether a datagram from there gets in.
    pub(super) fn lets_in(&self, now: Time, from: &Endpoint) -> bool {
        self.sent.get(&from.ip()).is_some_and(|sent| now - *sent < self.life)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u32) -> Time {
        Time::ZERO + SECOND * seconds
    }

    #[test]
    fn only_addresses_that_were_sent_to_get_in_from_any_port_and_not_for_long() {
        let mut nat = Nat::new(0.0);
        let (one, other) = (Endpoint::new([1, 1, 1, 1], 1), Endpoint::new([2, 2, 2, 2], 2));
        assert!(!nat.lets_in(at(0), &one));
        assert!(!nat.let_out(at(0), &one));
        assert!(nat.lets_in(at(29), &one.with_port(9)) && !nat.lets_in(at(29), &other));
        assert!(!nat.let_out(at(20), &other), "the mapping lives");
        assert!(!nat.lets_in(at(30), &one) && nat.lets_in(at(30), &other));
        assert!(nat.let_out(at(50), &one), "it is forgotten");
        assert!(!nat.lets_in(at(50), &other));
    }
}
