//! One lookup from outside: whom it asks and when again, what it makes of silence, and when it is done.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{id, public};
use kadepy::dht::lookup::{Lookup, Query};
use kadepy::wire::message::Token;
use kadepy::{Config, Contact, Endpoint, NodeId};
use proptest::prelude::*;

/// With this target, contact `n` is the farther the greater `n` is.
const TARGET: NodeId = NodeId::ZERO;

fn contact(n: u16) -> Contact {
    Contact { id: id(n), endpoint: public(n) }
}

/// A lookup that has heard of `contacts`.
fn lookup(config: &Config, contacts: impl IntoIterator<Item = u16>) -> Lookup {
    let mut lookup = Lookup::new(TARGET, config);
    for n in contacts {
        lookup.add(contact(n));
    }
    lookup.check_invariants();
    lookup
}

fn small(k: usize, alpha: usize) -> Config {
    Config { k, alpha, ..Config::default() }
}

fn first(n: u16) -> Query {
    Query { contact: contact(n), is_retry: false }
}

fn again(n: u16) -> Query {
    Query { contact: contact(n), is_retry: true }
}

/// Every query that the lookup has to send now.
fn queries(lookup: &mut Lookup) -> Vec<Query> {
    let queries = std::iter::from_fn(|| lookup.next_query()).collect();
    lookup.check_invariants();
    queries
}

fn answer(lookup: &mut Lookup, n: u16) {
    lookup.answered(contact(n), None);
    lookup.check_invariants();
}

fn closest(lookup: &Lookup) -> Vec<Contact> {
    lookup.closest().map(|(contact, _)| contact).collect()
}

// Whom it asks

#[test]
fn at_most_alpha_queries_are_under_way() {
    let mut lookup = lookup(&small(20, 3), 1..=10);
    assert_eq!(queries(&mut lookup), [1, 2, 3].map(first));
    answer(&mut lookup, 2);
    assert_eq!(queries(&mut lookup), [4].map(first));
}

#[test]
fn the_nearest_is_asked_first() {
    let mut lookup = lookup(&small(20, 1), [7, 3, 9]);
    assert_eq!(queries(&mut lookup), [first(3)]);
    lookup.add(contact(1));
    lookup.add(contact(8));
    answer(&mut lookup, 3);
    assert_eq!(queries(&mut lookup), [first(1)]);
}

#[test]
fn an_id_that_has_answered_is_not_asked_elsewhere() {
    let mut lookup = lookup(&Config::default(), [1]);
    assert_eq!(queries(&mut lookup), [first(1)]);
    answer(&mut lookup, 1);
    lookup.add(contact(1));
    lookup.add(Contact { endpoint: public(99), ..contact(1) });
    assert_eq!(queries(&mut lookup), []);
    assert!(lookup.is_done());
}

#[test]
fn whoever_names_a_wrong_address_does_not_hide_a_node() {
    let wrong = Contact { endpoint: public(99), ..contact(1) };
    let mut lookup = lookup(&Config::default(), []);
    lookup.add(wrong);
    lookup.add(contact(1));
    assert_eq!(queries(&mut lookup).len(), 2);
    answer(&mut lookup, 1);
    assert_eq!(closest(&lookup), [contact(1)]);
    assert!(lookup.is_done(), "nothing is left to learn at the wrong one");
}

#[test]
fn whoever_names_many_ids_at_one_address_aims_two_queries_and_their_repetitions_at_it() {
    let mut lookup = lookup(&Config::default(), []);
    for n in 1..=20 {
        lookup.add(Contact { endpoint: public(99), ..contact(n) });
    }
    for n in [1, 1, 2, 2] {
        let asked = queries(&mut lookup);
        assert_eq!(asked.len(), 1);
        assert_eq!(asked[0].contact, Contact { endpoint: public(99), ..contact(n) });
        lookup.late(&asked[0].contact);
    }
    assert_eq!(queries(&mut lookup), []);
    assert!(lookup.is_done());
}

/// An address of one host, which has a port for each `n`, or of one IPv6 network.
fn of_one_host(n: u16, ipv4: bool) -> Endpoint {
    match ipv4 {
        true => Endpoint::new([50, 0, 0, 1], n),
        false => Endpoint::new([0x2a00, 0, 0, 1, 0, 0, 0, n], 4_000),
    }
}

