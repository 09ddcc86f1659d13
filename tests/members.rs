//! The peers known of a joined topic, from outside the crate.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kadepy::dht::members::{IP_MAX, Members};
use kadepy::{Endpoint, Time};
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn public(host: u8, port: u16) -> Endpoint {
    Endpoint::new([203, 0, 113, host], port)
}

fn known(members: &Members) -> Vec<Endpoint> {
    members.after(0).into_iter().map(|(_, peer)| peer).collect()
}

#[test]
fn each_peer_is_given_once_in_the_order_of_arrival() {
    let mut members = Members::default();
    for host in [3, 1, 2] {
        members.meet(Time::ZERO, public(host, 80), 10);
    }
    members.meet(Time::ZERO + SECOND, public(3, 80), 10);
    assert_eq!(known(&members), [public(3, 80), public(1, 80), public(2, 80)]);
    let (first, _) = members.after(0)[0];
    assert_eq!(members.after(first).len(), 2);
    assert_eq!(members.after(members.arrivals()), []);
}

#[test]
fn where_all_places_are_taken_the_one_seen_longest_ago_goes() {
    let mut members = Members::default();
    let at = |seconds: u32| Time::ZERO + SECOND * seconds;
    for host in 1..=3 {
        members.meet(at(host.into()), public(host, 80), 3);
    }
    members.meet(at(4), public(1, 80), 3);
    members.meet(at(5), public(4, 80), 3);
    assert_eq!(known(&members), [public(1, 80), public(3, 80), public(4, 80)]);
    members.meet(at(6), public(5, 80), 0);
    assert_eq!(members.len(), 3);
}

#[test]
fn one_address_takes_64_places_and_a_local_one_any_number() {
    let mut members = Members::default();
    for port in 1..=1_000 {
        members.meet(Time::ZERO, public(1, port), 10_000);
    }
    assert_eq!(members.len(), IP_MAX);
    members.meet(Time::ZERO, public(2, 80), 10_000);
    assert_eq!(members.len(), IP_MAX + 1);
    for port in 1..=1_000 {
        members.meet(Time::ZERO, Endpoint::new([127, 0, 0, 1], port), 10_000);
    }
    assert_eq!(members.len(), IP_MAX + 1_001);
}

#[test]
fn who_was_not_seen_for_a_life_is_forgotten_and_then_new() {
    let mut members = Members::default();
    members.meet(Time::ZERO, public(1, 80), 10);
    members.meet(Time::ZERO + SECOND, public(2, 80), 10);
    members.forget_old(Time::ZERO + 9 * SECOND, 10 * SECOND);
    assert_eq!(members.len(), 2);
    members.forget_old(Time::ZERO + 10 * SECOND, 10 * SECOND);
    assert_eq!(known(&members), [public(2, 80)]);
    let last = members.arrivals();
    members.meet(Time::ZERO + 10 * SECOND, public(1, 80), 10);
    assert_eq!(members.after(last), [(last + 1, public(1, 80))]);
}

proptest! {
    #[test]
    fn whatever_comes_it_knows_those_seen_last(
        seen in prop::collection::vec((1_u8..30, 0_u32..3), 0..200),
        max in 1_usize..20,
    ) {
        let mut members = Members::default();
        let mut last_seen = BTreeMap::new();
        let mut now = Time::ZERO;
        for (host, pause) in seen {
            now = now + SECOND * pause + Duration::from_micros(1);
            members.meet(now, public(host, 80), max);
            last_seen.insert(public(host, 80), now);
            members.check_invariants();
        }
        let mut newest: Vec<_> = last_seen.into_iter().map(|(peer, at)| (at, peer)).collect();
        newest.sort_unstable();
        let expected: BTreeSet<Endpoint> =
            newest.into_iter().rev().take(max).map(|(_, peer)| peer).collect();
        prop_assert_eq!(known(&members).into_iter().collect::<BTreeSet<_>>(), expected);
    }
}
