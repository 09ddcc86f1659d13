//! Stored topics and peers from outside: how long they live, who goes when it is full, what a sample
//! holds.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use arrayvec::ArrayVec;
use chacha20::ChaCha20Rng;
use common::{id, public};
use kadepy::dht::storage::{Storage, StoreError};
use kadepy::{Config, Endpoint, NodeId, Time};
use proptest::prelude::*;
use rand_core::SeedableRng;

/// With this own id, topic `id(n)` is the farther the greater `n` is.
const OWN: NodeId = NodeId::ZERO;
const LIFE: Duration = Duration::from_secs(1_800);
const MICRO: Duration = Duration::from_micros(1);

fn storage() -> Storage {
    Storage::new(OWN, &Config::default())
}

fn at(seconds: u64) -> Time {
    Time::ZERO + Duration::from_secs(seconds)
}

fn store(storage: &mut Storage, now: Time, topic: u16, peer: Endpoint) -> Result<(), StoreError> {
    let result = storage.store(now, id(topic), peer);
    storage.check_invariants();
    result
}

/// All that is alive of a topic.
fn all(storage: &Storage, now: Time, topic: u16) -> BTreeSet<Endpoint> {
    let peers = sample(storage, now, topic, usize::MAX, 0);
    let set: BTreeSet<Endpoint> = peers.iter().copied().collect();
    assert_eq!(set.len(), peers.len(), "a peer twice");
    set
}

fn sample(storage: &Storage, now: Time, topic: u16, max: usize, seed: u64) -> Vec<Endpoint> {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let mut sample = ArrayVec::<Endpoint, 1_000>::new();
    storage.sample(now, id(topic), max, |_| true, &mut rng, &mut sample);
    sample.to_vec()
}

// Life

#[test]
fn a_record_lives_30_minutes() {
    let mut storage = storage();
    store(&mut storage, at(10), 1, public(1)).unwrap();
    let end = at(10) + LIFE;
    let just_before = Time::from_micros(end.as_micros() - 1);
    assert_eq!(all(&storage, just_before, 1), [public(1)].into());
    assert_eq!(all(&storage, end, 1), [].into());
}

#[test]
fn announcing_again_makes_a_record_young() {
    let mut storage = storage();
    store(&mut storage, at(0), 1, public(1)).unwrap();
    store(&mut storage, at(1_000), 1, public(1)).unwrap();
    assert_eq!(storage.records(), 1);
    assert_eq!(all(&storage, at(2_799), 1), [public(1)].into());
    assert_eq!(all(&storage, at(2_800), 1), [].into());
}

#[test]
fn a_sweep_drops_what_is_too_old_and_nothing_else() {
    let mut storage = storage();
    store(&mut storage, at(0), 1, public(1)).unwrap();
    store(&mut storage, at(100), 1, public(2)).unwrap();
    store(&mut storage, at(0), 2, public(1)).unwrap();
    storage.sweep(at(0) + LIFE, 10);
    storage.check_invariants();
    assert_eq!((storage.topics(), storage.records()), (1, 1));
    assert_eq!(all(&storage, at(0), 1), [public(2)].into());
}

#[test]
fn sweeps_of_a_few_topics_reach_every_topic() {
    for share in 1..=11 {
        let mut storage = storage();
        for topic in 0..10 {
            store(&mut storage, at(0), topic, public(1)).unwrap();
        }
        // The first sweep goes by while nothing is old, so that the next do not begin at the start.
        storage.sweep(at(1), share);
        for _ in 0..10_usize.div_ceil(share) + 1 {
            storage.sweep(at(0) + LIFE, share);
            storage.check_invariants();
        }
        assert_eq!(storage.topics(), 0, "{share} topics a sweep");
    }
}

#[test]
fn a_sweep_goes_on_where_the_last_one_stopped() {
    let mut storage = storage();
    for topic in 0..10 {
        store(&mut storage, at(0), topic, public(1)).unwrap();
    }
    storage.sweep(at(1), 5);
    storage.sweep(at(0) + LIFE, 5);
    let left: Vec<u16> = (0..10).filter(|topic| !all(&storage, at(0), *topic).is_empty()).collect();
    assert_eq!(left, [0, 1, 2, 3, 4]);
}

