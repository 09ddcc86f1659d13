//! The routing table: k-buckets that split along the own id, with a replacement cache each. Whom
//! to ask before an eviction it only says; asking is the engine's.
//!
//! After Maymounkov and Mazières, "Kademlia: A Peer-to-peer Information System Based on the XOR
//! Metric", 2002, sections 2.2 to 2.4 and 4.1.

use std::collections::VecDeque;
use std::num::NonZeroU16;
use std::time::Duration;

use arrayvec::ArrayVec;

use crate::config::Config;
use crate::id::NodeId;
use crate::time::Time;
use crate::wire::message::{Contact, Endpoint};

/// The most contacts that [`Table::append_closest`] gives: the largest k.
pub const MAX_CLOSEST: usize = 20;

/// The contacts of one node, each of which has answered it.
pub struct Table {
    own: NodeId,
    /// Bucket `i` holds the contacts that share exactly `i` leading bits with `own`; the last one
    /// holds all that share at least as many.
    buckets: Vec<Bucket>,
    dropped: VecDeque<(Time, Contact)>,
    k: usize,
    replacements_max: usize,
    refresh: Duration,
}

struct Bucket {
    /// The least recently seen first; at most k.
    contacts: Vec<Entry>,
    /// The least recently seen first; none of them is in `contacts`.
    replacements: Vec<Entry>,
    /// When a lookup last went through this bucket's range.
    touched: Time,
}

/// A contact and what is known of it.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Who and where.
    pub contact: Contact,
    /// The smoothed round trip in units of 100 µs.
    rtt: u16,
    /// Questions in a row that it left unanswered, repeated ones counting once.
    failures: u8,
    /// The boot number of its last answer; none before [`Table::began`].
    boot: Option<NonZeroU16>,
    /// When it last answered, in microseconds, the last 16 bits first: nine years fit, and an entry
    /// in 64 bytes.
    seen: [u16; 3],
}

/// Full tables are most of what an idle node keeps.
const _: () = assert!(size_of::<Entry>() == 64);

/// The boot number of a node that names none.
const UNTOLD: NonZeroU16 = NonZeroU16::MIN;

/// What became of a contact that answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Admission {
    /// It is listed.
    Listed,
    /// It waits in the replacement cache, and so it stays for now.
    Waiting,
    /// Its place is taken: ask this contact first, and report its silence by [`Table::failed`].
    AskFirst(Contact),
}

/// No honest network is so large that its nodes need more: 20 × 2^47 of them. Deeper buckets would
/// only give work to whoever makes up ids near ours.
const BUCKETS_MAX: usize = 48;
/// A contact heard from so lately is not asked whether it is still there.
const FRESH: Duration = Duration::from_secs(60);
/// So many questions in a row a contact may leave unanswered while nobody waits for its place.
const FAILURES_MAX: u8 = 2;
/// Contacts remembered after they were dropped, for a network that comes back: limits for count
/// and age.
const DROPPED_MAX: usize = 128;
const DROPPED_AGE: Duration = Duration::from_secs(24 * 3_600);

impl Table {
    /// An empty table of the node `own`.
    pub fn new(now: Time, own: NodeId, config: &Config) -> Self {
        Self {
            own,
            buckets: vec![Bucket::new(now)],
            dropped: VecDeque::new(),
            k: config.k,
            replacements_max: config.replacements,
            refresh: config.bucket_refresh,
        }
    }

    /// Notes that `contact` answered a question of ours after `round_trip`.
    pub fn answered(&mut self, now: Time, contact: Contact, round_trip: Duration) -> Admission {
        let index = self.bucket_of(&contact.id);
        let bucket = &mut self.buckets[index];
        if let Some(at) = bucket.contacts.iter().position(|entry| entry.contact.id == contact.id) {
            let entry = &mut bucket.contacts[at];
            if entry.contact.endpoint == contact.endpoint {
                entry.answered(now, round_trip);
                bucket.contacts[at..].rotate_left(1);
                return Admission::Listed;
            }
            if entry.failures == 0 {
                let listed = entry.contact;
                self.vacate(&contact.endpoint);
                return Admission::AskFirst(listed);
            }
            bucket.contacts.remove(at);
        }
        if let Some(at) = bucket.replacements.iter().position(|entry| entry.contact == contact) {
            let mut entry = bucket.replacements.remove(at);
            entry.answered(now, round_trip);
            return self.insert(entry);
        }
        bucket.replacements.retain(|waiting| waiting.contact.id != contact.id);
        self.vacate(&contact.endpoint);
        self.dropped.retain(|(_, dropped)| dropped.endpoint != contact.endpoint);
        self.insert(Entry::new(now, contact, round_trip))
    }

