//! What lookups come to under the faults of a network and its nodes: loss, sudden death, churn,
//! partitions, new addresses, and a network that is gone for a while.

#[path = "sim_common/figures.rs"]
mod figures;
mod sim_common;

use std::time::Duration;

use figures::Figures;
use kadepy::sim::{
    Duplication, Fault, Flight, Goal, Lookup, Loss, Reordering, Settings, Simulation,
};
use kadepy::{Config, Endpoint, NodeId, Time};
use rand_core::Rng;
use sim_common::seed;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn settings(nodes: usize, default: u64) -> Settings {
    Settings { nodes, seed: seed(default), ..Settings::default() }
}

/// A network that has been built.
fn built(settings: Settings) -> Simulation {
    let mut sim = Simulation::new(settings);
    sim.build();
    sim
}

/// Measures, and shows the line of figures.
fn measure(what: &str, sim: &mut Simulation, count: usize, span: Duration) -> Figures {
    let figures = Figures::measure(sim, count, span);
    println!("{what:24} {figures}");
    sim.check_invariants();
    figures
}

/// Loses everything until a moment.
struct Outage(Time);

impl Fault for Outage {
    fn strike(&mut self, flight: &mut Flight, _: &mut dyn Rng) {
        if flight.now < self.0 {
            flight.copies.clear();
        }
    }
}

fn without_faults(nodes: usize, lookups: usize) {
    let mut sim = built(settings(nodes, 1));
    let figures = measure("no fault", &mut sim, lookups, 10 * SECOND);
    assert_eq!(figures.success, 1.0);
    assert!(figures.exact >= 0.98, "{figures}");
    assert!(figures.hops <= (nodes as f64).log2(), "{figures}");
    let longest = sim.lookups().iter().map(|lookup| lookup.path.len()).max();
    assert!(longest <= Some(nodes.ilog2() as usize + 1), "{longest:?} hops");
}

#[test]
fn lookups_are_right_and_take_at_most_log2_of_the_nodes_in_hops() {
    without_faults(100, 40);
}

#[test]
#[ignore = "takes minutes: cargo test --release --test sim_faults -- --ignored"]
fn ten_thousand_nodes_are_looked_up_right_within_log2_hops() {
    without_faults(10_000, 1_000);
}

fn with_loss(nodes: usize, lookups: usize, least: f64) {
    let run = |loss| {
        let mut sim = built(settings(nodes, 2));
        sim.add_fault(Loss(loss));
        measure(&format!("loss {loss}"), &mut sim, lookups, 30 * SECOND)
    };
    let (lossless, lossy) = (run(0.0), run(0.2));
    assert!(lossy.success >= least, "{lossy}");
    let factor = lossy.queries / lossless.queries;
    println!("queries: {factor:.2} times those without loss");
    assert!(factor <= 1.7, "{factor} times the queries of a lossless run");
}

#[test]
fn a_fifth_of_datagrams_lost_costs_repeated_queries_and_no_record() {
    with_loss(60, 40, 0.99);
}

#[test]
#[ignore = "takes minutes: cargo test --release --test sim_faults -- --ignored"]
fn of_thousands_of_lookups_with_a_fifth_of_datagrams_lost_999_in_1000_succeed() {
    with_loss(2_000, 5_000, 0.999);
}

fn after_death(nodes: usize, lookups: usize, of_half: f64, of_most: f64) {
    for (part, least) in [(0.5, of_half), (0.7, of_most), (0.9, 0.0)] {
        let mut sim = built(settings(nodes, 3));
        let killed = sim.kill(part);
        assert_eq!(sim.alive(), nodes - killed);
        let figures = measure(&format!("dead {part}"), &mut sim, lookups, 60 * SECOND);
        assert!(figures.success >= least, "{part} dead: {figures}");
        assert_eq!(figures.lookups, 2 * lookups, "every lookup ends");
        assert!(figures.latency(1.0) <= 10 * SECOND, "{figures}");
    }
}

#[test]
fn lookups_go_around_half_of_the_nodes_dead_at_once_and_never_hang() {
    after_death(60, 15, 0.95, 0.9);
}

#[test]
#[ignore = "takes minutes: cargo test --release --test sim_faults -- --ignored"]
fn of_two_thousand_nodes_half_or_most_die_at_once() {
    after_death(2_000, 1_000, 0.995, 0.97);
}

