//! Many operations at once on one node, in a network whose receive buffers overflow: the node asks no
//! more than what can come back.

use std::sync::Arc;
use std::time::Duration;

use crate::net::{Network, public, seed};
use kadepy::dht::protocol::{Event, Outcome};
use kadepy::dht::requests::OpId;
use kadepy::{Config, Endpoint, NodeId};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// Room for answers in each node's receive buffer.
const BUFFER: usize = 128;

/// Nodes that know each other, from here on with little room in their buffers.
fn crowded(seed: u64, nodes: u32) -> Network {
    let mut network = Network::new(seed);
    let config = Arc::new(Config::default());
    for index in 0..nodes {
        let at = public(index);
        network.add(at, &config);
        network.command(at, |node, now, out| {
            node.set_buffer(BUFFER);
            node.stay_joined(now, vec![public(0)], false, out);
        });
        network.run(SECOND);
    }
    network.run(MINUTE);
    network.buffer = BUFFER;
    network
}

fn topic(index: u32) -> NodeId {
    NodeId::of_topic(&index.to_be_bytes())
}

fn announce(network: &mut Network, at: Endpoint, index: u32, timeout: Duration) -> OpId {
    network
        .command(at, |node, now, out| {
            node.announce_peer(now, topic(index), Some(80), Some(timeout), out)
        })
        .expect("there is room for an operation")
}

/// How many nodes confirmed each announce that has ended, in the order of their ends.
fn confirmed(network: &Network, at: Endpoint) -> Vec<(OpId, usize)> {
    let events = network.events.get(&at).into_iter().flatten();
    let confirmed = |event: &Event| match event {
        Event::Done { op, outcome: Outcome::Announced(count) } => Some((*op, *count)),
        _ => None,
    };
    events.filter_map(confirmed).collect()
}

#[test]
fn many_announces_at_once_are_all_stored_and_those_begun_first_end_first() {
    let mut network = crowded(seed(1), 30);
    let at = public(7);
    let ops: Vec<OpId> = (0..400).map(|index| announce(&mut network, at, index, MINUTE)).collect();
    network.nodes[&at].check_invariants();
    network.run(MINUTE);
    let ended = confirmed(&network, at);
    assert_eq!(ended.len(), ops.len());
    let few = ended.iter().filter(|(_, count)| *count < 18).count();
    assert_eq!((few, network.overflowed), (0, 0));
    let far = |(turn, (op, _)): (usize, &(OpId, usize))| ops[turn].abs_diff(*op);
    let displaced = ended.iter().enumerate().map(far).max().unwrap();
    assert!(displaced < 60, "one ended {displaced} turns from its own");
}

#[test]
fn many_announces_at_once_do_not_drown_the_only_other_node() {
    let mut network = crowded(seed(2), 2);
    network.buffer = 40;
    let at = public(1);
    (0..1_000).for_each(|index| {
        announce(&mut network, at, index, MINUTE);
    });
    network.run(MINUTE);
    let ended = confirmed(&network, at);
    assert_eq!(ended.iter().filter(|(_, count)| *count == 1).count(), 1_000);
    assert_eq!(network.overflowed, 0);
}

#[test]
fn many_announces_at_once_do_not_hold_up_what_has_less_time() {
    let mut network = crowded(seed(3), 30);
    let at = public(7);
    announce(&mut network, public(3), 0, MINUTE);
    network.run(10 * SECOND);
    (1..400).for_each(|index| {
        announce(&mut network, at, index, MINUTE);
    });
    let (ping, lookup) = network.command(at, |node, now, out| {
        let ping = node.ping(now, public(9), Some(2 * SECOND), out).unwrap();
        (ping, node.get_peers(now, topic(0), Some(5 * SECOND), out).unwrap())
    });
    network.run(4 * SECOND);
    assert!(matches!(network.take_outcome(at, ping), Some(Outcome::Pong(_))));
    assert_eq!(network.take_outcome(at, lookup), Some(Outcome::Found));
    assert_eq!(network.peers(at, lookup), [public(3).with_port(80)]);
    assert!(confirmed(&network, at).len() < 399, "most of the announces wait");
}

#[test]
fn what_is_cancelled_or_out_of_time_while_it_waits_leaves_nothing_behind() {
    let mut network = crowded(seed(4), 30);
    let at = public(7);
    let ops: Vec<OpId> =
        (0..400).map(|index| announce(&mut network, at, index, 3 * SECOND)).collect();
    for op in &ops[300..] {
        network.command(at, |node, _, _| node.cancel(*op));
    }
    network.nodes[&at].check_invariants();
    network.run(3 * SECOND);
    let ended = confirmed(&network, at);
    assert_eq!(ended.len(), 300);
    assert!(ended.iter().filter(|(_, count)| *count == 0).count() > 100);
    network.nodes[&at].check_invariants();
    let op = announce(&mut network, at, 1_000, 10 * SECOND);
    assert!(matches!(network.finish(at, op), Outcome::Announced(18..)));
}

#[test]
fn nodes_that_are_dead_do_not_stop_the_others_from_storing() {
    let mut network = crowded(seed(5), 30);
    let at = public(7);
    network.dead = (20..30).map(public).collect();
    (0..300).for_each(|index| {
        announce(&mut network, at, index, MINUTE);
    });
    network.run(MINUTE);
    let ended = confirmed(&network, at);
    assert_eq!(ended.iter().filter(|(_, count)| *count >= 10).count(), 300);
}

#[test]
fn while_operations_wait_the_node_is_woken_by_its_questions_alone() {
    let mut network = crowded(seed(6), 30);
    let at = public(7);
    network.dead = (0..30).filter(|&index| index != 7).map(public).collect();
    (0..400).for_each(|index| {
        announce(&mut network, at, index, MINUTE);
    });
    let asked =
        |network: &Network| network.nodes[&at].stats(network.now).counters.requests as usize;
    let before = asked(&network);
    let mut wakes = 0;
    network.run_until(SECOND, |_| {
        wakes += 1;
        None::<()>
    });
    // Each question is under way, late and given up, and each arrives at a dead node.
    let most = 3 * (asked(&network) - before + BUFFER);
    assert!(wakes <= most, "{wakes} wake-ups, at most {most} are in order");
}
