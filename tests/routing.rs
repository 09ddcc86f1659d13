//! The routing table from outside: who gets a place, who loses it and by what, which buckets want a
//! refresh, and that the closest contacts are exactly the closest.

use std::collections::BTreeSet;
use std::time::Duration;

use arrayvec::ArrayVec;
use kadepy::dht::routing::{Admission, MAX_CLOSEST, Table};
use kadepy::{Config, Contact, Endpoint, NodeId, Time};
use proptest::prelude::*;

const OWN: NodeId = NodeId([0x5A; 32]);
const RTT: Duration = Duration::from_millis(10);
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3_600);
const K: u8 = 20;

fn table() -> Table {
    Table::new(Time::ZERO, OWN, &Config::default())
}

fn address(a: u8, b: u8) -> Endpoint {
    Endpoint::new([20, 0, a, b], 4_000)
}

/// Contact `n` of those that share exactly `bits` leading bits with the own id.
fn contact(bits: u8, n: u8) -> Contact {
    let mut id = OWN.with_flipped_bit(bits.into());
    id.0[31] ^= n;
    Contact { id, endpoint: address(bits, n) }
}

fn at(seconds: u64) -> Time {
    Time::ZERO + SECOND * u32::try_from(seconds).expect("a short time")
}

/// Lists `contacts`, all of which must find a place.
fn fill(table: &mut Table, now: Time, contacts: impl IntoIterator<Item = Contact>) {
    for contact in contacts {
        assert_eq!(table.answered(now, contact, RTT), Admission::Listed);
    }
    table.check_invariants();
}

/// A table whose farthest bucket is full of the contacts 0 to 19, last seen in this order.
fn full() -> Table {
    let mut table = table();
    fill(&mut table, Time::ZERO, (0..K).map(|n| contact(0, n)));
    table
}

fn lists(table: &Table, contact: &Contact) -> bool {
    table.get(&contact.id).is_some_and(|entry| entry.contact == *contact)
}

fn dropped(table: &mut Table, now: Time) -> Vec<Contact> {
    table.dropped(now).collect()
}

// Who gets a place

#[test]
fn a_contact_that_answered_is_listed() {
    let mut table = table();
    fill(&mut table, at(1), [contact(3, 1)]);
    let entry = table.get(&contact(3, 1).id).unwrap();
    assert_eq!((entry.contact, entry.seen(), entry.rtt()), (contact(3, 1), at(1), RTT));
    assert_eq!((table.len(), table.is_empty()), (1, false));
}

#[test]
fn a_bucket_takes_k_contacts_and_the_next_one_waits() {
    let mut table = full();
    assert_eq!(table.answered(at(1), contact(0, 20), RTT), Admission::Waiting);
    table.check_invariants();
    assert_eq!(table.len(), 20);
    assert!(!lists(&table, &contact(0, 20)));
}

#[test]
fn only_the_bucket_of_the_own_id_splits() {
    let mut table = table();
    for bits in 0..10 {
        fill(&mut table, Time::ZERO, (0..K).map(|n| contact(bits, n)));
        for n in K..2 * K {
            assert_eq!(table.answered(Time::ZERO, contact(bits, n), RTT), Admission::Waiting);
        }
    }
    assert_eq!(table.len(), 10 * usize::from(K));
}

#[test]
fn ids_near_ours_make_no_more_than_48_buckets() {
    let mut table = Table::new(Time::ZERO, OWN, &Config { k: 1, ..Config::default() });
    for bits in 0..=255 {
        let _asked = table.answered(Time::ZERO, contact(bits, 0), RTT);
        table.check_invariants();
    }
    assert_eq!(table.len(), 48);
}

#[test]
fn the_replacement_cache_keeps_the_latest_ten() {
    let mut table = full();
    for n in K..K + 13 {
        assert_eq!(table.answered(at(n.into()), contact(0, n), RTT), Admission::Waiting);
    }
    for n in 0..K {
        table.failed(at(50), &contact(0, n), at(50));
        table.failed(at(50), &contact(0, n), at(50));
        table.check_invariants();
    }
    let listed: BTreeSet<NodeId> = table.entries().map(|entry| entry.contact.id).collect();
    assert_eq!(listed, (K + 3..K + 13).map(|n| contact(0, n).id).collect());
}

