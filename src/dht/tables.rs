//! A routing table for each address family: IPv4 and IPv6 are two networks that share nodes, and who
//! is nearest in one need not be there in the other. How one table works is not decided here.

use std::time::Duration;

use arrayvec::ArrayVec;

use super::routing::{Admission, Entry, MAX_CLOSEST, Table};
use crate::config::Config;
use crate::id::NodeId;
use crate::time::Time;
use crate::wire::message::{Contact, Endpoint, Want};

/// The contacts nearest to an id in both families.
pub type Closest = ArrayVec<Contact, { 2 * MAX_CLOSEST }>;

/// The contacts of one node in both families.
pub struct Tables {
    own: NodeId,
    /// IPv4, IPv6.
    families: [Table; 2],
}

impl Tables {
    /// Empty tables of the node `own`.
    pub fn new(now: Time, own: NodeId, config: &Config) -> Self {
        Self { own, families: [Table::new(now, own, config), Table::new(now, own, config)] }
    }

    /// The table of the family that `endpoint` is of.
    pub fn of(&self, endpoint: &Endpoint) -> &Table {
        &self.families[usize::from(!endpoint.is_ipv4())]
    }

    pub(super) fn of_mut(&mut self, endpoint: &Endpoint) -> &mut Table {
        &mut self.families[usize::from(!endpoint.is_ipv4())]
    }

    /// See [`Table::answered`].
    pub(super) fn answered(
        &mut self,
        now: Time,
        contact: Contact,
        round_trip: Duration,
    ) -> Admission {
        self.of_mut(&contact.endpoint).answered(now, contact, round_trip)
    }

    /// See [`Table::has_use_for`].
    pub(super) fn has_use_for(&self, contact: &Contact) -> bool {
        self.of(&contact.endpoint).has_use_for(contact)
    }

    /// The contact that was silent longest, and when it last answered.
    pub(super) fn quietest(&self) -> Option<(Time, Contact)> {
        self.families.iter().filter_map(Table::quietest).min_by_key(|(seen, _)| *seen)
    }

    /// Puts the contacts nearest to `target` into `closest`, which is empty: at most `count` of each of
    /// these families, the nearest first.
    pub(super) fn list_closest(
        &self,
        target: &NodeId,
        count: usize,
        families: Want,
        wanted: impl Fn(&Entry) -> bool,
        closest: &mut Closest,
    ) {
        let [v4, v6] = &self.families;
        if families.v4 {
            v4.append_closest(target, count, &wanted, closest);
        }
        if families.v6 {
            v6.append_closest(target, count, &wanted, closest);
        }
        if families.v4 && families.v6 {
            closest.sort_by_key(|contact| contact.id.distance(target));
        }
    }

    /// The listed contact with this id, in either family.
    pub fn get(&self, id: &NodeId) -> Option<&Entry> {
        self.families.iter().find_map(|table| table.get(id))
    }

    /// Every listed contact, those of IPv4 first, in each family the farthest buckets first.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.families.iter().flat_map(Table::entries)
    }

    /// How many contacts are listed; a node that is listed in both families counts twice.
    pub fn len(&self) -> usize {
        self.families.iter().map(Table::len).sum()
    }

    /// How many are listed in the family that has more.
    pub(super) fn most(&self) -> usize {
        self.families.iter().map(Table::len).max().unwrap_or(0)
    }

    /// Whether none is listed.
    pub fn is_empty(&self) -> bool {
        self.families.iter().all(Table::is_empty)
    }

    /// Contacts that were dropped within a day; in each family, the latest first.
    pub(super) fn dropped(&mut self, now: Time) -> impl Iterator<Item = Contact> {
        self.families.iter_mut().flat_map(move |table| table.dropped(now))
    }

    pub(super) fn has_dropped(&self) -> bool {
        self.families.iter().any(Table::has_dropped)
    }

    /// Notes that a lookup goes through the range of `target`.
    pub(super) fn touch(&mut self, now: Time, target: &NodeId) {
        self.families.iter_mut().for_each(|table| table.touch(now, target));
    }

    /// See [`Table::stale`].
    pub(super) fn stale(&self, now: Time, random: &NodeId) -> Option<NodeId> {
        self.families.iter().find_map(|table| table.stale(now, random))
    }

    /// When [`Tables::stale`] gives something.
    pub(super) fn next_stale(&self) -> Time {
        self.families.iter().map(Table::next_stale).min().unwrap_or(Time::MAX)
    }

    /// By how many bits those ids agree with the own one in whose range a table has room for more, and
    /// yet knows nearer contacts: what a node that has just joined refreshes.
    pub(super) fn thin_ranges(&mut self) -> Vec<usize> {
        let mut thin: Vec<usize> = self.families.iter_mut().flat_map(Table::thin_buckets).collect();
        thin.sort_unstable();
        thin.dedup();
        thin
    }

    /// An id that agrees with the own one in exactly so many bits, all else taken from `random`.
    pub(super) fn id_in_range(&self, bits: usize, random: &NodeId) -> NodeId {
        self.own.with_flipped_bit(bits).with_suffix_of(bits + 1, random)
    }

    /// Panics where an invariant of a table is broken.
    pub(super) fn check_invariants(&self) {
        for (table, ipv4) in self.families.iter().zip([true, false]) {
            table.check_invariants();
            assert!(table.entries().all(|entry| entry.contact.endpoint.is_ipv4() == ipv4));
        }
    }
}
