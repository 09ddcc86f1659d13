//! Manners towards strangers, from outside: tokens, allowances, whom and what to believe, and how fast
//! candidates are asked.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chacha20::ChaCha20Rng;
use common::{id, public};
use kadepy::dht::guard::{Guard, TOKEN_LEN};
use kadepy::{Config, Contact, Endpoint, Legacy, Time};
use proptest::prelude::*;
use rand_core::{Rng, SeedableRng};

const MICRO: Duration = Duration::from_micros(1);
const SECOND: Duration = Duration::from_secs(1);

fn guard() -> Guard {
    guard_of(1, &Config::default())
}

fn guard_of(seed: u64, config: &Config) -> Guard {
    Guard::new(config, &mut ChaCha20Rng::seed_from_u64(seed))
}

fn with_legacy(legacy: Legacy) -> Guard {
    guard_of(1, &Config { legacy, ..Config::default() })
}

fn local() -> Endpoint {
    Endpoint::new([192, 168, 0, 1], 4_000)
}

fn at(seconds: u64) -> Time {
    Time::ZERO + Duration::from_secs(seconds)
}

/// Each in a network of its own.
fn candidate(n: u16) -> Contact {
    let [a, b] = n.to_be_bytes();
    Contact { id: id(n), endpoint: Endpoint::new([20, a, b, 1], 4_000) }
}

// Tokens

#[test]
fn a_token_holds_for_its_address_whatever_the_port() {
    let guard = guard();
    let token = guard.token(at(1), &public(1), &id(1));
    assert!(guard.accepts_token(at(1), &public(1), &id(1), &token));
    assert!(guard.accepts_token(at(1), &public(1).with_port(9), &id(1), &token));
    assert!(!guard.accepts_token(at(1), &public(2), &id(1), &token));
}

#[test]
fn a_token_holds_for_its_topic() {
    let guard = guard();
    let token = guard.token(at(1), &public(1), &id(1));
    assert!(!guard.accepts_token(at(1), &public(1), &id(2), &token));
}

#[test]
fn a_token_holds_for_its_epoch_of_5_minutes_and_the_next() {
    let guard = guard();
    for made in [at(0), at(300), Time::from_micros(at(600).as_micros() - 1)] {
        let token = guard.token(made, &public(1), &id(1));
        let epoch_start = made.as_micros() / at(300).as_micros() * at(300).as_micros();
        let end = Time::from_micros(epoch_start) + 600 * SECOND;
        let just_before = Time::from_micros(end.as_micros() - 1);
        assert!(guard.accepts_token(just_before, &public(1), &id(1), &token));
        assert!(!guard.accepts_token(end, &public(1), &id(1), &token));
    }
}

#[test]
fn a_token_of_the_future_is_refused() {
    let guard = guard();
    let token = guard.token(at(300), &public(1), &id(1));
    assert!(!guard.accepts_token(at(299), &public(1), &id(1), &token));
}

#[test]
fn a_token_of_another_node_is_refused() {
    let token = guard_of(2, &Config::default()).token(at(1), &public(1), &id(1));
    assert!(!guard().accepts_token(at(1), &public(1), &id(1), &token));
}

#[test]
fn a_token_of_another_length_is_refused() {
    let guard = guard();
    let token = guard.token(at(1), &public(1), &id(1));
    let longer = [&token[..], &[0]].concat();
    for wrong in [&[], &token[..1], &token[..TOKEN_LEN - 1], &longer[..]] {
        assert!(!guard.accepts_token(at(1), &public(1), &id(1), wrong));
    }
}

proptest! {
    #[test]
    fn a_token_is_accepted_only_as_it_was_handed_out(
        address in 0_u16..3,
        topic in 0_u16..3,
        made in 0_u64..2_000,
        shown in 0_u64..2_000,
        shown_address in 0_u16..3,
        shown_topic in 0_u16..3,
        flip in prop::option::of(0_usize..TOKEN_LEN * 8),
    ) {
        let guard = guard();
        let mut token = guard.token(at(made), &public(address), &id(topic));
        if let Some(bit) = flip {
            token[bit / 8] ^= 1 << (bit % 8);
        }
        let is_in_time = shown / 300 == made / 300 || shown / 300 == made / 300 + 1;
        prop_assert_eq!(
            guard.accepts_token(at(shown), &public(shown_address), &id(shown_topic), &token),
            flip.is_none() && (shown_address, shown_topic) == (address, topic) && is_in_time
        );
    }
}