    /// Notes the boot number, if any, that came with an answer of `contact`; returns whether that is
    /// listed and is new, or has begun anew: so it may store nothing of ours.
    #[must_use]
    pub fn began(&mut self, contact: &Contact, boot: Option<u16>) -> bool {
        let index = self.bucket_of(&contact.id);
        let mut listed = self.buckets[index].contacts.iter_mut();
        listed.find(|entry| entry.contact == *contact).is_some_and(|entry| {
            let told = boot.and_then(NonZeroU16::new).or(entry.boot).unwrap_or(UNTOLD);
            entry.boot.replace(told) != Some(told)
        })
    }

    /// The contact that was silent longest, and when it last answered.
    pub fn quietest(&self) -> Option<(Time, Contact)> {
        let oldest = self.entries().min_by_key(|entry| entry.seen())?;
        Some((oldest.seen(), oldest.contact))
    }

    /// Forgets who was at an address at which another has answered.
    pub fn vacate(&mut self, endpoint: &Endpoint) {
        for bucket in &mut self.buckets {
            bucket.replacements.retain(|entry| entry.contact.endpoint != *endpoint);
            let before = bucket.contacts.len();
            bucket.contacts.retain(|entry| entry.contact.endpoint != *endpoint);
            if bucket.contacts.len() < before {
                bucket.promote(self.k);
            }
        }
    }

    /// Notes that `contact` left a question and its repetition unanswered, which went at `asked`. If
    /// it answered another since, that counts for more.
    pub fn failed(&mut self, now: Time, contact: &Contact, asked: Time) {
        let index = self.bucket_of(&contact.id);
        let bucket = &mut self.buckets[index];
        bucket.replacements.retain(|entry| entry.contact != *contact || entry.seen() > asked);
        let Some(at) = bucket.contacts.iter().position(|entry| entry.contact == *contact) else {
            return;
        };
        let entry = &mut bucket.contacts[at];
        if entry.seen() > asked {
            return;
        }
        entry.failures += 1;
        if entry.failures >= FAILURES_MAX || !bucket.replacements.is_empty() {
            let entry = bucket.contacts.remove(at);
            bucket.promote(self.k);
            self.remember(now, entry.contact);
        }
    }

    /// Appends the `count` contacts nearest to `target`, the nearest first; at most [`MAX_CLOSEST`], and
    /// as many as there is room for.
    ///
    /// Only such for which `wanted` holds.
    pub fn append_closest<const N: usize>(
        &self,
        target: &NodeId,
        count: usize,
        wanted: impl Fn(&Entry) -> bool,
        closest: &mut ArrayVec<Contact, N>,
    ) {
        let end = (closest.len() + count.min(MAX_CLOSEST)).min(N);
        let distance = self.own.distance(target);
        // Where the target differs from us at bit i, bucket i is nearer to it than every deeper
        // bucket; where it does not, farther. So one pass down and one back up goes in order.
        let buckets = self.buckets.len();
        let down = (0..buckets).filter(|&i| distance.bit(i));
        let up = (0..buckets).rev().filter(|&i| !distance.bit(i));
        for index in down.chain(up) {
            if closest.len() == end {
                break;
            }
            self.buckets[index].append_closest(target, end, &wanted, closest);
        }
    }

    /// The listed contact with this id.
    pub fn get(&self, id: &NodeId) -> Option<&Entry> {
        self.buckets[self.bucket_of(id)].contacts.iter().find(|entry| entry.contact.id == *id)
    }

    /// Whether it is worth asking this contact whether it is there: its id is listed at another
    /// address or at one that is silent, or is not there yet and finds a place or a cache for it.
    pub fn has_use_for(&self, contact: &Contact) -> bool {
        let id = &contact.id;
        if let Some(entry) = self.get(id) {
            return entry.contact != *contact || !entry.is_reliable();
        }
        let index = self.bucket_of(id);
        let bucket = &self.buckets[index];
        let mut waiting = bucket.replacements.iter();
        let has_place = bucket.contacts.len() < self.k
            || self.can_split(index)
            || bucket.replacements.len() < self.replacements_max
            || bucket.contacts.iter().any(|entry| entry.failures > 0);
        has_place && waiting.all(|entry| entry.contact.id != *id)
    }