#[test]
fn one_host_is_two_contacts_of_a_lookup_however_many_it_claims_to_be() {
    for ipv4 in [true, false] {
        let mut lookup = Lookup::new(TARGET, &Config::default());
        for n in 1..=50 {
            lookup.add(Contact { endpoint: of_one_host(n, ipv4), ..contact(n) });
        }
        for n in 51..=60 {
            lookup.add(contact(n));
        }
        let mut asked = Vec::new();
        while let Some(query) = lookup.next_query() {
            asked.push(query.contact.id);
            lookup.answered(query.contact, None);
            lookup.check_invariants();
        }
        let expected: Vec<NodeId> = [1, 2].into_iter().chain(51..=60).map(id).collect();
        assert_eq!(asked.iter().collect::<BTreeSet<_>>(), expected.iter().collect());
    }
}

#[test]
fn whoever_names_made_up_nodes_of_a_host_hides_none_of_its_nodes() {
    let mut lookup = Lookup::new(TARGET, &small(20, 2));
    let made_up = [1, 2].map(|n| Contact { endpoint: of_one_host(n, true), ..contact(n) });
    made_up.into_iter().for_each(|contact| lookup.add(contact));
    let real = Contact { endpoint: of_one_host(3, true), ..contact(3) };
    for _ in 0..2 {
        lookup.add(real);
        assert_eq!(queries(&mut lookup).len(), 2);
        made_up.iter().for_each(|contact| lookup.late(contact));
    }
    assert_eq!(queries(&mut lookup), []);
    lookup.add(real);
    assert_eq!(queries(&mut lookup), [Query { contact: real, is_retry: false }]);
}

#[test]
fn an_address_that_was_silent_under_one_id_may_be_that_of_another() {
    let mut lookup = lookup(&Config::default(), []);
    let made_up = Contact { id: id(1), ..contact(2) };
    lookup.add(made_up);
    for _ in 0..2 {
        assert_eq!(queries(&mut lookup).len(), 1);
        lookup.late(&made_up);
    }
    lookup.add(contact(2));
    assert_eq!(queries(&mut lookup), [first(2)]);
}

#[test]
fn a_short_wait_that_is_over_frees_its_place() {
    let mut lookup = lookup(&small(20, 3), 1..=10);
    assert_eq!(queries(&mut lookup), [1, 2, 3].map(first));
    lookup.late(&contact(1));
    assert_eq!(queries(&mut lookup), [first(4)]);
}

#[test]
fn a_silent_contact_is_asked_again_as_often_as_configured() {
    for lookup_retries in 0..=3 {
        let config = Config { lookup_retries, ..Config::default() };
        let mut lookup = lookup(&config, [1]);
        let mut asked = Vec::new();
        while let Some(query) = lookup.next_query() {
            asked.push(query.is_retry);
            lookup.late(&query.contact);
        }
        assert_eq!(asked, [&[false][..], &vec![true; lookup_retries]].concat());
        assert!(lookup.is_done());
    }
}

#[test]
fn a_query_is_repeated_only_after_the_new_ones() {
    let mut lookup = lookup(&small(20, 1), 1..=3);
    for n in 1..=3 {
        assert_eq!(queries(&mut lookup), [first(n)]);
        lookup.late(&contact(n));
    }
    assert_eq!(queries(&mut lookup), [again(1)]);
    lookup.add(contact(4));
    lookup.late(&contact(1));
    assert_eq!(queries(&mut lookup), [first(4)]);
}

#[test]
fn a_query_is_repeated_once() {
    let mut lookup = lookup(&Config::default(), [1]);
    assert_eq!(queries(&mut lookup), [first(1)]);
    lookup.late(&contact(1));
    assert!(!lookup.is_done());
    assert_eq!(queries(&mut lookup), [again(1)]);
    lookup.late(&contact(1));
    assert_eq!(queries(&mut lookup), []);
    assert!(lookup.is_done());
}

#[test]
fn only_the_k_nearest_that_did_not_fail_are_asked() {
    let mut lookup = lookup(&small(3, 20), 1..=10);
    assert_eq!(queries(&mut lookup), [1, 2, 3].map(first));
    lookup.failed(&contact(2));
    assert_eq!(queries(&mut lookup), [first(4)]);
    lookup.late(&contact(1));
    assert_eq!(queries(&mut lookup), [again(1)]);
    lookup.late(&contact(1));
    assert_eq!(queries(&mut lookup), [first(5)]);
}

#[test]
fn being_late_means_nothing_to_who_is_not_waited_for() {
    let mut lookup = lookup(&small(20, 1), [1, 2]);
    lookup.late(&contact(2));
    lookup.late(&contact(3));
    assert_eq!(queries(&mut lookup), [first(1)]);
    answer(&mut lookup, 1);
    lookup.late(&contact(1));
    assert_eq!(closest(&lookup), [contact(1)]);
    assert_eq!(queries(&mut lookup), [first(2)]);
}

// What it makes of answers