#[test]
fn a_cleanup_drops_records_of_an_age() {
    let mut storage = storage();
    for topic in 1..=3 {
        store(&mut storage, at(topic.into()), topic, public(1)).unwrap();
    }
    storage.cleanup(at(10), Duration::from_secs(8));
    storage.check_invariants();
    assert_eq!((storage.topics(), storage.records()), (1, 1));
    assert_eq!(all(&storage, at(10), 3), [public(1)].into());
    storage.cleanup(at(10), Duration::ZERO);
    assert_eq!((storage.topics(), storage.records()), (0, 0));
}

// Caps

#[test]
fn a_full_topic_drops_its_oldest_peer() {
    let mut storage = storage();
    for n in 0..256 {
        store(&mut storage, at(n.into()), 1, public(n)).unwrap();
    }
    store(&mut storage, at(300), 1, public(0)).unwrap();
    store(&mut storage, at(301), 1, public(999)).unwrap();
    assert_eq!(storage.records(), 256);
    let expected = (0..256).filter(|n| *n != 1).chain([999]).map(public).collect();
    assert_eq!(all(&storage, at(301), 1), expected);
}

#[test]
fn when_topics_are_full_the_farthest_goes() {
    let mut storage = Storage::new(OWN, &Config { topics: 3, ..Config::default() });
    for topic in [1, 9, 5] {
        store(&mut storage, at(0), topic, public(1)).unwrap();
        store(&mut storage, at(0), topic, public(2)).unwrap();
    }
    store(&mut storage, at(1), 4, public(3)).unwrap();
    assert_eq!((storage.topics(), storage.records()), (3, 5));
    assert_eq!(all(&storage, at(1), 9), [].into());
    assert_eq!(all(&storage, at(1), 4), [public(3)].into());
}

#[test]
fn a_topic_farther_than_all_held_is_refused_when_full() {
    let mut storage = Storage::new(OWN, &Config { topics: 2, ..Config::default() });
    store(&mut storage, at(0), 1, public(1)).unwrap();
    store(&mut storage, at(0), 5, public(1)).unwrap();
    assert_eq!(store(&mut storage, at(1), 6, public(1)), Err(StoreError::Full));
    assert_eq!((storage.topics(), storage.records()), (2, 2));
    store(&mut storage, at(1), 5, public(2)).expect("a topic that is held takes more peers");
}

#[test]
fn when_records_are_full_the_farthest_topic_goes() {
    let mut storage = Storage::new(OWN, &Config { records: 4, ..Config::default() });
    for (topic, peer) in [(1, 1), (7, 1), (7, 2), (3, 1)] {
        store(&mut storage, at(0), topic, public(peer)).unwrap();
    }
    store(&mut storage, at(1), 1, public(2)).unwrap();
    assert_eq!((storage.topics(), storage.records()), (2, 3));
    assert_eq!(all(&storage, at(1), 7), [].into());

    store(&mut storage, at(1), 3, public(2)).unwrap();
    assert_eq!(store(&mut storage, at(1), 3, public(3)), Err(StoreError::Full));
    assert_eq!(store(&mut storage, at(1), 4, public(3)), Err(StoreError::Full));
    store(&mut storage, at(1), 3, public(2)).expect("what is held may always become young");
    assert_eq!(storage.records(), 4);
}

#[test]
fn one_address_has_at_most_1000_records_whatever_its_ports() {
    let mut storage = storage();
    for n in 0..1_000 {
        let peer = public(1).with_port(1 + n);
        storage.store(at(0), id(n / 100), peer).unwrap();
    }
    storage.check_invariants();
    assert_eq!(store(&mut storage, at(1), 50, public(1)), Err(StoreError::Quota));
    assert_eq!(store(&mut storage, at(1), 0, public(1)), Err(StoreError::Quota));
    store(&mut storage, at(1), 0, public(1).with_port(1)).expect("it may become young");
    store(&mut storage, at(1), 0, public(2)).expect("another address");
}