/// Lookups after some sessions, and while more of them end.
fn under_churn(nodes: usize, median: Duration, sessions: u32, lookups: usize, least: f64) {
    let churn = Some(median);
    let mut sim = built(Settings { churn, ..settings(nodes, 4) });
    sim.run(sessions * median);
    assert_eq!(sim.alive(), nodes, "whoever leaves is replaced");
    let figures = measure(&format!("churn {median:?}"), &mut sim, lookups, 60 * SECOND);
    assert!(figures.success >= least, "{figures}");
}

#[test]
fn lookups_succeed_while_half_of_the_nodes_are_replaced_every_ten_minutes() {
    under_churn(40, 10 * MINUTE, 1, 40, 0.97);
}

#[test]
#[ignore = "takes minutes: cargo test --release --test sim_faults -- --ignored"]
fn a_thousand_nodes_with_a_median_session_of_ten_minutes() {
    under_churn(1_000, 10 * MINUTE, 4, 1_000, 0.97);
}

#[test]
#[ignore = "takes minutes: cargo test --release --test sim_faults -- --ignored"]
fn a_thousand_nodes_with_a_median_session_of_two_hours() {
    under_churn(1_000, 120 * MINUTE, 2, 1_000, 0.995);
}

/// Lookups for joined topics while the nodes that store them come and go; their peers stay.
fn joined_under_churn(nodes: usize, median: Duration, topics: u32, hours: u32, least: f64) {
    const ROUNDS_AN_HOUR: u32 = 20;
    let mut sim = built(Settings { churn: Some(median), ..settings(nodes, 9) });
    let joined: Vec<(NodeId, Endpoint)> = (0..topics)
        .map(|member| {
            let topic = NodeId::of_topic(&member.to_be_bytes());
            sim.join_topic(member, topic, 80).expect("it lives");
            (topic, sim.contact(member).expect("it lives").endpoint.with_port(80))
        })
        .collect();
    sim.run(MINUTE);
    for round in 0..hours * ROUNDS_AN_HOUR {
        sim.run(60 * MINUTE / ROUNDS_AN_HOUR);
        for (member, (topic, _)) in (0..).zip(&joined) {
            // Nobody asks for what itself has joined.
            let others = nodes as u32 - topics;
            let asker = topics + (member * ROUNDS_AN_HOUR + round) % others;
            sim.start_lookup(Goal::Peers, *topic, Some(asker));
        }
    }
    sim.finish();
    let found = |lookup: &Lookup| {
        joined.iter().any(|(topic, peer)| *topic == lookup.target && lookup.peers == [*peer])
    };
    let figures = Figures::of(sim.lookups());
    println!("joined, churn {median:?}  {figures}");
    assert!(figures.lookups >= (hours * ROUNDS_AN_HOUR * topics) as usize * 9 / 10);
    assert!(figures.success >= least, "{figures}");
    assert!(sim.lookups().iter().all(|lookup| lookup.peers.is_empty() || found(lookup)));
    sim.check_invariants();
}

#[test]
fn joined_topics_are_found_while_half_of_the_nodes_are_replaced_every_ten_minutes() {
    joined_under_churn(60, 10 * MINUTE, 8, 1, 0.99);
}

#[test]
#[ignore = "takes minutes: cargo test --release --test sim_faults -- --ignored"]
fn joined_topics_are_found_among_a_thousand_nodes_with_a_median_session_of_ten_minutes() {
    joined_under_churn(1_000, 10 * MINUTE, 50, 3, 0.99);
}

#[test]
#[ignore = "takes minutes: cargo test --release --test sim_faults -- --ignored"]
fn joined_topics_are_found_among_a_thousand_nodes_with_a_median_session_of_two_hours() {
    joined_under_churn(1_000, 120 * MINUTE, 50, 6, 0.99);
}

