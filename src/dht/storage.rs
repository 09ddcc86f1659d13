//! Topics and the peers announced for them: how long they stay and who goes when it is full. Who
//! may announce is decided elsewhere.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use arrayvec::ArrayVec;
use rand_core::Rng;
use thiserror::Error;

use crate::config::Config;
use crate::dht::holdings::{Holdings, Serial};
use crate::id::NodeId;
use crate::time::Time;
use crate::wire::message::Endpoint;

/// Why a peer is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StoreError {
    /// The address holds its full share of records already.
    #[error("too many records from this address")]
    Quota,
    /// There is no room, and none is made: not for a record without proof where all have one, and not
    /// for another topic where every topic is kept by many.
    #[error("storage full")]
    Full,
}

/// For one record of another topic, at most so many go: as many as a topic holds.
const GONE_MAX: usize = 256;

/// The peers that one node stores, by topic.
///
/// Where it is full, whoever holds most of it makes room, so that no host can take what others have:
///
/// 1. In a full topic, the oldest record goes of the host that has most of the topic.
/// 2. Where there are as many records as allowed, the oldest goes of the host that has most of them.
/// 3. Where there are as many topics as allowed, so do more of that host, until a topic is free.
///
/// A host is an IPv4 address or an IPv6 network of 64 bits, local ones included. Of several that have
/// as many, the one with the oldest record is meant. For a record without proof only such without
/// proof count and go.
pub struct Storage {
    topics: BTreeMap<NodeId, Vec<Record>>,
    /// Every record of `topics`.
    all: Holdings,
    /// Those without proof.
    unproved: Holdings,
    /// The number of records in `topics`.
    records: usize,
    next_serial: Serial,
    /// Where the sweep for old records goes on.
    swept_to: Option<NodeId>,
    life: Duration,
    topics_max: usize,
    topic_peers_max: usize,
    records_max: usize,
    per_ip_max: usize,
}

/// One peer of a topic. A topic's records stand in the order of their age, the oldest first.
#[derive(Clone, Copy)]
struct Record {
    peer: Endpoint,
    stored: Time,
    serial: Serial,
    /// Whether it was ever announced with a token: somebody receives at that address.
    is_proved: bool,
}

impl Storage {
    /// An empty one with the limits of `config`.
    pub fn new(config: &Config) -> Self {
        Self {
            topics: BTreeMap::new(),
            all: Holdings::default(),
            unproved: Holdings::default(),
            records: 0,
            next_serial: 0,
            swept_to: None,
            life: config.record_life,
            topics_max: config.topics,
            topic_peers_max: config.topic_peers,
            records_max: config.records,
            per_ip_max: config.records_per_ip,
        }
    }

    /// Stores `peer` under `topic`, or makes its record young again. `is_proved` says whether it was
    /// announced with a token; a record that once was stays proved.
    ///
    /// # Errors
    ///
    /// [`StoreError`] where a cap refuses it.
    pub fn store(
        &mut self,
        now: Time,
        topic: NodeId,
        peer: Endpoint,
        is_proved: bool,
    ) -> Result<(), StoreError> {
        let mut record = Record { peer, stored: now, serial: self.next_serial, is_proved };
        if let Some(at) = self.position(&topic, |known| known.peer == peer) {
            record.is_proved |= self.take(topic, at).is_proved;
        } else {
            if !peer.is_local() && self.all.count(&peer) >= self.per_ip_max {
                return Err(StoreError::Quota);
            }
            self.make_room(&topic, is_proved)?;
        }
        self.put(topic, record);
        Ok(())
    }

    /// A random sample, in random order, of at most `max` peers of `topic` for which `wanted` holds,
    /// and how many those are in all.
    ///
    /// The order matters where an answer is cut short: what is cut must not be the same each time.
    pub fn sample<const N: usize>(
        &self,
        now: Time,
        topic: NodeId,
        max: usize,
        wanted: impl Fn(&Endpoint) -> bool,
        rng: &mut impl Rng,
    ) -> (ArrayVec<Endpoint, N>, usize) {
        let max = max.min(N);
        let mut sample = ArrayVec::new();
        let mut seen = 0_u64;
        // Reservoir sampling, inside out: each peer goes to a random place of those so far, and the
        // one that stood there to the end, or out (Knuth, TAOCP 3.4.2, algorithm R).
        for peer in self.peers(now, &topic).filter(wanted) {
            seen += 1;
            let at = (rng.next_u64() % seen) as usize;
            if sample.len() < max {
                sample.push(peer);
                let last = sample.len() - 1;
                sample.swap(at, last);
            } else if at < max {
                sample[at] = peer;
            }
        }
        (sample, seen as usize)
    }

    /// The peers of `topic`, the oldest first.
    pub fn peers(&self, now: Time, topic: &NodeId) -> impl Iterator<Item = Endpoint> {
        let records = self.topics.get(topic).into_iter().flatten();
        records.filter(move |record| now - record.stored < self.life).map(|record| record.peer)
    }

