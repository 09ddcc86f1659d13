//! What a caller gives time for: far nodes, nodes that come up late, and what is told at once because
//! no time helps.

use std::sync::Arc;
use std::time::Duration;

use crate::net::{Network, public, seed};
use kadepy::dht::protocol::{Event, Obstacle, Outcome, SeedState, Warning};
use kadepy::dht::requests::OpId;
use kadepy::{Config, Endpoint, NodeId};

const SECOND: Duration = Duration::from_secs(1);
const TOPIC: NodeId = NodeId([0x77; 32]);
/// The code of no system: the engine passes it on.
const REFUSED: i32 = 4_242;

fn network(nodes: u32) -> Network {
    let mut network = Network::new(seed(1));
    for node in 1..=nodes {
        network.add(public(node), &Arc::new(Config::default()));
    }
    network
}

fn ping(network: &mut Network, to: Endpoint, timeout: Option<Duration>) -> OpId {
    network
        .command(public(1), |node, now, out| node.ping(now, to, timeout, out))
        .expect("there is room")
}

fn join(network: &mut Network, at: Endpoint, seed: Endpoint, timeout: Duration) -> OpId {
    network
        .command(at, |node, now, out| node.join(now, vec![seed], false, Some(timeout), out))
        .expect("there is room")
}

fn announce(network: &mut Network, timeout: Duration) -> OpId {
    network
        .command(public(1), |node, now, out| {
            node.announce_peer(now, TOPIC, Some(80), Some(timeout), out)
        })
        .expect("there is room")
}

fn stay_joined(network: &mut Network, at: Endpoint, seeds: &[Endpoint]) {
    network.command(at, |node, now, out| node.stay_joined(now, seeds.to_vec(), false, out));
}

#[test]
fn far_nodes_are_reached_within_the_time_that_the_caller_gave() {
    for millis in [500, 1_800, 3_000, 6_000] {
        let round_trip = Duration::from_millis(millis);
        let mut network = network(2);
        network.latency = Some(round_trip / 2);
        let op = ping(&mut network, public(2), Some(10 * SECOND));
        assert_eq!(network.finish(public(1), op), Outcome::Pong(round_trip));
        let op = join(&mut network, public(1), public(2), 20 * SECOND);
        let outcome = network.finish(public(1), op);
        assert!(matches!(outcome, Outcome::Joined { contacts: 1, .. }), "{millis}: {outcome:?}");
        let op = announce(&mut network, 30 * SECOND);
        assert_eq!(network.finish(public(1), op), Outcome::Announced(1), "{millis} ms");
    }
}

#[test]
fn a_join_reaches_a_contact_that_comes_up_later() {
    let mut network = network(2);
    network.dead.push(public(2));
    let op = join(&mut network, public(1), public(2), 20 * SECOND);
    network.run(5 * SECOND);
    network.dead.clear();
    let outcome = network.finish(public(1), op);
    assert!(matches!(outcome, Outcome::Joined { contacts: 1, .. }), "{outcome:?}");
    assert!(network.now.as_micros() < 20_000_000);
}

#[test]
fn a_ping_asks_with_longer_and_longer_pauses_until_its_deadline() {
    let mut network = network(1);
    network.records = true;
    let op = ping(&mut network, public(9), Some(60 * SECOND));
    network.run(59 * SECOND);
    assert_eq!(network.take_outcome(public(1), op), None);
    assert_eq!(network.finish(public(1), op), Outcome::Silence);
    assert_eq!(network.now.as_micros(), 60_000_000);
    assert!((5..=12).contains(&network.sent.len()), "{} questions", network.sent.len());
}

#[test]
fn a_ping_without_a_deadline_ends_after_three_questions() {
    let mut network = network(1);
    network.records = true;
    let op = ping(&mut network, public(9), None);
    assert_eq!(network.finish(public(1), op), Outcome::Silence);
    assert_eq!(network.sent.len(), 3);
}

#[test]
fn whoever_waits_for_what_the_system_does_not_send_is_told_at_once() {
    let mut network = network(2);
    let refuse = |network: &mut Network| {
        network.command(public(1), |node, now, out| node.unsent(now, public(2), REFUSED, out));
    };
    let failed = Outcome::Failed(Obstacle::System(REFUSED));
    let op = ping(&mut network, public(2), Some(60 * SECOND));
    refuse(&mut network);
    assert_eq!(network.take_outcome(public(1), op), Some(failed.clone()));

    let op = join(&mut network, public(1), public(2), 60 * SECOND);
    refuse(&mut network);
    let seeds = vec![(public(2), SeedState::Failed(Obstacle::System(REFUSED)))];
    let joined = Outcome::Joined { contacts: 0, seeds };
    assert_eq!(network.take_outcome(public(1), op), Some(joined));

    let op = join(&mut network, public(1), public(2), 60 * SECOND);
    network.finish(public(1), op);
    let op = announce(&mut network, 60 * SECOND);
    refuse(&mut network);
    assert_eq!(network.take_outcome(public(1), op), Some(failed));
}

#[test]
fn lookups_of_a_node_whose_only_contact_is_itself_do_not_wait() {
    let mut network = network(1);
    stay_joined(&mut network, public(1), &[public(1)]);
    let op = announce(&mut network, 60 * SECOND);
    network.run(SECOND / 100);
    assert_eq!(network.take_outcome(public(1), op), Some(Outcome::Announced(0)));
}

#[test]
fn a_node_that_asks_with_this_nodes_id_is_warned_of_once_a_minute() {
    let mut network = network(1);
    let own = network.nodes[&public(1)].id();
    let packet = [vec![0], own.0.to_vec()].concat();
    for from in 2..50 {
        assert_eq!(network.inject(public(from), public(1), &packet), []);
        network.run(2 * SECOND);
    }
    let told = network.events.remove(&public(1)).unwrap_or_default();
    let is_warning = |event: &&Event| matches!(event, Event::Warning(Warning::Namesake(_)));
    assert_eq!(told.iter().filter(is_warning).count(), 2, "{told:?}");
}

#[test]
fn a_contact_that_comes_up_late_is_joined_with_whoever_joined_through_it() {
    let mut network = network(4);
    let (node, early, late, newcomer) = (public(1), public(2), public(3), public(4));
    network.dead.push(late);
    stay_joined(&mut network, node, &[early, late]);
    network.run(600 * SECOND);
    network.records = true;
    network.run(3_600 * SECOND);
    let asked = network.sent.iter().filter(|(_, to, _)| *to == late).count();
    assert!((6..=24).contains(&asked), "{asked} questions in an hour");
    network.dead.clear();
    stay_joined(&mut network, newcomer, &[late]);
    network.run(700 * SECOND);
    assert_eq!(network.nodes[&node].table().len(), 3, "it knows the newcomer");
}

#[test]
fn contacts_that_are_listed_are_asked_nothing_more() {
    let traffic = |stays: bool| {
        let mut network = network(2);
        if stays {
            stay_joined(&mut network, public(1), &[public(2)]);
        } else {
            join(&mut network, public(1), public(2), 20 * SECOND);
        }
        network.run(9 * SECOND);
        network.records = true;
        network.run(3_000 * SECOND);
        network.sent.len()
    };
    assert_eq!(traffic(true), traffic(false));
}
