//! Stored topics and peers from outside: how long they live, who goes when it is full, what a sample
//! holds.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use chacha20::ChaCha20Rng;
use common::{id, public};
use kadepy::dht::storage::{Storage, StoreError};
use kadepy::{Config, Endpoint, Time};
use proptest::prelude::*;
use rand_core::SeedableRng;

const LIFE: Duration = Duration::from_secs(1_800);
const MICRO: Duration = Duration::from_micros(1);

fn storage() -> Storage {
    Storage::new(&Config::default())
}

fn at(seconds: u64) -> Time {
    Time::ZERO + Duration::from_secs(seconds)
}

/// Stores a peer that was announced with a token.
fn store(storage: &mut Storage, now: Time, topic: u16, peer: Endpoint) -> Result<(), StoreError> {
    let result = storage.store(now, id(topic), peer, true);
    storage.check_invariants();
    result
}

/// Stores one that was announced without.
fn store_unproved(
    storage: &mut Storage,
    now: Time,
    topic: u16,
    peer: Endpoint,
) -> Result<(), StoreError> {
    let result = storage.store(now, id(topic), peer, false);
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
    storage.sample::<1_000>(now, id(topic), max, |_| true, &mut rng).0.to_vec()
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

/// What is left of a topic that 256 hosts keep, after another stores 1,000 peers of its own.
fn beside_a_crowd(peer: impl Fn(u16) -> Endpoint) -> usize {
    let mut storage = storage();
    for n in 0..256 {
        store(&mut storage, at(n.into()), 1, public(n)).expect("there is room");
    }
    for n in 0..1_000 {
        store(&mut storage, at(300), 1, peer(n)).expect("room is made");
    }
    let left = all(&storage, at(301), 1);
    assert_eq!(left.len(), 256);
    (0..256).filter(|n| left.contains(&public(*n))).count()
}

#[test]
fn one_host_does_not_empty_a_topic_whatever_its_ports() {
    // One goes when the host has nothing yet, one when it has no more than the others.
    assert_eq!(beside_a_crowd(|n| public(999).with_port(1 + n)), 254);
    assert_eq!(beside_a_crowd(|n| Endpoint::new([192, 168, 0, 1], 1 + n)), 254);
    let of_one_network = |n| Endpoint::new([0x2001, 0xdb8, 0, 0, 0, 0, 0, n], 4_000);
    assert_eq!(beside_a_crowd(of_one_network), 254);
}

#[test]
fn in_a_full_topic_the_oldest_peer_goes_of_the_host_that_has_most_of_it() {
    let mut storage = Storage::new(&Config { topic_peers: 5, ..Config::default() });
    let crowd = |port| public(9).with_port(port);
    for (seconds, peer) in (0..).zip([public(1), crowd(1), public(2), crowd(2), public(3)]) {
        store(&mut storage, at(seconds), 1, peer).unwrap();
    }
    store(&mut storage, at(5), 1, crowd(1)).expect("it may become young");
    // What it has of other topics does not matter here.
    for topic in 2..9 {
        store(&mut storage, at(6), topic, public(3)).unwrap();
    }
    store(&mut storage, at(7), 1, public(4)).unwrap();
    let expected = [public(1), public(2), public(3), public(4), crowd(1)];
    assert_eq!(all(&storage, at(7), 1), expected.into());
    store(&mut storage, at(8), 1, public(5)).unwrap();
    assert!(!all(&storage, at(8), 1).contains(&public(1)), "of equals, the one with the oldest");
}

#[test]
fn when_records_are_full_the_oldest_goes_of_the_host_that_has_most() {
    let mut storage = Storage::new(&Config { records: 5, ..Config::default() });
    for (seconds, topic, peer) in [(0, 1, 1), (1, 2, 9), (2, 3, 9), (3, 3, 2), (4, 2, 3)] {
        store(&mut storage, at(seconds), topic, public(peer)).unwrap();
    }
    store(&mut storage, at(5), 4, public(4)).unwrap();
    assert_eq!(storage.records(), 5);
    assert_eq!(all(&storage, at(5), 2), [public(3)].into(), "the oldest of the one that has two");
    store(&mut storage, at(6), 4, public(5)).unwrap();
    assert_eq!(all(&storage, at(6), 1), [].into(), "of equals, the one with the oldest");
    store(&mut storage, at(7), 3, public(2)).expect("what is held may always become young");
    assert_eq!(storage.records(), 5);
}

#[test]
fn a_local_host_makes_room_like_any_other() {
    let mut storage = Storage::new(&Config { records: 4, ..Config::default() });
    let local = Endpoint::new([127, 0, 0, 1], 4_000);
    store(&mut storage, at(0), 1, public(1)).unwrap();
    for topic in 2..=4 {
        store(&mut storage, at(topic.into()), topic, local.with_port(topic)).unwrap();
    }
    store(&mut storage, at(5), 1, public(2)).unwrap();
    assert_eq!((storage.topics(), storage.records()), (3, 4));
    assert_eq!(all(&storage, at(5), 1), [public(1), public(2)].into());
}

#[test]
fn when_topics_are_full_records_go_of_the_host_that_has_most_until_one_is_free() {
    let mut storage = Storage::new(&Config { topics: 3, ..Config::default() });
    let (crowd, other) = (public(9), public(8));
    for (topic, peer) in [(1, other), (1, crowd), (2, crowd), (2, public(1)), (3, crowd)] {
        store(&mut storage, at(0), topic, peer).unwrap();
    }
    store(&mut storage, at(1), 1, crowd).expect("it may become young");
    store(&mut storage, at(2), 4, public(2)).unwrap();
    // Its record of topic 2 frees no topic, that of topic 3 does, so that of topic 1 stays.
    let left = [1, 2, 3, 4].map(|topic| all(&storage, at(2), topic));
    assert_eq!(left, [[other, crowd].into(), [public(1)].into(), [].into(), [public(2)].into()]);
    // Then the oldest of all those who have one.
    for topic in 5..=6 {
        store(&mut storage, at(3), topic, public(topic)).unwrap();
    }
    let left = [1, 2, 4, 5, 6].map(|topic| all(&storage, at(3), topic).len());
    assert_eq!(left, [0, 0, 1, 1, 1]);
}

#[test]
fn one_host_does_not_empty_a_store_by_topics_of_its_own() {
    let mut storage = storage();
    for topic in 0..10_000 {
        storage.store(at(0), id(topic), public(topic / 10), true).unwrap();
    }
    for topic in 10_000..40_000 {
        let _ = storage.store(at(1), id(topic), public(5_000), true);
    }
    storage.check_invariants();
    let lost = (0..10_000).filter(|topic| all(&storage, at(1), *topic).is_empty()).count();
    // It gets as many topics as each of the others has, and then displaces its own.
    assert_eq!((storage.topics(), lost), (10_000, 11));
}

#[test]
fn one_store_drops_at_most_256_records_and_the_next_goes_on() {
    let mut storage = Storage::new(&Config { topics: 300, ..Config::default() });
    for topic in 0..300 {
        for host in 0..2 {
            storage.store(at(host.into()), id(topic), public(host), true).unwrap();
        }
    }
    assert_eq!(store(&mut storage, at(2), 300, public(3)), Err(StoreError::Full));
    assert_eq!((storage.topics(), storage.records()), (300, 600 - 256));
    store(&mut storage, at(2), 300, public(3)).unwrap();
}

// Proof

#[test]
fn a_record_without_a_token_displaces_none_that_had_one() {
    let full = || {
        let limits = Config { topics: 2, topic_peers: 2, records: 4, ..Config::default() };
        let mut storage = Storage::new(&limits);
        for (topic, peer) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
            store(&mut storage, at(0), topic, public(peer)).unwrap();
        }
        storage
    };
    for topic in 1..=3 {
        let mut storage = full();
        assert_eq!(store_unproved(&mut storage, at(1), topic, public(3)), Err(StoreError::Full));
        assert_eq!((storage.topics(), storage.records()), (2, 4));
        store(&mut storage, at(1), topic, public(3)).expect("with a token it may");
    }
    let limits = Config { records: 2, ..Config::default() };
    let mut storage = Storage::new(&limits);
    store(&mut storage, at(0), 1, public(1)).unwrap();
    store(&mut storage, at(0), 1, public(2)).unwrap();
    assert_eq!(store_unproved(&mut storage, at(1), 1, public(3)), Err(StoreError::Full));
}