#[test]
fn the_replacement_seen_last_gets_the_place() {
    let mut table = full();
    for n in K..K + 3 {
        assert_eq!(table.answered(at(n.into()), contact(0, n), RTT), Admission::Waiting);
    }
    assert_eq!(table.answered(at(30), contact(0, K), RTT), Admission::Waiting);
    table.failed(at(31), &contact(0, 5), at(31));
    assert!(lists(&table, &contact(0, K)));
    assert_eq!(table.len(), 20);
}

#[test]
fn an_address_has_one_entry() {
    let mut table = table();
    fill(&mut table, Time::ZERO, [contact(0, 1)]);
    for id in [contact(0, 2).id, contact(7, 2).id] {
        let renamed = Contact { id, endpoint: contact(0, 1).endpoint };
        fill(&mut table, at(1), [renamed]);
        assert_eq!(table.len(), 1);
        assert!(lists(&table, &renamed));
    }
}

#[test]
fn an_address_has_one_entry_be_it_listed_or_waiting() {
    let mut table = full();
    assert_eq!(table.answered(at(1), contact(0, 20), RTT), Admission::Waiting);
    let renamed = Contact { id: contact(4, 0).id, endpoint: contact(0, 20).endpoint };
    fill(&mut table, at(2), [renamed]);
    table.failed(at(3), &contact(0, 0), at(3));
    assert!(lists(&table, &contact(0, 0)), "nobody waits for its place");
}

#[test]
fn the_same_id_from_another_address_is_not_listed_while_the_old_one_answers() {
    let mut table = table();
    let old = contact(0, 1);
    let new = Contact { endpoint: address(99, 9), ..old };
    fill(&mut table, Time::ZERO, [old]);
    assert_eq!(table.answered(at(1), new, RTT), Admission::AskFirst(old));
    assert!(lists(&table, &old));

    table.failed(at(2), &new, at(2));
    assert!(table.get(&old.id).unwrap().is_reliable(), "silence of another address proves nothing");

    table.failed(at(3), &old, at(3));
    fill(&mut table, at(4), [new]);
    assert!(lists(&table, &new));
    assert_eq!(table.len(), 1);
}

#[test]
fn a_waiting_id_that_answers_from_a_listed_address_has_one_entry() {
    let mut table = full();
    assert_eq!(table.answered(at(1), contact(0, 20), RTT), Admission::Waiting);
    let moved = Contact { endpoint: contact(0, 7).endpoint, ..contact(0, 20) };
    fill(&mut table, at(2), [moved]);
    assert!(lists(&table, &moved));
    assert_eq!(table.len(), 20);
}

#[test]
fn there_is_use_for_an_id_that_is_not_known_and_would_find_a_place() {
    let mut table = full();
    assert!(!table.has_use_for(&contact(0, 0)), "listed");
    assert!(table.has_use_for(&contact(1, 0)), "an empty bucket");
    assert_eq!(table.answered(at(1), contact(0, 20), RTT), Admission::Waiting);
    assert!(!table.has_use_for(&contact(0, 20)), "waiting");
    for n in K + 1..K + 10 {
        assert!(table.has_use_for(&contact(0, n)), "room to wait");
        assert_eq!(table.answered(at(1), contact(0, n), RTT), Admission::Waiting);
    }
    assert!(!table.has_use_for(&contact(0, 99)), "no room at all");
}

// Who loses it