    /// Every listed contact, the buckets farthest from the own id first.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.buckets.iter().flat_map(|bucket| &bucket.contacts)
    }

    /// How many contacts are listed.
    pub fn len(&self) -> usize {
        self.buckets.iter().map(|bucket| bucket.contacts.len()).sum()
    }

    /// Whether none is listed.
    pub fn is_empty(&self) -> bool {
        self.buckets.iter().all(|bucket| bucket.contacts.is_empty())
    }

    /// Contacts that were dropped within a day, the latest first.
    pub fn dropped(&mut self, now: Time) -> impl Iterator<Item = Contact> {
        self.dropped.retain(|(at, _)| now - *at < DROPPED_AGE);
        self.dropped.iter().rev().map(|&(_, contact)| contact)
    }

    /// Whether any contact is remembered that was dropped.
    pub fn has_dropped(&self) -> bool {
        !self.dropped.is_empty()
    }

    /// Notes a contact that does not answer any more among the dropped ones.
    pub fn remember(&mut self, now: Time, contact: Contact) {
        self.dropped.retain(|(_, known)| known.endpoint != contact.endpoint);
        if self.dropped.len() >= DROPPED_MAX {
            self.dropped.pop_front();
        }
        self.dropped.push_back((now, contact));
    }

    /// Notes that a lookup goes through the range of `target`.
    pub fn touch(&mut self, now: Time, target: &NodeId) {
        let index = self.bucket_of(target);
        self.buckets[index].touched = now;
    }

    /// A target in the range of the bucket that needs a refresh most, if any needs one at `now`.
    pub fn stale(&self, now: Time, random: &NodeId) -> Option<NodeId> {
        let (index, bucket) =
            self.buckets.iter().enumerate().min_by_key(|(_, bucket)| bucket.touched)?;
        (now >= bucket.touched + self.refresh).then(|| self.id_in_bucket(index, random))
    }

    /// When [`Table::stale`] gives something.
    pub fn next_stale(&self) -> Time {
        let oldest = self.buckets.iter().map(|bucket| bucket.touched).min();
        oldest.map_or(Time::MAX, |touched| touched + self.refresh)
    }

    /// The buckets that have room and lie farther away than the nearest contact: what a node that
    /// has just joined refreshes. A full last bucket is split for that, because a walk to the own id
    /// ends at the k nearest and may have passed by the far half of its range.
    pub fn thin_buckets(&mut self) -> Vec<usize> {
        let last = self.buckets.len() - 1;
        if self.buckets[last].contacts.len() == self.k && self.can_split(last) {
            self.split();
        }
        let nearest = self.buckets.iter().rposition(|bucket| !bucket.contacts.is_empty());
        (0..nearest.unwrap_or(0))
            .filter(|&index| self.buckets[index].contacts.len() < self.k)
            .collect()
    }

    /// An id in the range of a bucket, all else taken from `random`.
    pub fn id_in_bucket(&self, index: usize, random: &NodeId) -> NodeId {
        if index + 1 >= self.buckets.len() {
            self.own.with_suffix_of(self.buckets.len() - 1, random)
        } else {
            self.own.with_flipped_bit(index).with_suffix_of(index + 1, random)
        }
    }

    fn insert(&mut self, entry: Entry) -> Admission {
        loop {
            let index = self.bucket_of(&entry.contact.id);
            let can_split = self.can_split(index);
            let bucket = &mut self.buckets[index];
            if bucket.contacts.len() < self.k {
                push_within(&mut bucket.contacts, entry, self.k);
                return Admission::Listed;
            }
            if let Some(at) = bucket.contacts.iter().position(|listed| listed.failures > 0) {
                let displaced = bucket.contacts.remove(at);
                self.remember(entry.seen(), displaced.contact);
                continue;
            }
            if can_split {
                self.split();
                continue;
            }
            if self.replacements_max > 0 {
                if bucket.replacements.len() == self.replacements_max {
                    bucket.replacements.remove(0);
                }
                push_within(&mut bucket.replacements, entry, self.replacements_max);
            }
            let oldest = &bucket.contacts[0];
            return if entry.seen() - oldest.seen() > FRESH {
                Admission::AskFirst(oldest.contact)
            } else {
                Admission::Waiting
            };
        }
    }

    fn can_split(&self, index: usize) -> bool {
        index + 1 == self.buckets.len() && self.buckets.len() < BUCKETS_MAX
    }

    /// Opens one more bucket behind the last, with those that share one bit more.
    fn split(&mut self) {
        let own = self.own;
        let last = self.buckets.len() - 1;
        let bucket = &mut self.buckets[last];
        let halve = |entries: &mut Vec<Entry>| {
            let goes_deeper =
                |entry: &Entry| own.distance(&entry.contact.id).common_prefix() > last;
            let (deeper, staying) = std::mem::take(entries).into_iter().partition(goes_deeper);
            *entries = staying;
            deeper
        };
        let mut deeper = Bucket {
            contacts: halve(&mut bucket.contacts),
            replacements: halve(&mut bucket.replacements),
            touched: bucket.touched,
        };
        bucket.promote(self.k);
        deeper.promote(self.k);
        self.buckets.push(deeper);
    }

    fn bucket_of(&self, id: &NodeId) -> usize {
        self.own.distance(id).common_prefix().min(self.buckets.len() - 1)
    }

    /// Panics where a contact is in the wrong place or listed twice, or a cap is passed.
    pub fn check_invariants(&self) {
        assert!(!self.buckets.is_empty() && self.buckets.len() <= BUCKETS_MAX);
        for (index, bucket) in self.buckets.iter().enumerate() {
            assert!(bucket.contacts.len() <= self.k, "more contacts in a bucket than k");
            assert!(bucket.replacements.len() <= self.replacements_max);
            for entry in bucket.contacts.iter().chain(&bucket.replacements) {
                assert_ne!(entry.contact.id, self.own, "a node lists itself");
                assert_eq!(
                    self.bucket_of(&entry.contact.id),
                    index,
                    "a contact in another's bucket"
                );
            }
        }
        let all: Vec<&Entry> =
            self.buckets.iter().flat_map(|b| b.contacts.iter().chain(&b.replacements)).collect();
        for (at, entry) in all.iter().enumerate() {
            for other in &all[at + 1..] {
                assert_ne!(entry.contact.id, other.contact.id, "an id listed twice");
                assert_ne!(
                    entry.contact.endpoint, other.contact.endpoint,
                    "an address listed twice"
                );
            }
        }
        assert!(self.dropped.len() <= DROPPED_MAX);
    }
}