#[test]
fn a_record_without_a_token_displaces_one_without() {
    for limits in
        [Config { topic_peers: 3, ..Config::default() }, Config { records: 3, ..Config::default() }]
    {
        let mut storage = Storage::new(&limits);
        store(&mut storage, at(0), 1, public(1).with_port(1)).unwrap();
        store(&mut storage, at(0), 1, public(1).with_port(2)).unwrap();
        store_unproved(&mut storage, at(1), 1, public(2)).unwrap();
        store_unproved(&mut storage, at(2), 1, public(3)).unwrap();
        let expected = [public(1).with_port(1), public(1).with_port(2), public(3)];
        assert_eq!(all(&storage, at(2), 1), expected.into());
    }
}

#[test]
fn renewing_a_record_without_a_token_does_not_lose_its_proof() {
    let mut storage = Storage::new(&Config { topic_peers: 1, ..Config::default() });
    store(&mut storage, at(0), 1, public(1)).unwrap();
    store_unproved(&mut storage, at(1), 1, public(1)).unwrap();
    assert_eq!(store_unproved(&mut storage, at(2), 1, public(2)), Err(StoreError::Full));
}

#[test]
fn renewing_a_record_with_a_token_proves_it() {
    let mut storage = Storage::new(&Config { topic_peers: 1, ..Config::default() });
    store_unproved(&mut storage, at(0), 1, public(1)).unwrap();
    store(&mut storage, at(1), 1, public(1)).unwrap();
    assert_eq!(store_unproved(&mut storage, at(2), 1, public(2)), Err(StoreError::Full));
}