#[test]
fn local_addresses_have_no_quota() {
    let mut storage = Storage::new(OWN, &Config { records_per_ip: 1, ..Config::default() });
    let local = Endpoint::new([192, 168, 0, 1], 4_000);
    for topic in 0..5 {
        store(&mut storage, at(0), topic, local).unwrap();
    }
    assert_eq!(storage.records(), 5);
}

#[test]
fn a_dropped_record_gives_its_quota_back() {
    let mut storage = Storage::new(
        OWN,
        &Config { records_per_ip: 1, topic_peers: 1, topics: 2, ..Config::default() },
    );
    store(&mut storage, at(0), 5, public(1)).unwrap();
    assert_eq!(store(&mut storage, at(0), 6, public(1)), Err(StoreError::Quota));
    store(&mut storage, at(1), 5, public(2)).expect("the oldest of a full topic goes");
    store(&mut storage, at(1), 6, public(1)).unwrap();
    store(&mut storage, at(1), 1, public(3)).expect("the farthest topic goes");
    store(&mut storage, at(1), 5, public(1)).expect("the oldest of a full topic goes");
    storage.sweep(at(1) + LIFE, 10);
    store(&mut storage, at(2) + LIFE, 1, public(1)).unwrap();
}

// Samples

#[test]
fn a_sample_holds_each_peer_once_and_at_most_as_many_as_asked() {
    let mut storage = storage();
    for n in 0..100 {
        store(&mut storage, at(0), 1, public(n)).unwrap();
    }
    for (seed, max) in (0..).zip([0, 1, 10, 64, 99, 100, 1_000]) {
        let peers = sample(&storage, at(1), 1, max, seed);
        assert_eq!(peers.len(), max.min(100));
        assert_eq!(peers.iter().collect::<BTreeSet<_>>().len(), peers.len());
    }
    assert_eq!(sample(&storage, at(1), 2, 10, 0), []);
}

#[test]
fn every_peer_is_as_likely_to_be_in_a_sample() {
    let mut storage = storage();
    for n in 0..100 {
        store(&mut storage, at(0), 1, public(n)).unwrap();
    }
    let mut times: BTreeMap<Endpoint, u32> = BTreeMap::new();
    for seed in 0..2_000 {
        for peer in sample(&storage, at(1), 1, 10, seed) {
            *times.entry(peer).or_default() += 1;
        }
    }
    // 200 times each on average, with a standard deviation of 13.4.
    assert_eq!(times.len(), 100);
    assert!(times.values().all(|times| (130..270).contains(times)), "{times:?}");
}

#[test]
fn a_sample_is_of_those_that_are_wanted_and_alive() {
    let mut storage = storage();
    for n in 0..60 {
        store(&mut storage, at(n.into()), 1, public(n)).unwrap();
    }
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let is_even = |peer: &Endpoint| peer.ip_bytes()[15].is_multiple_of(2);
    let mut sample = |max| {
        let mut peers = ArrayVec::<Endpoint, 100>::new();
        let total = storage.sample(at(30) + LIFE, id(1), max, is_even, &mut rng, &mut peers);
        (peers, total)
    };
    let (peers, total) = sample(100);
    let expected: Vec<Endpoint> = (31..60).filter(|n| n % 2 == 0).map(public).collect();
    assert_eq!(total, 14);
    assert_eq!(peers.into_iter().collect::<BTreeSet<_>>(), expected.into_iter().collect());
    let (peers, total) = sample(4);
    assert_eq!((peers.len(), total), (4, 14), "the count is of all, not of the sample");
}

// Whatever happens

/// The rules as plainly as they can be written: one list, the oldest record first.
#[derive(Default)]
struct Model(Vec<(u16, Endpoint, Time)>);

