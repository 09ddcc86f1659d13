//! Topics and the peers announced for them: how long they stay and who goes when it is full. Who
//! may announce is decided elsewhere.

use std::collections::BTreeMap;
use std::time::Duration;

use arrayvec::ArrayVec;
use rand_core::Rng;
use thiserror::Error;

use crate::config::Config;
use crate::id::{Distance, NodeId};
use crate::time::Time;
use crate::wire::message::Endpoint;

/// Why a peer is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StoreError {
    /// The address holds its full share of records already.
    #[error("too many records from this address")]
    Quota,
    /// Everything held is of topics nearer to this node.
    #[error("storage full")]
    Full,
}

/// The peers that one node stores, by topic.
pub struct Storage {
    /// Ordered by distance from the own id, so that the farthest topic is the last.
    topics: BTreeMap<Distance, Vec<Record>>,
    /// The number of records of each host that has one and is not local, by [`Endpoint::same_host`].
    per_ip: BTreeMap<Endpoint, usize>,
    /// The number of records in `topics`.
    records: usize,
    /// Where the sweep for old records goes on.
    swept_to: Option<Distance>,
    own: NodeId,
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
}

impl Storage {
    /// An empty one for the node `own`, with the limits of `config`.
    pub fn new(own: NodeId, config: &Config) -> Self {
        Self {
            topics: BTreeMap::new(),
            per_ip: BTreeMap::new(),
            records: 0,
            swept_to: None,
            own,
            life: config.record_life,
            topics_max: config.topics,
            topic_peers_max: config.topic_peers,
            records_max: config.records,
            per_ip_max: config.records_per_ip,
        }
    }

    /// Stores `peer` under `topic`, or makes its record young again.
    ///
    /// # Errors
    ///
    /// [`StoreError`] where a cap refuses it; then nothing is changed.
    pub fn store(&mut self, now: Time, topic: NodeId, peer: Endpoint) -> Result<(), StoreError> {
        let key = self.own.distance(&topic);
        let record = Record { peer, stored: now };
        if let Some(records) = self.topics.get_mut(&key)
            && let Some(at) = records.iter().position(|record| record.peer == peer)
        {
            records.remove(at);
            records.push(record);
            return Ok(());
        }
        if !peer.is_local()
            && self.per_ip.get(peer.same_host().start()).is_some_and(|&n| n >= self.per_ip_max)
        {
            return Err(StoreError::Quota);
        }
        self.make_room(key)?;
        self.topics.entry(key).or_default().push(record);
        self.count(&peer);
        Ok(())
    }

    /// Puts a random sample, in random order, of at most `max` peers of `topic` for which `wanted` holds
    /// into `sample`, which is empty; returns how many those are in all.
    ///
    /// The order matters where an answer is cut short: what is cut must not be the same each time.
    pub fn sample<const N: usize>(
        &self,
        now: Time,
        topic: NodeId,
        max: usize,
        wanted: impl Fn(&Endpoint) -> bool,
        rng: &mut impl Rng,
        sample: &mut ArrayVec<Endpoint, N>,
    ) -> usize {
        let max = max.min(N);
        let mut seen = 0_u64;
        // Reservoir sampling, inside out: each peer goes to a random place of those so far, and the
        // one that stood there to the end, or out (Knuth, TAOCP 3.4.2, algorithm R).
        let mut drawn = ArrayVec::<&Endpoint, N>::new();
        for peer in self.peers(now, &topic).filter(|peer| wanted(peer)) {
            seen += 1;
            let at = (rng.next_u64() % seen) as usize;
            if drawn.len() < max {
                drawn.push(peer);
                let last = drawn.len() - 1;
                drawn.swap(at, last);
            } else if at < max {
                drawn[at] = peer;
            }
        }
        sample.extend(drawn.into_iter().copied());
        seen as usize
    }

    /// The peers of `topic`, the oldest first.
    pub fn peers(&self, now: Time, topic: &NodeId) -> impl Iterator<Item = &Endpoint> {
        let records = self.topics.get(&self.own.distance(topic)).into_iter().flatten();
        records.filter(move |record| now - record.stored < self.life).map(|record| &record.peer)
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
        let keys: Vec<Distance> = self.topics.keys().copied().collect();
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

    /// Makes room for one more record under `key`.
    fn make_room(&mut self, key: Distance) -> Result<(), StoreError> {
        let held = self.topics.get(&key).map_or(0, Vec::len);
        if held >= self.topic_peers_max {
            self.drop_first(key, held + 1 - self.topic_peers_max);
            return Ok(());
        }
        if held == 0 && self.topics.len() >= self.topics_max || self.records >= self.records_max {
            let farthest = *self.topics.keys().next_back().ok_or(StoreError::Full)?;
            if farthest <= key {
                return Err(StoreError::Full);
            }
            self.drop_first(farthest, usize::MAX);
        }
        Ok(())
    }

    fn drop_older(&mut self, key: Distance, now: Time, age: Duration) {
        let old = self
            .topics
            .get(&key)
            .map_or(0, |records| records.partition_point(|record| now - record.stored >= age));
        self.drop_first(key, old);
    }

    /// Drops the `count` oldest records of a topic, and the topic with its last one.
    fn drop_first(&mut self, key: Distance, count: usize) {
        let Some(records) = self.topics.get_mut(&key) else {
            return;
        };
        let count = count.min(records.len());
        let dropped: Vec<Record> = records.drain(..count).collect();
        if records.is_empty() {
            self.topics.remove(&key);
        }
        for record in dropped {
            self.uncount(&record.peer);
        }
    }

    fn count(&mut self, peer: &Endpoint) {
        self.records += 1;
        if !peer.is_local() {
            *self.per_ip.entry(*peer.same_host().start()).or_default() += 1;
        }
    }

    fn uncount(&mut self, peer: &Endpoint) {
        self.records -= 1;
        if let Some(count) = self.per_ip.get_mut(peer.same_host().start()) {
            *count -= 1;
            if *count == 0 {
                self.per_ip.remove(peer.same_host().start());
            }
        }
    }

    /// Panics where counts and contents disagree, an order is broken or a cap is passed.
    pub fn check_invariants(&self) {
        let all = || self.topics.values().flatten();
        assert_eq!(self.records, all().count());
        assert!(self.records <= self.records_max, "more records than allowed");
        assert!(self.topics.len() <= self.topics_max, "more topics than allowed");
        assert_eq!(
            self.per_ip.values().sum::<usize>(),
            all().filter(|record| !record.peer.is_local()).count()
        );
        assert!(self.per_ip.values().all(|&n| 0 < n && n <= self.per_ip_max));
        for records in self.topics.values() {
            assert!(!records.is_empty() && records.len() <= self.topic_peers_max);
            assert!(records.is_sorted_by_key(|record| record.stored), "records out of order");
        }
    }
}
