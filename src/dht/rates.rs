//! How many requests a host may make. What is a request, and whom no limit holds for, is decided
//! elsewhere.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use rand_core::Rng;

use crate::config::Config;
use crate::time::Time;
use crate::wire::message::Endpoint;

/// So many hosts are remembered. With the default limits fewer than 6,000 can be in debt at once: each
/// request that is let in makes debts of 20 ms, of 50,000 a second and a burst of 5,000.
const HOSTS_MAX: usize = 16_384;
/// Of all hosts together, what may come in this time may come at once: the contents of a receive
/// buffer do.
const BURST_IN_ALL: Duration = Duration::from_millis(100);

/// The rates of requests at one node: of each host, which is an IPv4 address or an IPv6 /64, and of
/// all together. A request that is refused does not count.
///
/// The rule is GCRA (ITU-T I.371): of each host it takes to know when it is out of debt again, if each
/// request costs it the interval between two at the full rate.
pub struct Rates {
    /// When each host is out of debt, in microseconds. One that is may be forgotten.
    hosts: HashMap<u64, u64, HostHash>,
    /// When all together are.
    all: u64,
    /// When it is worth looking for hosts to forget.
    next_look: u64,
    of_host: Rate,
    in_all: Rate,
}

impl Rates {
    /// Nobody has asked yet; with the limits of `config`.
    pub fn new(config: &Config, rng: &mut impl Rng) -> Self {
        let in_all = Rate::new(config.requests_in_all, 1);
        let burst = in_all.debt_max.max(BURST_IN_ALL.as_micros() as u64);
        Self {
            hosts: HashMap::with_hasher(HostHash([rng.next_u64(), rng.next_u64() | 1])),
            all: 0,
            next_look: 0,
            of_host: Rate::new(config.requests_per_second, config.requests_burst),
            in_all: Rate { debt_max: burst, ..in_all },
        }
    }

    /// Whether a request from there is within the limits; it then counts.
    ///
    /// Where so many hosts are in debt that none can be forgotten, those not known are refused: else
    /// forged sources could have a host forgotten that is not to get more.
    #[must_use]
    pub fn admit(&mut self, now: Time, from: &Endpoint) -> bool {
        let now = now.as_micros();
        let host = number_of(from);
        let Some(all) = self.in_all.charge(self.all, now) else {
            return false;
        };
        if let Some(free_at) = self.hosts.get_mut(&host) {
            let Some(next) = self.of_host.charge(*free_at, now) else {
                return false;
            };
            *free_at = next;
        } else if self.has_place(now) {
            self.hosts.insert(host, now + self.of_host.interval);
        } else {
            return false;
        }
        self.all = all;
        true
    }

    /// Whether there is a place for one more host, after those out of debt are forgotten if need be.
    fn has_place(&mut self, now: u64) -> bool {
        if self.hosts.len() >= HOSTS_MAX && now >= self.next_look {
            self.hosts.retain(|_, free_at| *free_at > now);
            self.next_look = now + self.of_host.interval;
        }
        self.hosts.len() < HOSTS_MAX
    }

    /// Panics where the cap is passed.
    pub fn check_invariants(&self) {
        assert!(self.hosts.len() <= HOSTS_MAX, "more hosts than allowed");
    }
}

/// A hash that takes a few instructions, which no one outside can predict: both numbers are secret, and
/// the second is odd.
struct HostHash([u64; 2]);

impl BuildHasher for HostHash {
    type Hasher = HostHasher;

    fn build_hasher(&self) -> HostHasher {
        let [state, factor] = self.0;
        HostHasher { state, factor }
    }
}

struct HostHasher {
    state: u64,
    factor: u64,
}

impl Hasher for HostHasher {
    fn write(&mut self, _: &[u8]) {
        unreachable!("a host's number is all that is hashed");
    }

    #[inline]
    fn write_u64(&mut self, host: u64) {
        let product = u128::from(self.state ^ host) * u128::from(self.factor);
        self.state = product as u64 ^ (product >> 64) as u64;
    }

    fn finish(&self) -> u64 {
        self.state
    }
}

/// A limit, in microseconds.
#[derive(Clone, Copy)]
struct Rate {
    /// What a request costs.
    interval: u64,
    debt_max: u64,
}

impl Rate {
    fn new(per_second: usize, burst: usize) -> Self {
        let interval = 1_000_000 / per_second as u64;
        Self { interval, debt_max: interval * burst as u64 }
    }

    /// When a debtor that was out of debt at `free_at` is so after one more request at `now`; `None`
    /// where the debt would be too great.
    #[inline]
    fn charge(self, free_at: u64, now: u64) -> Option<u64> {
        let debt = free_at.saturating_sub(now) + self.interval;
        (debt <= self.debt_max).then_some(now + debt)
    }
}

/// The number of a host: the 32 bits of an IPv4 address or the first 64 of an IPv6 address. No host on
/// the Internet has an IPv6 address that begins with 32 zeros.
#[inline]
fn number_of(endpoint: &Endpoint) -> u64 {
    let [first, last] = [0, 8].map(|at| {
        let half = endpoint.ip_bytes()[at..].first_chunk().expect("an address has 16 bytes");
        u64::from_be_bytes(*half)
    });
    if endpoint.is_ipv4() { last & u64::from(u32::MAX) } else { first }
}