impl Bucket {
    fn new(now: Time) -> Self {
        Self { contacts: Vec::new(), replacements: Vec::new(), touched: now }
    }

    /// Fills places from the replacement cache, the most recently seen first.
    fn promote(&mut self, k: usize) {
        while self.contacts.len() < k {
            let Some(entry) = self.replacements.pop() else {
                return;
            };
            let at = self.contacts.partition_point(|listed| listed.seen() <= entry.seen());
            self.contacts.insert(at, entry);
        }
    }

    /// Appends those nearest to `target` until `closest` holds `end`.
    fn append_closest<const N: usize>(
        &self,
        target: &NodeId,
        end: usize,
        wanted: impl Fn(&Entry) -> bool,
        closest: &mut ArrayVec<Contact, N>,
    ) {
        // A bucket never holds more than the largest k, so the array takes it whole. The leading
        // word nearly always decides, and is cheap to move.
        let mut order: ArrayVec<(u64, &Contact), MAX_CLOSEST> = self
            .contacts
            .iter()
            .filter(|entry| wanted(entry))
            .map(|entry| (entry.contact.id.distance(target).leading_word(), &entry.contact))
            .collect();
        order.sort_unstable_by(|(a, left), (b, right)| {
            a.cmp(b).then_with(|| left.id.distance(target).cmp(&right.id.distance(target)))
        });
        let room = end - closest.len();
        closest.extend(order.into_iter().take(room).map(|(_, contact)| *contact));
    }
}

impl Entry {
    fn new(now: Time, contact: Contact, round_trip: Duration) -> Self {
        let seen = in_parts(now);
        Self { contact, rtt: in_rtt_units(round_trip), failures: 0, boot: None, seen }
    }

    /// Whether it answered the last question.
    pub fn is_reliable(&self) -> bool {
        self.failures == 0
    }

    /// When it last answered.
    pub fn seen(&self) -> Time {
        Time::from_micros(self.seen.iter().rev().fold(0, |all, part| all << 16 | u64::from(*part)))
    }

    /// The boot number of its last answer, where that named one.
    pub fn boot(&self) -> Option<u16> {
        self.boot.filter(|boot| *boot != UNTOLD).map(NonZeroU16::get)
    }

    /// The smoothed round trip.
    pub fn rtt(&self) -> Duration {
        Duration::from_micros(u64::from(self.rtt) * 100)
    }

    fn answered(&mut self, now: Time, round_trip: Duration) {
        let smoothed = (u32::from(self.rtt) * 7 + u32::from(in_rtt_units(round_trip))) / 8;
        self.rtt = u16::try_from(smoothed).unwrap_or(u16::MAX);
        self.failures = 0;
        self.seen = in_parts(now);
    }
}

/// Appends an entry to a list of no more than `max`, which takes no more memory than these: full
/// lists are most of what an idle node keeps.
fn push_within(list: &mut Vec<Entry>, entry: Entry, max: usize) {
    if list.len() == list.capacity() {
        let room = max.saturating_sub(list.len()).max(1);
        list.reserve_exact(list.len().max(4).min(room));
    }
    list.push(entry);
}

fn in_parts(time: Time) -> [u16; 3] {
    let micros = time.as_micros().min((1 << 48) - 1);
    [micros as u16, (micros >> 16) as u16, (micros >> 32) as u16]
}

fn in_rtt_units(round_trip: Duration) -> u16 {
    u16::try_from(round_trip.as_micros() / 100).unwrap_or(u16::MAX)
}