    /// Drops records whose life is over, of at most `topics` topics, going on where the last call
    /// stopped; a topic's records are old together, so this bounds the work.
    pub fn sweep(&mut self, now: Time, topics: usize) {
        let mut keys = Vec::with_capacity(topics.min(self.topics.len()));
        match self.swept_to {
            Some(last) => {
                use std::ops::Bound::{Excluded, Unbounded};
                keys.extend(
                    self.topics
                        .range((Excluded(last), Unbounded))
                        .map(|(key, _)| *key)
                        .take(topics),
                );
            }
            None => keys.extend(self.topics.keys().copied().take(topics)),
        }
        self.swept_to = if keys.len() < topics { None } else { keys.last().copied() };
        for key in keys {
            self.drop_older(key, now, self.life);
        }
    }

    /// Drops every record of `age` or more.
    pub fn cleanup(&mut self, now: Time, age: Duration) {
        let keys: Vec<NodeId> = self.topics.keys().copied().collect();
        for key in keys {
            self.drop_older(key, now, age);
        }
    }

    /// How many topics have a record.
    pub fn topics(&self) -> usize {
        self.topics.len()
    }

    /// How many records there are.
    pub fn records(&self) -> usize {
        self.records
    }

    /// Makes room for one more record of `topic`.
    fn make_room(&mut self, topic: &NodeId, is_proved: bool) -> Result<(), StoreError> {
        let held = self.topics.get(topic).map_or(0, Vec::len);
        if held >= self.topic_peers_max {
            let at = self.next_to_go(topic, is_proved).ok_or(StoreError::Full)?;
            self.take(*topic, at);
            return Ok(());
        }
        let is_full = |storage: &Self| {
            held == 0 && storage.topics.len() >= storage.topics_max
                || storage.records >= storage.records_max
        };
        let mut left = GONE_MAX;
        let mut host = None;
        while is_full(self) {
            left = left.checked_sub(1).ok_or(StoreError::Full)?;
            let holdings = if is_proved { &self.all } else { &self.unproved };
            host = host.filter(|host| holdings.oldest_of(*host).is_some()).or(holdings.most());
            let oldest = host.and_then(|host| holdings.oldest_of(host));
            let (of, serial) = oldest.ok_or(StoreError::Full)?;
            let at = self.position(&of, |record| record.serial == serial);
            self.take(of, at.expect("holdings name records that are there"));
        }
        Ok(())
    }

    /// Which record of a full topic makes room for another.
    fn next_to_go(&self, topic: &NodeId, is_proved: bool) -> Option<usize> {
        let mut hosts: BTreeMap<Endpoint, (usize, Reverse<usize>)> = BTreeMap::new();
        for (at, record) in self.topics[topic].iter().enumerate() {
            if is_proved || !record.is_proved {
                hosts.entry(*record.peer.same_host().start()).or_insert((0, Reverse(at))).0 += 1;
            }
        }
        hosts.into_values().max().map(|(_, Reverse(oldest))| oldest)
    }

    fn position(&self, topic: &NodeId, is_it: impl FnMut(&Record) -> bool) -> Option<usize> {
        self.topics.get(topic)?.iter().position(is_it)
    }

    /// Adds a record, the youngest of all.
    fn put(&mut self, topic: NodeId, record: Record) {
        self.next_serial += 1;
        self.records += 1;
        self.all.insert(&record.peer, record.serial, topic);
        if !record.is_proved {
            self.unproved.insert(&record.peer, record.serial, topic);
        }
        self.topics.entry(topic).or_default().push(record);
    }

    /// Takes one record of a topic out, and the topic with its last one.
    fn take(&mut self, topic: NodeId, at: usize) -> Record {
        let records = self.topics.get_mut(&topic).expect("the topic of a record is there");
        let record = records.remove(at);
        if records.is_empty() {
            self.topics.remove(&topic);
        }
        self.records -= 1;
        self.all.remove(&record.peer, record.serial);
        if !record.is_proved {
            self.unproved.remove(&record.peer, record.serial);
        }
        record
    }

    fn drop_older(&mut self, topic: NodeId, now: Time, age: Duration) {
        let is_old = |record: &Record| now - record.stored >= age;
        while self.topics.get(&topic).is_some_and(|records| is_old(&records[0])) {
            self.take(topic, 0);
        }
    }

    /// Panics where counts and contents disagree, an order is broken or a cap is passed.
    pub fn check_invariants(&self) {
        let all = || {
            let topics = self.topics.iter();
            topics.flat_map(|(topic, of)| of.iter().map(move |record| (*record, *topic)))
        };
        assert_eq!(self.records, all().count());
        assert!(self.records <= self.records_max, "more records than allowed");
        assert!(self.topics.len() <= self.topics_max, "more topics than allowed");
        let holding = |(record, topic): (Record, NodeId)| (record.peer, record.serial, topic);
        self.all.check_invariants(all().map(holding));
        self.unproved.check_invariants(all().filter(|(record, _)| !record.is_proved).map(holding));
        assert!(all().all(|(record, _)| {
            record.peer.is_local() || self.all.count(&record.peer) <= self.per_ip_max
        }));
        for records in self.topics.values() {
            assert!(!records.is_empty() && records.len() <= self.topic_peers_max);
            assert!(records.is_sorted_by_key(|record| record.stored), "records out of order");
            assert!(records.is_sorted_by(|a, b| a.serial < b.serial), "records out of order");
        }
    }
}