#[test]
fn the_least_recently_seen_is_asked_first() {
    let mut table = full();
    fill(&mut table, at(1), [contact(0, 0)]);
    let newcomer = contact(0, 20);
    assert_eq!(table.answered(at(100), newcomer, RTT), Admission::AskFirst(contact(0, 1)));
    assert!(lists(&table, &contact(0, 1)) && !lists(&table, &newcomer), "it is only asked");

    fill(&mut table, at(101), [contact(0, 1)]);
    assert_eq!(table.answered(at(101), contact(0, 21), RTT), Admission::AskFirst(contact(0, 2)));
    table.failed(at(102), &contact(0, 2), at(102));
    assert!(!lists(&table, &contact(0, 2)) && lists(&table, &contact(0, 21)));
}

#[test]
fn a_contact_seen_within_a_minute_is_not_asked() {
    let just_over = at(60) + Duration::from_micros(1);
    assert_eq!(full().answered(at(60), contact(0, 20), RTT), Admission::Waiting);
    assert_eq!(full().answered(just_over, contact(0, 20), RTT), Admission::AskFirst(contact(0, 0)));
}

#[test]
fn newcomers_alone_evict_nobody() {
    let mut table = full();
    for n in K..=255 {
        let _asked = table.answered(at(u64::from(n) * 100), contact(0, n), RTT);
        assert!((0..K).all(|n| lists(&table, &contact(0, n))));
    }
}

#[test]
fn two_failures_in_a_row_drop_a_contact() {
    let mut table = table();
    fill(&mut table, Time::ZERO, [contact(0, 1)]);
    table.failed(at(1), &contact(0, 1), at(1));
    assert!(!table.get(&contact(0, 1).id).unwrap().is_reliable());
    fill(&mut table, at(2), [contact(0, 1)]);
    assert!(table.get(&contact(0, 1).id).unwrap().is_reliable());
    table.failed(at(3), &contact(0, 1), at(3));
    assert_eq!(table.len(), 1);
    table.failed(at(4), &contact(0, 1), at(4));
    assert_eq!(table.len(), 0);
}

#[test]
fn one_failure_costs_the_place_where_another_waits() {
    let mut table = full();
    assert_eq!(table.answered(at(1), contact(0, 20), RTT), Admission::Waiting);
    table.failed(at(2), &contact(0, 7), at(2));
    assert!(!lists(&table, &contact(0, 7)) && lists(&table, &contact(0, 20)));
}

#[test]
fn one_failure_costs_the_place_where_another_comes() {
    let mut table = full();
    table.failed(at(1), &contact(0, 7), at(1));
    assert!(table.has_use_for(&contact(0, 20)));
    fill(&mut table, at(2), [contact(0, 20)]);
    assert!(!lists(&table, &contact(0, 7)) && lists(&table, &contact(0, 20)));
}

#[test]
fn a_contact_that_waits_is_forgotten_by_one_failure() {
    let mut table = full();
    assert_eq!(table.answered(at(1), contact(0, 20), RTT), Admission::Waiting);
    table.failed(at(2), &contact(0, 20), at(2));
    table.failed(at(2), &contact(0, 0), at(2));
    assert!(lists(&table, &contact(0, 0)), "nobody waits for its place");
}

#[test]
fn the_round_trip_is_smoothed() {
    let mut table = table();
    fill(&mut table, Time::ZERO, [contact(0, 1)]);
    let _listed = table.answered(at(1), contact(0, 1), RTT * 9);
    assert_eq!(table.get(&contact(0, 1).id).unwrap().rtt(), RTT * 2);
}

// Who is remembered

#[test]
fn dropped_contacts_are_remembered_for_a_day_the_latest_first() {
    let mut table = table();
    assert!(!table.has_dropped());
    for n in 1..=3 {
        fill(&mut table, Time::ZERO, [contact(0, n)]);
        table.failed(at(n.into()), &contact(0, n), at(n.into()));
        table.failed(at(n.into()), &contact(0, n), at(n.into()));
    }
    let just_before = Time::from_micros((at(1) + DAY).as_micros() - 1);
    assert_eq!(dropped(&mut table, just_before), [3, 2, 1].map(|n| contact(0, n)));
    assert_eq!(dropped(&mut table, at(1) + DAY), [3, 2].map(|n| contact(0, n)));
    assert_eq!(dropped(&mut table, at(3) + DAY), []);
}