/// Small enough to be full all the time.
fn small() -> Config {
    Config {
        topics: 4,
        topic_peers: 3,
        records: 8,
        records_per_ip: 3,
        record_life: Duration::from_secs(60),
        ..Config::default()
    }
}

impl Model {
    fn of(&self, topic: u16) -> usize {
        self.0.iter().filter(|(of, ..)| *of == topic).count()
    }

    fn topics(&self) -> BTreeSet<u16> {
        self.0.iter().map(|(topic, ..)| *topic).collect()
    }

    fn store(&mut self, now: Time, topic: u16, peer: Endpoint) -> Result<(), StoreError> {
        let config = small();
        let known = self.0.iter().position(|(of, is, _)| (*of, *is) == (topic, peer));
        let from_there = self.0.iter().filter(|(_, is, _)| is.ip() == peer.ip()).count();
        if let Some(at) = known {
            self.0.remove(at);
        } else if !peer.is_local() && from_there >= config.records_per_ip {
            return Err(StoreError::Quota);
        } else if self.of(topic) >= config.topic_peers {
            let oldest = self.0.iter().position(|(of, ..)| *of == topic);
            self.0.remove(oldest.expect("a full topic has an oldest peer"));
        } else if self.0.len() >= config.records
            || self.of(topic) == 0 && self.topics().len() >= config.topics
        {
            match self.topics().last() {
                Some(&farthest) if farthest > topic => self.0.retain(|(of, ..)| *of != farthest),
                _ => return Err(StoreError::Full),
            }
        }
        self.0.push((topic, peer, now));
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum Step {
    Store { topic: u16, peer: Endpoint },
    Sweep { topics: usize },
    Cleanup { age: Duration },
    Wait { span: Duration },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let peer = (0_u16..6, 0_u16..3, any::<bool>()).prop_map(|(n, port, is_local)| {
        let host = if is_local { Endpoint::new([10, 0, 0, n as u8], 0) } else { public(n) };
        host.with_port(5_000 + port)
    });
    let seconds = |max| (0_u64..max).prop_map(Duration::from_secs);
    let step = prop_oneof![
        20 => (0_u16..8, peer).prop_map(|(topic, peer)| Step::Store { topic, peer }),
        3 => seconds(20).prop_map(|span| Step::Wait { span }),
        1 => (0_usize..6).prop_map(|topics| Step::Sweep { topics }),
        1 => seconds(80).prop_map(|age| Step::Cleanup { age }),
    ];
    prop::collection::vec(step, 0..120)
}

proptest! {
    #[test]
    fn any_sequence_of_events_keeps_the_rules(steps in steps()) {
        let mut storage = Storage::new(OWN, &small());
        let mut model = Model::default();
        let mut now = Time::ZERO;
        for step in steps {
            match step {
                Step::Store { topic, peer } => {
                    prop_assert_eq!(storage.store(now, id(topic), peer), model.store(now, topic, peer));
                }
                Step::Sweep { topics } => {
                    storage.sweep(now, topics);
                    // Which of the old are swept is its own affair, so the model is swept to match.
                    let life = small().record_life;
                    model.0.retain(|(topic, peer, stored)| {
                        let is_alive = now - *stored < life;
                        is_alive || all(&storage, *stored, *topic).contains(peer)
                    });
                }
                Step::Cleanup { age } => {
                    storage.cleanup(now, age);
                    model.0.retain(|(_, _, stored)| now - *stored < age);
                }
                Step::Wait { span } => now = now + span + MICRO,
            }
            storage.check_invariants();
            prop_assert_eq!(storage.records(), model.0.len());
            prop_assert_eq!(storage.topics(), model.topics().len());
            for topic in 0..8 {
                let alive = |(of, _, stored): &&(u16, Endpoint, Time)| {
                    *of == topic && now - *stored < small().record_life
                };
                let expected = model.0.iter().filter(alive).map(|(_, peer, _)| *peer).collect();
                prop_assert_eq!(all(&storage, now, topic), expected);
            }
        }
    }
}