// Quota

#[test]
fn one_address_has_at_most_1000_records_whatever_its_ports() {
    let mut storage = storage();
    for n in 0..1_000 {
        let peer = public(1).with_port(1 + n);
        storage.store(at(0), id(n / 100), peer, true).unwrap();
    }
    storage.check_invariants();
    assert_eq!(store(&mut storage, at(1), 50, public(1)), Err(StoreError::Quota));
    assert_eq!(store(&mut storage, at(1), 0, public(1)), Err(StoreError::Quota));
    store(&mut storage, at(1), 0, public(1).with_port(1)).expect("it may become young");
    store(&mut storage, at(1), 0, public(2)).expect("another address");
}

#[test]
fn local_addresses_have_no_quota() {
    let mut storage = Storage::new(&Config { records_per_ip: 1, ..Config::default() });
    let local = Endpoint::new([192, 168, 0, 1], 4_000);
    for topic in 0..5 {
        store(&mut storage, at(0), topic, local).unwrap();
    }
    assert_eq!(storage.records(), 5);
}

#[test]
fn a_dropped_record_gives_its_quota_back() {
    let mut storage =
        Storage::new(&Config { records_per_ip: 1, topic_peers: 1, topics: 2, ..Config::default() });
    store(&mut storage, at(0), 5, public(1)).unwrap();
    assert_eq!(store(&mut storage, at(0), 6, public(1)), Err(StoreError::Quota));
    store(&mut storage, at(1), 5, public(2)).expect("the oldest of a full topic goes");
    store(&mut storage, at(2), 6, public(1)).unwrap();
    store(&mut storage, at(3), 1, public(3)).expect("the oldest record goes, and its topic");
    assert_eq!(store(&mut storage, at(3), 1, public(1)), Err(StoreError::Quota));
    store(&mut storage, at(4), 5, public(2)).unwrap();
    storage.sweep(at(3) + LIFE, 10);
    store(&mut storage, at(4) + LIFE, 1, public(1)).unwrap();
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
    let (peers, total) = storage.sample::<100>(at(30) + LIFE, id(1), 100, is_even, &mut rng);
    let expected: Vec<Endpoint> = (31..60).filter(|n| n % 2 == 0).map(public).collect();
    assert_eq!(total, 14);
    assert_eq!(peers.into_iter().collect::<BTreeSet<_>>(), expected.into_iter().collect());
    let (peers, total) = storage.sample::<100>(at(30) + LIFE, id(1), 4, is_even, &mut rng);
    assert_eq!((peers.len(), total), (4, 14), "the count is of all, not of the sample");
}

// Whatever happens

/// The rules as plainly as they can be written: one list, the oldest record first.
#[derive(Default)]
struct Model(Vec<Known>);

#[derive(Clone, Copy)]
struct Known {
    topic: u16,
    peer: Endpoint,
    stored: Time,
    is_proved: bool,
}

/// Small enough to be full all the time.
fn small() -> Config {
    Config {
        topics: 4,
        topic_peers: 4,
        records: 10,
        records_per_ip: 4,
        record_life: Duration::from_secs(60),
        ..Config::default()
    }
}

/// What tells hosts apart: an IPv4 address, or the first half of an IPv6 address.
fn host(peer: &Endpoint) -> Vec<u8> {
    match peer.ip() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets()[..8].to_vec(),
    }
}

impl Model {
    fn topics(&self) -> BTreeSet<u16> {
        self.0.iter().map(|known| known.topic).collect()
    }