#[test]
fn at_most_128_dropped_contacts_are_remembered_each_address_once() {
    let mut table = table();
    for n in (0..200).chain([150]) {
        fill(&mut table, Time::ZERO, [contact(0, n)]);
        table.failed(at(1), &contact(0, n), at(1));
        table.failed(at(1), &contact(0, n), at(1));
    }
    table.check_invariants();
    let latest = [150].into_iter().chain((72..200).rev().filter(|n| *n != 150));
    assert_eq!(dropped(&mut table, at(2)), latest.map(|n| contact(0, n)).collect::<Vec<_>>());
}

#[test]
fn a_contact_that_another_displaces_is_remembered() {
    let mut table = full();
    table.failed(at(1), &contact(0, 7), at(1));
    fill(&mut table, at(2), [contact(0, 20)]);
    assert_eq!(dropped(&mut table, at(3)), [contact(0, 7)]);
}

// Refreshes

#[test]
fn a_bucket_is_stale_after_15_minutes_without_a_lookup() {
    let mut table = full();
    fill(&mut table, Time::ZERO, [contact(1, 0), contact(2, 0)]);
    let just_before = Time::from_micros(at(900).as_micros() - 1);
    assert_eq!(table.next_stale(), at(900));
    assert_eq!(table.stale(just_before, &NodeId::MAX), None);
    assert!(table.stale(at(900), &NodeId::MAX).is_some());
}

#[test]
fn a_lookup_through_a_bucket_puts_its_refresh_off() {
    let mut table = full();
    fill(&mut table, Time::ZERO, [contact(1, 0)]);
    assert_eq!(table.stale(at(900), &NodeId::MAX).map(|id| OWN.distance(&id).bit(0)), Some(true));
    table.touch(at(10), &contact(0, 77).id);
    assert_eq!(table.stale(at(900), &NodeId::MAX).map(|id| OWN.distance(&id).bit(0)), Some(false));
    table.touch(at(20), &OWN);
    assert_eq!(table.stale(at(909), &NodeId::MAX), None);
    assert_eq!(table.next_stale(), at(910));
}

#[test]
fn thin_buckets_have_room_and_lie_before_the_nearest_contact() {
    let mut table = full();
    assert!(table.thin_buckets().is_empty());
    for bits in [1, 3, 4] {
        fill(&mut table, Time::ZERO, (0..K).map(|n| contact(bits, n)));
    }
    fill(&mut table, Time::ZERO, [contact(2, 0), contact(5, 0)]);
    assert_eq!(table.thin_buckets(), [2]);
}

/// A walk to the own id ends at the k nearest, which may be all that the table lists.
#[test]
fn a_full_last_bucket_is_split_to_find_the_rest_of_its_far_half() {
    let mut table = table();
    let (far, near) = (0..K - 2, K - 2..K);
    fill(&mut table, Time::ZERO, far.map(|n| contact(0, n)).chain(near.map(|n| contact(1, n))));
    assert_eq!(table.thin_buckets(), [0]);
    table.check_invariants();
    assert_eq!(table.len(), usize::from(K));
}

// Whatever happens

/// Ids all over the space, and ids close to the own one and to each other.
fn ids() -> impl Strategy<Value = NodeId> {
    let near = (0_usize..256, any::<[u8; 32]>())
        .prop_map(|(bits, other)| OWN.with_suffix_of(bits, &NodeId(other)));
    prop_oneof![any::<[u8; 32]>().prop_map(NodeId), near]
        .prop_filter("a node does not meet itself", |id| *id != OWN)
}

#[derive(Clone, Debug)]
enum Step {
    Answered { contact: Contact, after: u64 },
    Failed { contact: Contact },
    Touched { target: NodeId },
}

