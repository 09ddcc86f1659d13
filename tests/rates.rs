//! How many requests a host may make, from outside.

use std::collections::BTreeMap;

use chacha20::ChaCha20Rng;
use kadepy::dht::rates::Rates;
use kadepy::{Config, Endpoint, Time};
use proptest::prelude::*;
use rand_core::SeedableRng;

fn rates() -> Rates {
    with(&Config::default())
}

fn with(limits: &Config) -> Rates {
    Rates::new(limits, &mut ChaCha20Rng::seed_from_u64(1))
}

fn at(micros: u64) -> Time {
    Time::from_micros(micros)
}

const SECOND: u64 = 1_000_000;

/// How many of `count` requests at once are let in.
fn admitted(rates: &mut Rates, now: u64, from: Endpoint, count: usize) -> usize {
    let admitted = (0..count).filter(|_| rates.admit(at(now), &from)).count();
    rates.check_invariants();
    admitted
}

fn public(n: u16) -> Endpoint {
    let [a, b] = n.to_be_bytes();
    Endpoint::new([20, 0, a, b], 4_000)
}

/// The host `n` of millions.
fn host(n: u32) -> Endpoint {
    let [a, b, c, d] = n.to_be_bytes();
    Endpoint::new([30 + a, b, c, d], 4_000)
}

#[test]
fn a_host_may_make_100_requests_at_once_and_then_50_a_second() {
    let mut rates = rates();
    assert_eq!(admitted(&mut rates, 7, public(1), 1_000), 100);
    assert_eq!(admitted(&mut rates, 7 + 19_999, public(1), 1_000), 0);
    assert_eq!(admitted(&mut rates, 7 + 20_000, public(1), 1_000), 1);
    let next_second = 7 + 20_000 + SECOND;
    assert_eq!(admitted(&mut rates, next_second, public(1), 1_000), 50);
    assert_eq!(admitted(&mut rates, next_second + 2 * SECOND, public(1), 1_000), 100);
}

#[test]
fn the_ports_of_an_address_and_the_addresses_of_a_64_share_a_limit() {
    let v6 = |network, n| Endpoint::new([0x2001, 0xdb8, 0, network, n, 0, 0, 1], 4_000);
    for (first, same, other) in [
        (public(1), public(1).with_port(9), public(2)),
        (v6(1, 1), v6(1, 2).with_port(9), v6(2, 1)),
    ] {
        let mut rates = rates();
        assert_eq!(admitted(&mut rates, 0, first, 100), 100);
        assert_eq!(admitted(&mut rates, 0, same, 1), 0, "{same}");
        assert_eq!(admitted(&mut rates, 0, other, 1), 1, "{other}");
    }
}

#[test]
fn a_host_that_is_refused_is_not_banned() {
    let mut rates = rates();
    for millis in 0..60_000 {
        let _ = rates.admit(at(millis * 1_000), &public(1));
    }
    assert_eq!(admitted(&mut rates, 62 * SECOND, public(1), 1_000), 100);
}

#[test]
fn all_hosts_together_may_make_50_000_requests_a_second() {
    let mut rates = rates();
    let mut admitted = 0;
    for n in 0..300_000_u32 {
        admitted += usize::from(rates.admit(at(u64::from(n) * 10), &host(n)));
    }
    // Those of a tenth of a second at once, and then three seconds.
    assert!((154_999..=155_001).contains(&admitted), "{admitted}");
}

#[test]
fn a_million_forged_sources_lift_no_limit_and_fill_no_memory() {
    let mut rates = rates();
    let mut of_one = 0;
    let mut of_others = 0;
    for n in 0..1_000_000_u32 {
        // 45,000 a second, and a host that makes 1,000 of them.
        let now = at(u64::from(n) * SECOND / 45_000);
        of_others += usize::from(rates.admit(now, &host(n)));
        if n % 45 == 0 {
            of_one += usize::from(rates.admit(now, &public(1)));
        }
        if n % 1_000 == 0 {
            rates.check_invariants();
        }
    }
    assert_eq!(of_others, 1_000_000);
    // In 22.2 seconds.
    assert!((1_209..=1_213).contains(&of_one), "{of_one}");
}

#[test]
fn while_nobody_can_be_forgotten_those_not_known_are_refused() {
    let limits = Config { requests_per_second: 1, requests_in_all: 1_000_000, ..Config::default() };
    let mut rates = with(&limits);
    assert_eq!(admitted(&mut rates, 0, public(1), 1_000), 100);
    let taken = (0..20_000).filter(|n| rates.admit(at(1), &host(*n))).count();
    rates.check_invariants();
    assert_eq!(taken, 16_384 - 1);
    assert_eq!(admitted(&mut rates, 2, public(1), 1), 0, "it is still known");
    assert_eq!(admitted(&mut rates, 2, public(2), 1), 0);
    assert_eq!(admitted(&mut rates, 1 + SECOND, public(2), 1), 1, "the others are out of debt");
    assert_eq!(admitted(&mut rates, 1 + SECOND, public(1), 9), 1);
}

proptest! {
    #[test]
    fn no_host_gets_more_than_its_rate_and_none_within_it_is_refused(
        requests in prop::collection::vec((0_u64..30_000, 0_u16..4), 0..600),
    ) {
        let mut rates = rates();
        let mut now = 0;
        let mut admitted: BTreeMap<u16, Vec<u64>> = BTreeMap::new();
        for (pause, n) in requests {
            now += pause;
            let taken = admitted.entry(n).or_default();
            // The most requests that would be too many, counted back from now.
            let is_within = (0..taken.len()).all(|from| {
                let count = (taken.len() - from + 1) as u64;
                count * 20_000 <= 100 * 20_000 + (now - taken[from])
            });
            prop_assert_eq!(rates.admit(at(now), &public(n)), is_within);
            if is_within {
                taken.push(now);
            }
            rates.check_invariants();
        }
    }

    #[test]
    fn whatever_the_limits_are_nothing_overflows(
        per_second in 1_usize..=1_000_000,
        burst in 1_usize..=1_000_000,
        in_all in 1_usize..=1_000_000,
        now in any::<u64>(),
    ) {
        let limits = Config {
            requests_per_second: per_second,
            requests_burst: burst,
            requests_in_all: in_all,
            ..Config::default()
        };
        let mut rates = with(&limits);
        prop_assert!(rates.admit(at(now.min(u64::MAX / 2)), &public(1)));
    }
}
