//! The contacts that a node joins through, which may come one after the other: who is asked when, and
//! what a join waits for.

use std::time::Duration;

use crate::net::public;
use crate::scripted::{Stage, reply};
use kadepy::dht::protocol::{Outcome, SeedState};
use kadepy::{Config, Contact, Endpoint, NodeId};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const TOPIC: NodeId = NodeId([0x77; 32]);

/// Has the node join through `seeds`, and more where it `expects_more`.
fn join(
    stage: &mut Stage,
    seeds: &[Endpoint],
    expects_more: bool,
    timeout: impl Into<Option<Duration>>,
) -> u64 {
    let timeout = timeout.into();
    stage
        .network
        .command(stage.at, |node, now, out| {
            node.join(now, seeds.to_vec(), expects_more, timeout, out)
        })
        .expect("there is room")
}

fn add_seeds(stage: &mut Stage, op: u64, seeds: &[Endpoint], expects_more: bool) {
    stage.network.command(stage.at, |node, now, out| {
        node.add_seeds(now, op, seeds.to_vec(), expects_more, out);
    });
}

/// Has a seed answer all that it was asked.
fn answer(stage: &mut Stage, seed: Endpoint) {
    for question in stage.sent(seed) {
        stage.inject(seed, &reply(NodeId([9; 32]), &question, &[], None));
    }
}

#[test]
fn a_join_waits_for_the_seeds_that_it_expects_until_its_deadline() {
    let mut stage = Stage::new(Config::default());
    let silent = public(2);
    let op = join(&mut stage, &[silent], true, 60 * SECOND);
    stage.network.run(59 * SECOND);
    assert_eq!(stage.outcome(op), None, "the only seed is silent long since");
    stage.network.run(2 * SECOND);
    let seeds = vec![(silent, SeedState::Silent)];
    assert_eq!(stage.outcome(op), Some(Outcome::Joined { contacts: 0, seeds }));
}

#[test]
fn a_join_that_expects_seeds_and_has_none_waits_for_them() {
    let mut stage = Stage::new(Config::default());
    let late = public(2);
    let op = join(&mut stage, &[], true, 60 * SECOND);
    stage.network.run(30 * SECOND);
    add_seeds(&mut stage, op, &[late], false);
    answer(&mut stage, late);
    stage.network.run(10 * SECOND);
    let seeds = vec![(late, SeedState::Answered)];
    assert_eq!(stage.outcome(op), Some(Outcome::Joined { contacts: 1, seeds }));
}

#[test]
fn a_join_ends_when_the_last_expected_seeds_turn_out_to_be_none() {
    let mut stage = Stage::new(Config::default());
    let silent = public(2);
    let op = join(&mut stage, &[silent], true, None);
    stage.network.run(60 * SECOND);
    add_seeds(&mut stage, op, &[], true);
    stage.network.run(60 * SECOND);
    assert_eq!(stage.outcome(op), None);
    add_seeds(&mut stage, op, &[], false);
    let seeds = vec![(silent, SeedState::Silent)];
    assert_eq!(stage.outcome(op), Some(Outcome::Joined { contacts: 0, seeds }));
}

#[test]
fn an_answer_ends_a_join_whatever_it_expects_still() {
    let mut stage = Stage::new(Config::default());
    let (live, late) = (public(2), public(3));
    let op = join(&mut stage, &[live], true, HOUR);
    answer(&mut stage, live);
    stage.network.run(10 * SECOND);
    let seeds = vec![(live, SeedState::Answered)];
    assert_eq!(stage.outcome(op), Some(Outcome::Joined { contacts: 1, seeds }));
    add_seeds(&mut stage, op, &[late], false);
    assert!(stage.sent(late).is_empty(), "it is over");
}

#[test]
fn a_seed_that_comes_again_is_asked_once() {
    let mut stage = Stage::new(Config::default());
    let (first, second) = (public(2), public(3));
    let op = join(&mut stage, &[first, first], true, HOUR);
    add_seeds(&mut stage, op, &[first, second, second], true);
    assert_eq!((stage.sent(first).len(), stage.sent(second).len()), (1, 1));
}

#[test]
fn seeds_for_a_lookup_that_is_no_join_are_left_alone() {
    let mut stage = Stage::new(Config::default());
    let contact = Contact { id: TOPIC.with_flipped_bit(1), endpoint: public(2) };
    stage.list(contact);
    let op = stage.find_node(TOPIC);
    add_seeds(&mut stage, op, &[public(3)], false);
    add_seeds(&mut stage, op + 1, &[public(3)], false);
    assert!(stage.sent(public(3)).is_empty());
}

#[test]
fn a_join_through_many_seeds_asks_a_few_at_once_and_all_in_the_end() {
    let mut stage = Stage::new(Config::default());
    let seeds: Vec<Endpoint> = (2..102).map(public).collect();
    let (live, silent) = seeds.split_last().expect("there are some");
    let op = join(&mut stage, &seeds, false, HOUR);
    let asked = silent.iter().filter(|seed| !stage.sent(**seed).is_empty()).count();
    assert_eq!(asked, 64);
    for _ in 0..600 {
        stage.network.run(100 * MS);
        answer(&mut stage, *live);
    }
    let Some(Outcome::Joined { contacts: 1, seeds }) = stage.outcome(op) else {
        panic!("the last seed is there");
    };
    assert_eq!(seeds.last(), Some(&(*live, SeedState::Answered)));
    assert_eq!(seeds.len(), 100);
}