/// Steps among few ids and addresses, so that they meet.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let known = || (0_u8..4, 0_u8..6).prop_map(|(bits, n)| contact(bits, n));
    let moved = (known(), known())
        .prop_map(|(contact, other)| Contact { endpoint: other.endpoint, ..contact });
    let contact = prop_oneof![4 => known(), 1 => moved];
    let step = prop_oneof![
        4 => (contact.clone(), 0_u64..40).prop_map(|(contact, after)| Step::Answered { contact, after }),
        2 => contact.prop_map(|contact| Step::Failed { contact }),
        1 => ids().prop_map(|target| Step::Touched { target }),
    ];
    prop::collection::vec(step, 0..150)
}

proptest! {
    #[test]
    fn closest_is_what_sorting_all_gives(
        ids in prop::collection::vec(ids(), 0..150),
        target in prop_oneof![ids(), Just(OWN)],
        count in 0_usize..25,
    ) {
        let mut table = table();
        for (n, id) in (0_u8..).zip(ids) {
            let _admission = table.answered(Time::ZERO, Contact { id, endpoint: address(0, n) }, RTT);
        }
        for wanted_bit in [None, Some(false), Some(true)] {
            let wanted = |contact: &Contact| wanted_bit.is_none_or(|bit| (contact.id.0[31] & 1 == 1) == bit);
            let mut sorted: Vec<Contact> =
                table.entries().map(|entry| entry.contact).filter(wanted).collect();
            sorted.sort_by_key(|contact| contact.id.distance(&target));
            sorted.truncate(count.min(20));
            let mut closest = ArrayVec::<Contact, MAX_CLOSEST>::new();
            table.append_closest(&target, count, |entry| wanted(&entry.contact), &mut closest);
            prop_assert_eq!(closest.to_vec(), sorted);
        }
    }

    #[test]
    fn a_refresh_of_a_bucket_falls_into_it(random: [u8; 32], contacts in 1_u8..48) {
        let mut table = Table::new(Time::ZERO, OWN, &Config { k: 1, ..Config::default() });
        fill(&mut table, Time::ZERO, (0..contacts).map(|bits| contact(bits, 0)));
        let last = usize::from(contacts) - 1;
        for bucket in 0..last {
            let id = table.id_in_bucket(bucket, &NodeId(random));
            prop_assert_eq!(OWN.distance(&id).common_prefix(), bucket);
        }
        let id = table.id_in_bucket(last, &NodeId(random));
        prop_assert!(OWN.distance(&id).common_prefix() >= last);

        for _ in 0..=last {
            let id = table.stale(at(900), &NodeId(random)).expect("one that is not refreshed yet");
            table.touch(at(900), &id);
        }
        prop_assert_eq!(table.stale(at(900), &NodeId(random)), None);
    }

    #[test]
    fn any_sequence_of_events_keeps_the_rules(steps in steps()) {
        let mut table = Table::new(
            Time::ZERO,
            OWN,
            &Config { k: 3, replacements: 2, ..Config::default() },
        );
        let mut now = Time::ZERO;
        for step in steps {
            let reliable: Vec<Contact> =
                table.entries().filter(|entry| entry.is_reliable()).map(|entry| entry.contact).collect();
            match &step {
                Step::Answered { contact, after } => {
                    now = now + SECOND * u32::try_from(*after).expect("a short time");
                    match table.answered(now, *contact, RTT) {
                        Admission::Listed => prop_assert!(lists(&table, contact)),
                        Admission::Waiting => prop_assert!(!lists(&table, contact)),
                        Admission::AskFirst(listed) => {
                            prop_assert!(lists(&table, &listed) && !lists(&table, contact));
                        }
                    }
                    for old in reliable.iter().filter(|old| old.endpoint != contact.endpoint) {
                        prop_assert!(lists(&table, old), "evicted without having failed");
                    }
                }
                Step::Failed { contact } => {
                    table.failed(now, contact, now);
                    for old in reliable.iter().filter(|old| *old != contact) {
                        prop_assert!(lists(&table, old), "evicted by another's failure");
                    }
                }
                Step::Touched { target } => table.touch(now, target),
            }
            table.check_invariants();
            prop_assert_eq!(table.len(), table.entries().count());
        }
    }
}