// How much to answer, whom to trust, what to believe

#[test]
fn a_stranger_gets_three_times_what_it_sent_whatever_is_trusted() {
    for legacy in [Legacy::Local, Legacy::Never, Legacy::Always] {
        assert_eq!(with_legacy(legacy).allowance(&public(1), 65), 195);
        assert!(with_legacy(legacy).allowance(&local(), 65) >= 1_200 + 47);
    }
}

#[test]
fn legacy_says_where_unproved_packets_are_trusted() {
    for (legacy, trusts_local, trusts_public) in
        [(Legacy::Local, true, false), (Legacy::Never, false, false), (Legacy::Always, true, true)]
    {
        let (guard, own) = (with_legacy(legacy), Endpoint::default());
        assert_eq!(guard.trusts_legacy(&local(), &own), trusts_local, "{legacy:?}");
        assert_eq!(guard.trusts_legacy(&public(1), &own), trusts_public, "{legacy:?}");
    }
}

#[test]
fn a_node_bound_to_one_address_trusts_unproved_packets_from_its_own_reach_only() {
    let endpoint = |ip: [u8; 4]| Endpoint::new(ip, 4_000);
    let [loopback, private] = [endpoint([127, 0, 0, 1]), endpoint([10, 0, 0, 1])];
    let [shared, other_shared] = [endpoint([100, 64, 0, 1]), endpoint([100, 127, 0, 1])];
    let guard = guard();
    let trusted = |from: [Endpoint; 5], own| from.map(|from| guard.trusts_legacy(&from, &own));
    let link = endpoint([169, 254, 0, 1]);
    let from = [loopback, private, link, shared, public(1)];
    assert_eq!(trusted(from, public(2)), [false; 5]);
    assert_eq!(trusted(from, local()), [false, true, false, false, false]);
    assert_eq!(trusted(from, other_shared), [false, false, false, true, false]);
    assert_eq!(trusted(from, endpoint([169, 254, 0, 2])), [false, true, true, false, false]);
    assert_eq!(trusted(from, loopback), [true, true, false, false, false]);
    assert_eq!(trusted(from, Endpoint::default()), [true, true, false, false, false]);
}

#[test]
fn the_local_addresses_are_those_that_no_router_carries() {
    let local = [
        "127.0.0.1",
        "127.255.255.255",
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.0.1",
        "100.64.0.1",
        "100.127.255.255",
        "169.254.0.1",
        "::1",
        "fc00::1",
        "fdff::1",
        "fe80::1",
        "febf::1",
        "::ffff:10.0.0.1",
    ];
    let public = [
        "126.255.255.255",
        "128.0.0.1",
        "9.255.255.255",
        "11.0.0.1",
        "172.15.0.1",
        "172.32.0.1",
        "192.167.0.1",
        "192.169.0.1",
        "100.63.0.1",
        "100.128.0.1",
        "169.253.0.1",
        "169.255.0.1",
        "::2",
        "fbff::1",
        "fec0::1",
        "2001:db8::1",
        "::ffff:20.0.0.1",
    ];
    let endpoint = |ip: &str| Endpoint::new(ip.parse::<std::net::IpAddr>().expect("an address"), 1);
    for ip in local {
        assert!(endpoint(ip).is_local(), "{ip}");
    }
    for ip in public {
        assert!(!endpoint(ip).is_local(), "{ip}");
    }
}

#[test]
fn a_local_node_of_v01_is_believed_about_local_addresses_only() {
    let neighbor = Endpoint::new([192, 168, 0, 2], 4_000);
    let reversed = Endpoint::new([2, 0, 168, 192], 4_000);
    assert!(guard().believes(&neighbor, &local(), false));
    assert!(guard().believes(&neighbor, &local(), true));
    assert!(!guard().believes(&reversed, &local(), false));
    assert!(guard().believes(&reversed, &local(), true));
    assert!(guard().believes(&public(2), &public(1), false));
}

#[test]
fn nobody_is_believed_about_an_address_that_nothing_can_be_sent_to() {
    let unsendable = [
        "0.0.0.0:1",
        "0.1.2.3:1",
        "224.0.0.1:1",
        "239.255.255.255:1",
        "255.255.255.255:1",
        "20.0.0.1:0",
        "[::]:1",
        "[ff02::1]:1",
        "[2001:db8::1]:0",
        "[::ffff:0.0.0.0]:1",
        "[::ffff:224.0.0.1]:1",
    ];
    for listed in unsendable {
        let listed: std::net::SocketAddr = listed.parse().unwrap();
        assert!(!guard().believes(&listed.into(), &public(1), true), "{listed}");
        assert!(!guard().believes(&listed.into(), &local(), true), "{listed}");
    }
}

