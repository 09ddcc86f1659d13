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
    Run { figures, dead, barred }
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