/// Announces topics on both sides of a healed partition, and looks each up from many nodes.
fn across_a_partition(nodes: usize, cut: Duration, refresh: Duration, topics: u8, least: f64) {
    let config = Config { bucket_refresh: refresh, ..Config::default() };
    let mut sim = built(Settings { config, ..settings(nodes, 5) });
    let first = sim.contact(0).expect("it lives").endpoint;
    sim.partition(0.5, cut);
    sim.run(cut / 2);
    sim.look_up(5, SECOND);
    sim.finish();
    sim.run(cut / 2);
    sim.run(2 * refresh);
    let before = sim.lookups().len();
    for topic in 0..topics {
        let topic = NodeId::of_topic(&[topic]);
        sim.start_lookup(Goal::Announce(first.port()), topic, None);
        sim.finish();
        for asker in (0..nodes as u32).step_by(nodes / 20) {
            sim.start_lookup(Goal::Peers, topic, Some(asker));
        }
        sim.finish();
    }
    let figures = Figures::of(&sim.lookups()[before..]);
    println!("healed partition         {figures}");
    assert!(figures.success >= least, "{figures}");
    sim.check_invariants();
}

#[test]
fn lookups_cross_a_partition_that_has_healed_within_two_refreshes() {
    across_a_partition(40, 3 * MINUTE, 90 * SECOND, 3, 0.99);
}

#[test]
#[ignore = "takes minutes: cargo test --release --test sim_faults -- --ignored"]
fn a_thousand_nodes_find_each_other_again_after_half_an_hour_apart() {
    across_a_partition(1_000, 30 * MINUTE, 15 * MINUTE, 50, 0.99);
}

/// Lookups right after nodes got new addresses, and after a refresh has shown these around.
fn after_rebinding(nodes: usize, part: f64, lookups: usize, at_once: f64, later: f64) {
    let config = Config { bucket_refresh: 2 * MINUTE, ..Config::default() };
    let mut sim = built(Settings { config, ..settings(nodes, 6) });
    assert!(sim.rebind(part) > 0);
    let figures = measure(&format!("rebound {part}"), &mut sim, lookups, 20 * SECOND);
    assert!(figures.success >= at_once, "{figures}");
    sim.run(4 * MINUTE);
    let figures = measure("after two refreshes", &mut sim, lookups, 20 * SECOND);
    assert!(figures.success >= later, "{figures}");
}

#[test]
fn lookups_survive_new_addresses_of_a_third_of_the_nodes() {
    after_rebinding(40, 0.3, 20, 0.9, 0.95);
}

#[test]
#[ignore = "takes minutes: cargo test --release --test sim_faults -- --ignored"]
fn lookups_survive_new_addresses_of_half_of_a_thousand_nodes() {
    after_rebinding(1_000, 0.5, 500, 0.95, 0.99);
}

fn doubled_and_reordered(nodes: usize, lookups: usize) {
    let mut sim = built(settings(nodes, 7));
    sim.add_fault(Duplication(0.5));
    sim.add_fault(Reordering(0.5, SECOND / 4));
    let figures = measure("doubled and reordered", &mut sim, lookups, 10 * SECOND);
    assert_eq!(figures.success, 1.0, "{figures}");
}

#[test]
fn duplicated_and_reordered_datagrams_cost_no_record() {
    doubled_and_reordered(60, 30);
}

#[test]
#[ignore = "takes minutes: cargo test --release --test sim_faults -- --ignored"]
fn duplicated_and_reordered_datagrams_cost_no_record_among_thousands() {
    doubled_and_reordered(2_000, 1_000);
}

fn after_an_outage(nodes: usize, span: Duration, lookups: usize) {
    let mut sim = built(settings(nodes, 8));
    let contacts = |sim: &Simulation| sim.engines().map(|node| node.table().len()).sum::<usize>();
    let before = contacts(&sim);
    sim.add_fault(Outage(sim.now() + span));
    // Whoever asks meanwhile hears nothing from anybody.
    let asked = measure("network gone", &mut sim, lookups, span / 2);
    assert_eq!(asked.success, 0.0, "{asked}");
    sim.run(span);
    let figures = measure("network back", &mut sim, lookups, 10 * SECOND);
    assert_eq!(figures.success, 1.0, "{figures}");
    assert!(contacts(&sim) * 10 >= before * 9, "silence marked contacts dead");
}

#[test]
fn contacts_survive_a_network_that_is_gone_and_comes_back() {
    after_an_outage(50, 5 * MINUTE, 20);
}

#[test]
#[ignore = "takes minutes: cargo test --release --test sim_faults -- --ignored"]
fn two_thousand_nodes_survive_a_network_gone_for_half_an_hour() {
    after_an_outage(2_000, 30 * MINUTE, 500);
}
