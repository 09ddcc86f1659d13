//! Which host holds how much of the store: whose record goes where it is full. What a record says is
//! the store's affair.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::id::NodeId;
use crate::wire::message::Endpoint;

/// A record's place in the order of age: the smaller the older, and no two have the same.
pub type Serial = u64;

/// The records of each host, by [`Endpoint::same_host`]. Every call takes logarithmic time.
#[derive(Default)]
pub struct Holdings {
    /// The topic of each record, the oldest record of each host first.
    records: BTreeMap<(Endpoint, Serial), NodeId>,
    /// How many of `records` each host has, where it has any.
    counts: BTreeMap<Endpoint, usize>,
    /// One entry for each of `counts`, those who have most last.
    ranks: BTreeSet<(usize, Reverse<Serial>, Endpoint)>,
}

impl Holdings {
    /// How many records the host of `peer` has.
    pub fn count(&self, peer: &Endpoint) -> usize {
        self.counts.get(peer.same_host().start()).copied().unwrap_or_default()
    }

    /// The host that has most; of several, the one whose oldest record is oldest.
    pub fn most(&self) -> Option<Endpoint> {
        self.ranks.last().map(|&(.., host)| host)
    }

    /// The oldest record of a host.
    pub fn oldest_of(&self, host: Endpoint) -> Option<(NodeId, Serial)> {
        let mut records = self.records.range((host, 0)..=(host, Serial::MAX));
        records.next().map(|(&(_, serial), &topic)| (topic, serial))
    }

    /// Notes a record of `peer`.
    pub fn insert(&mut self, peer: &Endpoint, serial: Serial, topic: NodeId) {
        self.change(peer, |records, count, host| {
            records.insert((host, serial), topic);
            *count += 1;
        });
    }

    /// Notes that a record of `peer` is gone; no effect where it was not noted.
    pub fn remove(&mut self, peer: &Endpoint, serial: Serial) {
        self.change(peer, |records, count, host| {
            *count -= usize::from(records.remove(&(host, serial)).is_some());
        });
    }

    fn change(
        &mut self,
        peer: &Endpoint,
        change: impl FnOnce(&mut BTreeMap<(Endpoint, Serial), NodeId>, &mut usize, Endpoint),
    ) {
        let host = *peer.same_host().start();
        if let Some(rank) = self.rank(host) {
            self.ranks.remove(&rank);
        }
        change(&mut self.records, self.counts.entry(host).or_default(), host);
        match self.rank(host) {
            Some(rank) => drop(self.ranks.insert(rank)),
            None => drop(self.counts.remove(&host)),
        }
    }

    fn rank(&self, host: Endpoint) -> Option<(usize, Reverse<Serial>, Endpoint)> {
        let (_, oldest) = self.oldest_of(host)?;
        Some((self.counts[&host], Reverse(oldest), host))
    }

    /// Panics where the indexes disagree, or `records` is not what it holds.
    pub fn check_invariants(&self, records: impl Iterator<Item = (Endpoint, Serial, NodeId)>) {
        let records: BTreeMap<(Endpoint, Serial), NodeId> = records
            .map(|(peer, serial, topic)| ((*peer.same_host().start(), serial), topic))
            .collect();
        assert_eq!(self.records, records);
        assert_eq!(self.counts.values().sum::<usize>(), records.len());
        let ranks: BTreeSet<_> = self.counts.keys().filter_map(|&host| self.rank(host)).collect();
        assert_eq!(self.ranks, ranks);
        assert_eq!(self.ranks.len(), self.counts.len());
    }
}
