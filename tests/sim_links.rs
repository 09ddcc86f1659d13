//! The faults of the way, each alone: what becomes of the datagrams that it strikes.

mod sim_common;

use std::time::Duration;

use chacha20::ChaCha20Rng;
use kadepy::Time;
use kadepy::sim::{Duplication, Fault, Flight, Loss, Partition, Reordering};
use rand_core::SeedableRng;
use sim_common::seed;

const DATAGRAMS: u32 = 20_000;
const LATENCY: Duration = Duration::from_millis(100);

fn rng(default: u64) -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(seed(default))
}

/// The delays of the copies that arrive of a datagram with these ends that leaves at `now`.
fn fly(fault: &mut dyn Fault, now: Time, ends: (u32, u32), rng: &mut ChaCha20Rng) -> Vec<Duration> {
    let mut flight = Flight { now, ends, copies: Default::default() };
    flight.copies.push(LATENCY);
    fault.strike(&mut flight, rng);
    flight.copies.to_vec()
}

/// The copies that arrive of each of many datagrams.
fn fly_many(fault: &mut dyn Fault, rng: &mut ChaCha20Rng) -> Vec<Vec<Duration>> {
    (0..DATAGRAMS).map(|n| fly(fault, Time::ZERO, (n, n + 1), rng)).collect()
}

/// Panics where `count` of the datagrams is not what a share of `expected` comes to by chance: six
/// standard deviations, which a fair run passes once in 10^9.
fn assert_share(count: usize, expected: f64) {
    let of = f64::from(DATAGRAMS);
    let deviation = (of * expected * (1.0 - expected)).sqrt();
    let off = (count as f64 - of * expected).abs();
    assert!(off <= 6.0 * deviation, "{count} of {DATAGRAMS}, expected {expected} of them");
}

#[test]
fn loss_loses_its_share_and_delays_nothing() {
    let mut rng = rng(1);
    for part in [0.0, 0.01, 0.2, 0.5, 0.9, 1.0] {
        let flights = fly_many(&mut Loss(part), &mut rng);
        assert_share(flights.iter().filter(|copies| copies.is_empty()).count(), part);
        assert!(flights.iter().flatten().all(|&delay| delay == LATENCY));
    }
}

#[test]
fn losses_are_independent_of_each_other() {
    let flights = fly_many(&mut Loss(0.2), &mut rng(2));
    let pairs = flights.windows(2).filter(|pair| pair.iter().all(Vec::is_empty)).count();
    // Pairs overlap, so their number scatters somewhat more than that of single ones.
    assert!((600..=1_000).contains(&pairs), "{pairs} pairs lost of 800 expected");
}

#[test]
fn duplication_delivers_its_share_twice_and_the_first_copy_in_time() {
    let mut rng = rng(3);
    for part in [0.0, 0.1, 0.5, 1.0] {
        let flights = fly_many(&mut Duplication(part), &mut rng);
        assert!(flights.iter().all(|copies| copies[0] == LATENCY && copies.len() <= 2));
        assert!(flights.iter().flatten().all(|delay| (LATENCY..2 * LATENCY).contains(delay)));
        assert_share(flights.iter().filter(|copies| copies.len() == 2).count(), part);
    }
}

#[test]
fn duplication_brings_nothing_back_that_was_lost() {
    let mut rng = rng(4);
    let mut flight = Flight { now: Time::ZERO, ends: (1, 2), copies: Default::default() };
    Duplication(1.0).strike(&mut flight, &mut rng);
    assert!(flight.copies.is_empty());
}

#[test]
fn any_number_of_duplications_delivers_a_few_copies() {
    let mut rng = rng(5);
    let mut flight = Flight { now: Time::ZERO, ends: (1, 2), copies: Default::default() };
    flight.copies.push(LATENCY);
    (0..100).for_each(|_| Duplication(1.0).strike(&mut flight, &mut rng));
    assert!((2..=8).contains(&flight.copies.len()));
}

#[test]
fn reordering_holds_its_share_back_for_no_longer_than_it_may() {
    let mut rng = rng(6);
    let longest = Duration::from_millis(300);
    for part in [0.0, 0.3, 1.0] {
        let flights = fly_many(&mut Reordering(part, longest), &mut rng);
        assert!(flights.iter().all(|copies| copies.len() == 1));
        let delays: Vec<Duration> = flights.into_iter().flatten().collect();
        assert!(delays.iter().all(|delay| (LATENCY..LATENCY + longest).contains(delay)));
        assert_share(delays.iter().filter(|&&delay| delay > LATENCY).count(), part);
    }
}

#[test]
fn reordering_lets_later_datagrams_pass() {
    let mut rng = rng(7);
    let mut fault = Reordering(0.5, Duration::from_millis(300));
    let mut arrivals = (0..100_u64).map(|n| {
        let now = Time::from_micros(n * 10_000);
        now + fly(&mut fault, now, (1, 2), &mut rng)[0]
    });
    assert!(!arrivals.by_ref().is_sorted());
}

#[test]
fn a_partition_cuts_both_ways_and_only_between_its_two_sides() {
    let mut rng = rng(8);
    for part in [0.1, 0.5] {
        let mut cut = Partition { share: part, until: Time::MAX, seed: seed(9) };
        let mut reaches = |from, to| !fly(&mut cut, Time::ZERO, (from, to), &mut rng).is_empty();
        // Whoever hears node 0 is on its side.
        let with_first: Vec<bool> = (0..200).map(|node| node == 0 || reaches(0, node)).collect();
        for a in 0..200 {
            for b in 0..200 {
                let is_one_side = with_first[a as usize] == with_first[b as usize];
                assert_eq!(reaches(a, b), is_one_side, "from {a} to {b}");
            }
        }
        let first = with_first.iter().filter(|&&side| side).count();
        let smaller = first.min(200 - first) as f64 / 200.0;
        assert!((smaller - part).abs() < 0.15, "{smaller} of the nodes cut off, not {part}");
    }
}

#[test]
fn a_partition_heals_at_its_moment_and_not_before() {
    let mut rng = rng(10);
    let until = Time::ZERO + Duration::from_secs(1_800);
    let mut cut = Partition { share: 0.5, until, seed: seed(11) };
    let other = (1..64)
        .find(|&node| fly(&mut cut, Time::ZERO, (0, node), &mut rng).is_empty())
        .expect("somebody is on the other side");
    let just_before = Time::from_micros(until.as_micros() - 1);
    assert!(fly(&mut cut, just_before, (0, other), &mut rng).is_empty());
    assert!(fly(&mut cut, just_before, (other, 0), &mut rng).is_empty());
    assert_eq!(fly(&mut cut, until, (0, other), &mut rng), [LATENCY]);
    assert_eq!(fly(&mut cut, until, (other, 0), &mut rng), [LATENCY]);
}

#[test]
fn equal_seeds_strike_the_same_datagrams() {
    let strike = |bits| {
        let mut rng = ChaCha20Rng::seed_from_u64(bits);
        let mut faults: [&mut dyn Fault; 3] =
            [&mut Loss(0.2), &mut Duplication(0.2), &mut Reordering(0.2, LATENCY)];
        faults.iter_mut().map(|fault| fly_many(*fault, &mut rng)).collect::<Vec<_>>()
    };
    let bits = seed(12);
    assert!(strike(bits) == strike(bits));
    assert!(strike(bits) != strike(bits + 1));
}