/// How long it takes until the node asks `seed`, within `limit`.
fn next_try(stage: &mut Stage, seed: Endpoint, limit: Duration) -> Option<Duration> {
    let begin = stage.network.now;
    while stage.network.now < begin + limit {
        if !stage.sent(seed).is_empty() {
            return Some(stage.network.now - begin);
        }
        stage.network.run(10 * MS);
    }
    None
}

fn stay_joined(stage: &mut Stage, seeds: &[Endpoint]) {
    stage.network.command(stage.at, |node, now, out| {
        node.stay_joined(now, seeds.to_vec(), false, out);
    });
}

/// A node whose only home contact is silent, so that the next try is a minute away.
fn given_up(silent: Endpoint) -> Stage {
    let mut stage = Stage::new(Config::default());
    stay_joined(&mut stage, &[silent]);
    // Past the tries after 1 to 32 seconds.
    stage.network.run(90 * SECOND);
    stage.sent(silent);
    let wait = next_try(&mut stage, silent, 120 * SECOND).expect("it tries again");
    assert!(wait > 10 * SECOND, "{wait:?}");
    // That try fails.
    stage.network.run(10 * SECOND);
    stage.sent(silent);
    stage
}

#[test]
fn home_contacts_that_were_known_bring_no_earlier_try() {
    let silent = public(2);
    let mut stage = given_up(silent);
    stay_joined(&mut stage, &[silent]);
    assert_eq!(next_try(&mut stage, silent, 40 * SECOND), None);
    assert!(next_try(&mut stage, silent, 30 * SECOND).is_some());
}

#[test]
fn a_new_home_contact_waits_for_the_next_try_after_a_failure() {
    let (silent, new) = (public(2), public(3));
    let mut stage = given_up(silent);
    stay_joined(&mut stage, &[silent, new]);
    assert_eq!(next_try(&mut stage, new, 40 * SECOND), None);
    assert!(next_try(&mut stage, new, 30 * SECOND).is_some());
}

#[test]
fn a_home_contact_that_is_no_longer_named_is_no_longer_asked() {
    let (former, new) = (public(2), public(3));
    let mut stage = given_up(former);
    stay_joined(&mut stage, &[new]);
    stage.network.run(300 * SECOND);
    assert!(stage.sent(former).is_empty());
    assert!(stage.sent(new).len() > 3);
}

#[test]
fn seeds_that_come_while_others_are_asked_are_asked_at_once() {
    let mut stage = Stage::new(Config::default());
    let (dead, late) = (public(2), public(3));
    stage.network.command(stage.at, |node, now, out| node.stay_joined(now, vec![dead], false, out));
    stage.network.run(10 * MS);
    stage
        .network
        .command(stage.at, |node, now, out| node.stay_joined(now, vec![dead, late], false, out));
    assert_eq!(stage.sent(late).len(), 1);
}

#[test]
fn lookups_wait_for_seeds_that_are_still_being_resolved() {
    let mut stage = Stage::new(Config::default());
    stage.network.command(stage.at, |node, now, out| node.stay_joined(now, vec![], true, out));
    let op = stage.find_node(TOPIC);
    stage.network.run(HOUR);
    assert_eq!(stage.outcome(op), None);
    stage.network.command(stage.at, |node, now, out| node.stay_joined(now, vec![], false, out));
    stage.network.run(SECOND);
    assert_eq!(stage.outcome(op), Some(Outcome::Nodes(vec![])));
}

#[test]
fn a_far_seed_is_waited_for_however_near_those_are_that_were_measured() {
    let mut stage = Stage::new(Config::default());
    let (near, far) = (public(2), public(3));
    stage.list(Contact { id: NodeId([8; 32]), endpoint: near });
    let op = join(&mut stage, &[far], false, 10 * SECOND);
    answer(&mut stage, near);
    stage.network.run(900 * MS);
    assert_eq!(stage.outcome(op), None);
    answer(&mut stage, far);
    stage.network.run(SECOND);
    let seeds = vec![(far, SeedState::Answered)];
    assert_eq!(stage.outcome(op), Some(Outcome::Joined { contacts: 2, seeds }));
}

#[test]
fn a_join_without_a_deadline_asks_a_named_seed_three_times() {
    let mut stage = Stage::new(Config::default());
    let silent = public(2);
    let op = join(&mut stage, &[silent], false, None);
    stage.network.run(10 * SECOND);
    assert_eq!(stage.sent(silent).len(), 3);
    let seeds = vec![(silent, SeedState::Silent)];
    assert_eq!(stage.outcome(op), Some(Outcome::Joined { contacts: 0, seeds }));
}