#[test]
fn addresses_above_multicast_are_those_of_hosts_but_for_broadcast() {
    for ip in [[240, 0, 0, 1], [255, 255, 255, 254]] {
        let listed = Endpoint::new(ip, 1);
        assert!(guard().believes(&listed, &public(1), true), "{listed}");
        assert!(!listed.is_local(), "{listed}");
    }
}

// Candidates

fn rng(seed: u64) -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(seed)
}

/// Takes a candidate in; whether nobody lost a place for it.
fn push(guard: &mut Guard, contact: Contact) -> bool {
    let took = guard.candidates().push(contact, &mut rng(1));
    guard.check_invariants();
    took
}

/// All that wait, in the order in which they are asked.
fn waiting(guard: &mut Guard) -> Vec<Contact> {
    std::iter::from_fn(|| guard.candidates().next(at(0))).collect()
}

fn from(n: u16, endpoint: Endpoint) -> Contact {
    Contact { id: id(n), endpoint }
}

#[test]
fn the_candidate_that_came_first_is_asked_first() {
    let mut guard = guard();
    for n in [5, 2, 9, 7] {
        assert!(push(&mut guard, candidate(n)));
    }
    assert_eq!(waiting(&mut guard), [5, 2, 9, 7].map(candidate));
    assert_eq!(guard.candidates().next_at(), None);
}

#[test]
fn of_a_host_the_last_candidate_waits_in_the_place_of_the_first() {
    let v4 = |port| Endpoint::new([20, 1, 1, 1], port);
    let v6 = |n| Endpoint::new([0x2001, 0xdb8, 1, 1, n, 0, 0, 1], 4_000);
    for (first, last) in [(v4(1), v4(2)), (v6(1), v6(2))] {
        let mut guard = guard();
        assert!(push(&mut guard, from(1, first)));
        assert!(push(&mut guard, candidate(9)));
        assert!(push(&mut guard, from(2, first)), "the same endpoint under another id");
        assert!(!push(&mut guard, from(3, last)), "another one loses its place");
        assert_eq!(waiting(&mut guard), [from(3, last), candidate(9)]);
        assert!(push(&mut guard, from(3, last)), "whoever was asked may come again");
    }
}

#[test]
fn of_a_network_two_candidates_wait() {
    let v4 = |n: u16| Endpoint::new([20, 1, 1, n as u8], 4_000);
    let v6 = |n: u16| Endpoint::new([0x2001, 0xdb8, 1, n, 0, 0, 0, 1], 4_000);
    let ends: [fn(u16) -> Endpoint; 2] = [v4, v6];
    for of_network in ends {
        let mut losers = Vec::new();
        for seed in 0..20 {
            let mut guard = guard();
            for n in 1..=3 {
                assert_eq!(guard.candidates().push(from(n, of_network(n)), &mut rng(seed)), n < 3);
                guard.check_invariants();
            }
            let ids = waiting(&mut guard).into_iter().map(|contact| contact.id);
            let left: Vec<u16> = ids.map(|id| u16::from_be_bytes([id.0[0], id.0[1]])).collect();
            assert!(left.len() == 2 && left.contains(&3), "{left:?}");
            losers.push(if left.contains(&1) { 2 } else { 1 });
        }
        assert!(losers.contains(&1) && losers.contains(&2), "the one that goes is random");
    }
}

#[test]
fn in_a_full_line_a_newcomer_takes_the_place_of_a_random_one() {
    let mut losers = BTreeSet::new();
    for seed in 0..100 {
        let mut guard = guard();
        for n in 1..=256 {
            assert!(guard.candidates().push(candidate(n), &mut rng(seed)));
        }
        assert!(!guard.candidates().push(candidate(300), &mut rng(seed)));
        guard.check_invariants();
        let left = waiting(&mut guard);
        assert!(left.len() == 256 && left.contains(&candidate(300)));
        losers.extend((1..=256).filter(|n| !left.contains(&candidate(*n))));
    }
    // Of 100 at random among 256, some 83 are different ones.
    assert!(losers.len() > 70, "{losers:?}");
}