    fn store(&mut self, new: Known) -> Result<(), StoreError> {
        let config = small();
        let is_same = |known: &Known| (known.topic, known.peer) == (new.topic, new.peer);
        if let Some(at) = self.0.iter().position(is_same) {
            let known = self.0.remove(at);
            self.0.push(Known { is_proved: new.is_proved || known.is_proved, ..new });
            return Ok(());
        }
        let is_of_host = |known: &&Known| host(&known.peer) == host(&new.peer);
        let from_there = self.0.iter().filter(is_of_host).count();
        if !new.peer.is_local() && from_there >= config.records_per_ip {
            return Err(StoreError::Quota);
        }
        let of_topic = self.0.iter().filter(|known| known.topic == new.topic).count();
        if of_topic >= config.topic_peers {
            self.make_room(None, new.is_proved, |known| known.topic == new.topic)?;
        }
        let mut loser = None;
        while self.0.len() >= config.records
            || of_topic == 0 && self.topics().len() >= config.topics
        {
            loser = Some(self.make_room(loser, new.is_proved, |_| true)?);
        }
        self.0.push(new);
        Ok(())
    }

    /// Drops the oldest record of the host that has most of those in question, of several hosts, of
    /// the one whose oldest stands first, or of the same one as the last time.
    fn make_room(
        &mut self,
        last: Option<Vec<u8>>,
        is_proved: bool,
        is_in_question: impl Fn(&Known) -> bool,
    ) -> Result<Vec<u8>, StoreError> {
        let may_go = |known: &&Known| is_in_question(known) && (is_proved || !known.is_proved);
        let hosts: Vec<Vec<u8>> =
            self.0.iter().filter(may_go).map(|known| host(&known.peer)).collect();
        let count = |of: &Vec<u8>| hosts.iter().filter(|host| *host == of).count();
        let most = hosts.iter().map(count).max().ok_or(StoreError::Full)?;
        let mut loser = hosts.iter().find(|of| count(of) == most).expect("somebody has most");
        loser = last.as_ref().filter(|last| hosts.contains(last)).unwrap_or(loser);
        let at = self.0.iter().position(|known| may_go(&known) && host(&known.peer) == *loser);
        let loser = loser.clone();
        self.0.remove(at.expect("the host has a record"));
        Ok(loser)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Store { topic: u16, peer: Endpoint, is_proved: bool },
    Sweep { topics: usize },
    Cleanup { age: Duration },
    Wait { span: Duration },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let peer = (0_u16..6, 0_u16..4, 0..3).prop_map(|(n, port, kind)| {
        let host = match kind {
            0 => Endpoint::new([10, 0, 0, n as u8], 0),
            1 => public(n),
            _ => Endpoint::new([0x2001, 0xdb8, 0, n / 2, 0, 0, 0, n], 0),
        };
        host.with_port(5_000 + port)
    });
    let seconds = |max| (0_u64..max).prop_map(Duration::from_secs);
    let step = prop_oneof![
        20 => (0_u16..8, peer, any::<bool>())
            .prop_map(|(topic, peer, is_proved)| Step::Store { topic, peer, is_proved }),
        3 => seconds(20).prop_map(|span| Step::Wait { span }),
        1 => (0_usize..6).prop_map(|topics| Step::Sweep { topics }),
        1 => seconds(80).prop_map(|age| Step::Cleanup { age }),
    ];
    prop::collection::vec(step, 0..120)
}

proptest! {
    #[test]
    fn any_sequence_of_events_keeps_the_rules(steps in steps()) {
        let mut storage = Storage::new(&small());
        let mut model = Model::default();
        let mut now = Time::ZERO;
        for step in steps {
            match step {
                Step::Store { topic, peer, is_proved } => {
                    let known = Known { topic, peer, stored: now, is_proved };
                    let result = storage.store(now, id(topic), peer, is_proved);
                    prop_assert_eq!(result, model.store(known));
                }
                Step::Sweep { topics } => {
                    storage.sweep(now, topics);
                    // Which of the old are swept is its own affair, so the model is swept to match.
                    let life = small().record_life;
                    model.0.retain(|known| {
                        let is_alive = now - known.stored < life;
                        is_alive || all(&storage, known.stored, known.topic).contains(&known.peer)
                    });
                }
                Step::Cleanup { age } => {
                    storage.cleanup(now, age);
                    model.0.retain(|known| now - known.stored < age);
                }
                Step::Wait { span } => now = now + span + MICRO,
            }
            storage.check_invariants();
            prop_assert_eq!(storage.records(), model.0.len());
            prop_assert_eq!(storage.topics(), model.topics().len());
            for topic in 0..8 {
                let alive = |known: &&Known| {
                    known.topic == topic && now - known.stored < small().record_life
                };
                let expected = model.0.iter().filter(alive).map(|known| known.peer).collect();
                prop_assert_eq!(all(&storage, now, topic), expected);
            }
        }
    }
}