#[test]
fn a_late_answer_counts() {
    let mut lookup = lookup(&Config::default(), [1]);
    assert_eq!(queries(&mut lookup), [first(1)]);
    lookup.late(&contact(1));
    answer(&mut lookup, 1);
    assert_eq!(queries(&mut lookup), []);
    assert!(lookup.is_done());
    assert_eq!(closest(&lookup), [contact(1)]);
}

#[test]
fn an_answer_after_both_waits_counts() {
    let mut lookup = lookup(&Config::default(), [1, 2]);
    assert_eq!(queries(&mut lookup), [first(1), first(2)]);
    lookup.late(&contact(1));
    assert_eq!(queries(&mut lookup), [again(1)]);
    lookup.late(&contact(1));
    answer(&mut lookup, 1);
    assert_eq!(closest(&lookup), [contact(1)]);
}

#[test]
fn an_answer_of_somebody_it_has_not_heard_of_counts() {
    let mut lookup = lookup(&Config::default(), [2]);
    answer(&mut lookup, 1);
    assert_eq!(closest(&lookup), [contact(1)]);
    assert_eq!(queries(&mut lookup), [first(2)]);
}

#[test]
fn an_answer_shows_the_address_whatever_was_said_of_it() {
    let mut lookup = lookup(&Config::default(), []);
    lookup.add(Contact { endpoint: public(99), ..contact(1) });
    answer(&mut lookup, 1);
    assert_eq!(closest(&lookup), [contact(1)]);
}

#[test]
fn the_closest_are_the_k_nearest_that_answered_with_their_tokens() {
    let mut lookup = lookup(&small(3, 20), []);
    let token = |n: u16| Token::try_from(&n.to_be_bytes()[..]).ok();
    for n in [5, 2, 9, 4] {
        lookup.answered(contact(n), token(n));
    }
    lookup.add(contact(1));
    lookup.add(contact(3));
    let found: Vec<(Contact, Option<Token>)> = lookup.closest().collect();
    assert_eq!(found, [2, 4, 5].map(|n| (contact(n), token(n))));
}

// When it is done

#[test]
fn with_nobody_to_ask_it_is_done() {
    let mut lookup = lookup(&Config::default(), []);
    assert!(lookup.is_done());
    assert_eq!(queries(&mut lookup), []);
}

#[test]
fn it_is_done_when_the_k_nearest_have_answered() {
    let mut lookup = lookup(&small(3, 3), 1..=10);
    assert_eq!(queries(&mut lookup), [1, 2, 3].map(first));
    for n in 1..=3 {
        assert!(!lookup.is_done());
        answer(&mut lookup, n);
    }
    assert!(lookup.is_done());
    assert_eq!(queries(&mut lookup), []);
}

#[test]
fn a_nearer_contact_that_is_heard_of_at_last_puts_the_end_off() {
    let mut lookup = lookup(&small(2, 2), [5, 6]);
    assert_eq!(queries(&mut lookup), [first(5), first(6)]);
    answer(&mut lookup, 5);
    lookup.add(contact(1));
    answer(&mut lookup, 6);
    assert!(!lookup.is_done());
    assert_eq!(queries(&mut lookup), [first(1)]);
    answer(&mut lookup, 1);
    assert!(lookup.is_done());
    assert_eq!(closest(&lookup), [contact(1), contact(5)]);
}

#[test]
fn it_does_not_wait_for_contacts_beyond_the_k_nearest() {
    let mut lookup = lookup(&small(1, 3), [5]);
    assert_eq!(queries(&mut lookup), [first(5)]);
    answer(&mut lookup, 1);
    assert!(lookup.is_done());
}

#[test]
fn contacts_that_failed_do_not_hold_it_up() {
    let mut lookup = lookup(&small(2, 3), [1, 2, 3]);
    assert_eq!(queries(&mut lookup), [first(1), first(2)]);
    lookup.failed(&contact(1));
    answer(&mut lookup, 2);
    assert!(!lookup.is_done());
    assert_eq!(queries(&mut lookup), [first(3)]);
    answer(&mut lookup, 3);
    assert!(lookup.is_done());
    assert_eq!(closest(&lookup), [contact(2), contact(3)]);
}

#[test]
fn it_ends_after_120_queries_when_the_last_is_settled() {
    let mut lookup = lookup(&small(20, 1), []);
    for n in (1..=120).rev() {
        lookup.add(contact(n));
        assert_eq!(queries(&mut lookup), [first(n)]);
        assert!(!lookup.is_done());
        answer(&mut lookup, n);
    }
    lookup.add(contact(0));
    assert_eq!(queries(&mut lookup), []);
    assert!(lookup.is_done());
    assert_eq!(lookup.queries(), 120);
    assert_eq!(closest(&lookup), (1..=20).map(contact).collect::<Vec<_>>());
}