#[test]
fn of_an_id_that_nobody_else_can_write_one_candidate_waits() {
    let mut guard = guard();
    for n in 1..=100 {
        let repeated = Contact { id: id(1), ..candidate(n) };
        assert_eq!(guard.candidates().push_known(repeated, &mut rng(1)), n == 1);
        guard.check_invariants();
    }
    assert!(guard.candidates().push_known(candidate(101), &mut rng(1)));
    let last = Contact { id: id(1), ..candidate(100) };
    assert_eq!(waiting(&mut guard), [last, candidate(101)]);
}

#[test]
fn a_host_that_has_proved_its_address_is_asked_at_once_but_once_a_minute() {
    let mut guard = guard();
    let may = |guard: &mut Guard, seconds, endpoint| {
        let may = guard.candidates().may_skip(at(seconds), &endpoint);
        guard.check_invariants();
        may
    };
    assert!(may(&mut guard, 0, public(1)));
    assert!(!may(&mut guard, 1, public(1).with_port(9)));
    assert!(may(&mut guard, 1, public(2)));
    assert!(!may(&mut guard, 59, public(1)));
    assert!(may(&mut guard, 60, public(1)));
    let taken = (1_000..2_000).filter(|n| may(&mut guard, 61, public(*n))).count();
    assert_eq!(taken, 255, "256 hosts a minute, one of which was asked before");
}

#[test]
fn a_newcomer_is_asked_beside_forty_forged_packets_a_second() {
    let mut guard = guard();
    let mut rng = rng(1);
    let mut turns: BTreeMap<u16, u64> = BTreeMap::new();
    for second in 0..330 {
        // All at the moment at which ten have been asked, so that there is no place left for others.
        while let Some(next) = guard.candidates().next(at(second)) {
            guard.candidates().asked(at(second));
            if next.id != id(0) {
                turns.entry(u16::from_be_bytes([next.id.0[0], next.id.0[1]])).or_insert(second);
            }
        }
        for _ in 0..40 {
            let mut forged = [0; 4];
            rng.fill_bytes(&mut forged);
            guard.candidates().push(from(0, Endpoint::new(forged, 4_000)), &mut rng);
        }
        // Ten newcomers that send something every five seconds, since the line is full.
        for n in (1..=10).filter(|_| second >= 30 && second % 5 == 0) {
            guard.candidates().push(candidate(n), &mut rng);
        }
        guard.check_invariants();
    }
    println!("first asked after so many seconds: {turns:?}");
    assert_eq!(turns.len(), 10, "{turns:?}");
}

#[test]
fn candidates_are_asked_as_soon_as_the_rate_allows() {
    let mut guard = guard();
    for n in 0..25 {
        push(&mut guard, candidate(n));
    }
    for (start, asked) in [(3, 10), (4, 10), (5, 5)] {
        assert!(guard.candidates().next_at() <= Some(at(start)));
        for _ in 0..asked {
            assert!(guard.candidates().next(at(start)).is_some());
            guard.candidates().asked(at(start));
        }
        assert_eq!(guard.candidates().next(at(start)), None);
    }
    assert_eq!(guard.candidates().next_at(), None);
}

#[test]
fn whoever_is_passed_over_does_not_count_against_the_rate() {
    let mut guard = guard();
    for n in 0..30 {
        push(&mut guard, candidate(n));
    }
    for _ in 0..20 {
        assert!(guard.candidates().next(at(0)).is_some());
    }
    assert_eq!(guard.candidates().next_at(), Some(Time::ZERO));
}

proptest! {
    #[test]
    fn at_most_ten_candidates_are_asked_in_any_one_second(
        waits in prop::collection::vec(0_u64..400_000, 0..100),
    ) {
        let mut guard = guard();
        let mut now = Time::ZERO;
        let mut asked: Vec<Time> = Vec::new();
        for (n, wait) in (0_u16..).zip(waits) {
            for more in 0..5 {
                push(&mut guard, candidate(n * 5 + more));
            }
            now = now + MICRO * u32::try_from(wait).expect("a short wait");
            while guard.candidates().next(now).is_some() {
                guard.candidates().asked(now);
                asked.push(now);
            }
            guard.check_invariants();
            prop_assert!(guard.candidates().next_at().is_none_or(|at| at > now));
        }
        for eleven in asked.windows(11) {
            prop_assert!(eleven[10] - eleven[0] >= SECOND);
        }
    }
}
