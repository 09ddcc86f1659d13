//! What lookups come to where many nodes are behind translators, and how many contacts that cannot be
//! reached the answers name.

#[path = "sim_common/figures.rs"]
mod figures;
mod sim_common;

use std::time::Duration;

use figures::Figures;
use kadepy::sim::{Named, Settings, Simulation};
use sim_common::seed;

const MINUTE: Duration = Duration::from_secs(60);

/// What a run came to.
struct Run {
    figures: Figures,
    /// The shares of the contacts named in answers to lookups that were dead, and behind translators that
    /// let nobody in.
    dead: f64,
    barred: f64,
    /// Datagrams while nobody looked up.
    idle: u64,
}

/// Builds a network, lets it churn for `span`, and has it look up then.
fn run(what: &str, settings: Settings, span: Duration, lookups: usize) -> Run {
    let mut sim = Simulation::new(settings);
    sim.build();
    let built = sim.traffic();
    sim.run(span);
    let idle = sim.traffic().datagrams - built.datagrams;
    let figures = Figures::measure(&mut sim, lookups, MINUTE);
    let sum = |of: fn(Named) -> u32| {
        sim.lookups().iter().map(|lookup| f64::from(of(lookup.named))).sum::<f64>()
    };
    let [dead, barred] =
        [sum(|named| named.dead), sum(|named| named.barred)].map(|n| n / sum(|named| named.all));
    let listed: usize = sim.engines().map(|engine| engine.table().len()).sum();
    println!(
        "{what:32} {figures} dead {:.2} % barred {:.2} % listed {:.1} idle {idle}",
        dead * 100.0,
        barred * 100.0,
        listed as f64 / sim.alive() as f64,
    );
    sim.check_invariants();
    Run { figures, dead, barred, idle }
}

/// Half of the nodes behind translators, read-only and not, while others come and go; `dead_max` is what
/// the sessions alone leave of dead contacts in answers.
fn half_behind(nodes: usize, session: Duration, span: Duration, lookups: usize, dead_max: f64) {
    let settings = |nat, read_only| {
        let churn = Some(session);
        Settings { nodes, nat, read_only, churn, seed: seed(1), ..Settings::default() }
    };
    let minutes = session.as_secs() / 60;
    let what = |what| format!("{nodes} nodes, {minutes} min, {what}");
    let spared = run(&what("read-only"), settings(0.5, None), span, lookups);
    let named = run(&what("listed"), settings(0.5, Some(false)), span, lookups);
    assert!(spared.figures.success >= 0.99, "{}", spared.figures);
    // The first nodes are needed, while they are few.
    assert!(spared.barred <= 0.01, "{}", spared.barred);
    assert!(spared.dead <= dead_max, "{}", spared.dead);
    assert!(named.barred >= 0.2, "{}", named.barred);
    assert!(spared.figures.queries < 0.7 * named.figures.queries);
    assert!(spared.figures.latency(0.5) < named.figures.latency(0.5).mul_f64(0.7));
}

#[test]
fn hardly_an_answer_names_a_node_behind_a_translator() {
    half_behind(120, 120 * MINUTE, 20 * MINUTE, 40, 0.05);
}

#[test]
#[ignore = "takes minutes: cargo test --release --test sim_nat -- --ignored"]
fn of_two_thousand_nodes_with_sessions_of_half_an_hour_hardly_a_translator_is_named() {
    half_behind(2_000, 30 * MINUTE, 30 * MINUTE, 500, 0.1);
}

#[test]
#[ignore = "takes minutes: cargo test --release --test sim_nat -- --ignored"]
fn of_two_thousand_nodes_with_sessions_of_two_hours_three_in_a_hundred_named_are_lost_at_most() {
    half_behind(2_000, 120 * MINUTE, 120 * MINUTE, 500, 0.03);
}

/// What finding out costs where no node is behind anything.
#[test]
#[ignore = "takes minutes: cargo test --release --test sim_nat -- --ignored"]
fn where_nobody_is_behind_a_translator_it_costs_next_to_nothing() {
    let idle = |read_only| {
        let settings = Settings { nodes: 1_000, read_only, seed: seed(2), ..Settings::default() };
        run(&format!("no translators, {read_only:?}"), settings, 120 * MINUTE, 100).idle as f64
    };
    let share = idle(None) / idle(Some(false)) - 1.0;
    println!("{:.2} % more datagrams", share * 100.0);
    assert!(share < 0.02);
}