#[test]
fn repetitions_count_against_the_cap() {
    let config = Config { lookup_queries: 3, ..small(20, 1) };
    let mut lookup = lookup(&config, [1, 2]);
    for expected in [first(1), first(2), again(1)] {
        assert_eq!(queries(&mut lookup), [expected]);
        assert!(!lookup.is_done());
        lookup.late(&expected.contact);
    }
    assert_eq!(queries(&mut lookup), []);
    assert!(lookup.is_done());
}

#[test]
fn the_shortlist_keeps_the_nearest_100() {
    let mut lookup = lookup(&Config { lookup_queries: 1_000, ..small(20, 1) }, (1..=150).rev());
    let mut asked = Vec::new();
    while let Some(query) = lookup.next_query() {
        asked.push(query.contact);
        lookup.failed(&query.contact);
        lookup.check_invariants();
    }
    assert_eq!(asked, (1..=100).map(contact).collect::<Vec<_>>());
}

// Whatever happens

/// What becomes of a query, and whom an answer names.
#[derive(Clone, Debug)]
enum Fate {
    Answered {
        names: Vec<u16>,
    },
    Late,
    /// Late, and the answer comes when something else happens.
    Slow {
        names: Vec<u16>,
    },
    Failed,
}

fn fates() -> impl Strategy<Value = Vec<(usize, Fate)>> {
    let names = || prop::collection::vec(0_u16..300, 0..8);
    let fate = prop_oneof![
        4 => names().prop_map(|names| Fate::Answered { names }),
        2 => Just(Fate::Late),
        2 => names().prop_map(|names| Fate::Slow { names }),
        1 => Just(Fate::Failed),
    ];
    prop::collection::vec((any::<usize>(), fate), 0..200)
}

proptest! {
    #[test]
    fn every_lookup_ends_within_its_caps_with_the_nearest_that_answered(
        k in 1_usize..=20,
        alpha in 1_usize..=20,
        lookup_queries in 1_usize..=150,
        shortlist in 20_usize..100,
        known in prop::collection::vec(0_u16..300, 0..30),
        fates in fates(),
    ) {
        let config = Config { lookup_queries, shortlist, ..small(k, alpha) };
        let mut lookup = lookup(&config, known.iter().copied());
        let mut fates = fates.into_iter();
        let mut under_way: Vec<Contact> = Vec::new();
        let mut slow: Vec<(Contact, Vec<u16>)> = Vec::new();
        let mut asked: BTreeMap<NodeId, usize> = BTreeMap::new();
        let mut heard_of: BTreeSet<NodeId> = known.into_iter().map(id).collect();
        let mut answered: BTreeSet<NodeId> = BTreeSet::new();
        loop {
            while let Some(query) = lookup.next_query() {
                let times = asked.entry(query.contact.id).or_default();
                *times += 1;
                prop_assert_eq!(*times, if query.is_retry { 2 } else { 1 });
                under_way.push(query.contact);
            }
            lookup.check_invariants();
            prop_assert_eq!(lookup.queries(), asked.values().sum::<usize>());
            if lookup.is_done() {
                break;
            }
            prop_assert!(!under_way.is_empty(), "it waits for nothing and is not done");

            // Where the fates end, everybody is silent.
            let (which, fate) = fates.next().unwrap_or((0, Fate::Late));
            let asked = under_way.swap_remove(which % under_way.len());
            let answer = match fate {
                Fate::Answered { names } => Some((asked, names)),
                Fate::Late => {
                    lookup.late(&asked);
                    None
                }
                Fate::Slow { names } => {
                    lookup.late(&asked);
                    slow.push((asked, names));
                    (slow.len() > 2).then(|| slow.remove(0))
                }
                Fate::Failed => {
                    lookup.failed(&asked);
                    answered.remove(&asked.id);
                    None
                }
            };
            if let Some((from, names)) = answer {
                lookup.answered(from, None);
                answered.insert(from.id);
                heard_of.extend(names.iter().copied().map(id));
                names.into_iter().map(contact).for_each(|named| lookup.add(named));
            }
        }
        prop_assert!(lookup.queries() <= lookup_queries);
        // The order of ids is that of their distances from this target.
        let in_view = heard_of.into_iter().take(shortlist);
        let nearest: Vec<NodeId> = in_view.filter(|id| answered.contains(id)).take(k).collect();
        let found: Vec<NodeId> = lookup.closest().map(|(contact, _)| contact.id).collect();
        prop_assert_eq!(found, nearest);
    }
}
