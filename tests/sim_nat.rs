//! What lookups come to where many nodes are behind translators, and how many contacts that cannot be
//! reached the answers name.

#[path = "sim_common/figures.rs"]
mod figures;
mod sim_common;

use std::time::Duration;

use figures::Figures;
use kadepy::sim::{Settings, Simulation};
use sim_common::seed;

const MINUTE: Duration = Duration::from_secs(60);

/// Builds a network, lets it churn for `span`, and gives what lookups come to then, and the share of
/// unreachable contacts among those that their answers named.
fn run(what: &str, settings: Settings, span: Duration, lookups: usize) -> (Figures, f64) {
    let mut sim = Simulation::new(settings);
    sim.build();
    sim.run(span);
    let before = sim.traffic();
    let figures = Figures::measure(&mut sim, lookups, MINUTE);
    let sum = |of: fn(&kadepy::sim::Lookup) -> u32| {
        sim.lookups().iter().map(|lookup| f64::from(of(lookup))).sum::<f64>()
    };
    let unreachable = sum(|lookup| lookup.unreachable) / sum(|lookup| lookup.named);
    let fill: usize = sim.engines().map(|engine| engine.table().len()).sum();
    let fill = fill as f64 / sim.alive() as f64;
    let sent = sim.traffic().datagrams - before.datagrams;
    println!("{what:32} {figures} unreachable {:.2} % fill {fill:.1} {sent}", unreachable * 100.0);
    sim.check_invariants();
    (figures, unreachable)
}

fn settings(nodes: usize, nat: f64, churn: Option<Duration>) -> Settings {
    Settings { nodes, nat, churn, seed: seed(1), ..Settings::default() }
}

#[test]
#[ignore = "explores"]
fn explore() {
    let var = |name: &str, default: u64| {
        std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
    };
    let nodes = var("NODES", 1_000) as usize;
    let span = MINUTE * var("SPAN", 30) as u32;
    for read_only in [Some(false), None] {
        for churn in [None, Some(30 * MINUTE), Some(120 * MINUTE)] {
            let settings = Settings { read_only, ..settings(nodes, 0.5, churn) };
            run(&format!("{read_only:?} churn {churn:?}"), settings, span, 200);
        }
    }
}
