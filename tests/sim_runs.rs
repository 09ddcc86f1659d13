//! What holds in every run of the simulator, whatever goes wrong in it: it is decided by its seed,
//! its parts keep their invariants at each step, and nothing hangs.

mod sim_common;

use std::time::Duration;

use kadepy::sim::{Conduct, Duplication, Reordering, Settings, Simulation};
use sim_common::seed;

const SECOND: Duration = Duration::from_secs(1);
/// Between two checks of all invariants.
const STEP: usize = 10_000;

const CONDUCTS: [Conduct; 5] =
    [Conduct::Silence, Conduct::Lie, Conduct::Collude, Conduct::Forge, Conduct::Flood];

/// A network in which everything goes wrong that can.
fn troubled(nodes: usize, seed: u64, conduct: Conduct) -> Simulation {
    let mut sim = Simulation::new(Settings {
        nodes,
        seed,
        loss: 0.1,
        churn: Some(120 * SECOND),
        hostile: 0.1,
        conduct,
        ..Settings::default()
    });
    sim.add_fault(Duplication(0.1));
    sim.add_fault(Reordering(0.1, SECOND / 2));
    sim
}

/// All that a run shows, as text.
fn transcript(sim: &Simulation) -> String {
    let tables: Vec<_> =
        sim.engines().map(|node| (node.id(), node.table().entries().collect::<Vec<_>>())).collect();
    let stats: Vec<_> = sim.engines().map(|node| node.stats(sim.now())).collect();
    format!("{:?}\n{:?}\n{tables:?}\n{stats:?}\n{:?}", sim.now(), sim.traffic(), sim.lookups())
}

/// Lets one troubled run go through all that a scenario can do, and gives its transcript; `pass`
/// lets the time pass.
fn live(
    nodes: usize,
    seed: u64,
    conduct: Conduct,
    mut pass: impl FnMut(&mut Simulation, Duration),
) -> String {
    let mut sim = troubled(nodes, seed, conduct);
    let built = sim.built_at() - sim.now();
    pass(&mut sim, built);
    sim.look_up(20, 10 * SECOND);
    pass(&mut sim, 12 * SECOND);
    sim.rebind(0.2);
    sim.look_up(20, 10 * SECOND);
    pass(&mut sim, 12 * SECOND);
    sim.partition(0.3, 10 * SECOND);
    sim.look_up(20, 10 * SECOND);
    pass(&mut sim, 22 * SECOND);
    sim.kill(0.3);
    sim.look_up(20, 10 * SECOND);
    pass(&mut sim, 10 * SECOND);
    // Ten seconds after its beginning the last lookup is over, at once or at its deadline.
    pass(&mut sim, 10 * SECOND);
    assert!(!sim.is_looking_up(), "a lookup that does not end");
    for lookup in sim.lookups() {
        assert!(lookup.latency <= 10 * SECOND, "{lookup:?}");
        assert!(lookup.queries <= 120, "{lookup:?}");
    }
    assert!(sim.lookups().len() > 100, "only {} lookups ended", sim.lookups().len());
    transcript(&sim)
}

/// Lets time pass a few hundred happenings at a time, and looks at everything every so often.
fn pass_checked(sim: &mut Simulation, span: Duration) {
    let end = sim.now() + span;
    let mut before = sim.now();
    let mut slices = 0;
    while !sim.run_until(end, STEP / 40) {
        assert!(before <= sim.now() && sim.now() <= end, "from {before:?} to {:?}", sim.now());
        before = sim.now();
        slices += 1;
        if slices % 40 == 0 {
            sim.check_invariants();
        }
    }
    assert_eq!(sim.now(), end);
    sim.check_invariants();
}

#[test]
fn equal_seeds_give_equal_runs_and_others_differ() {
    let seed = seed(1);
    let run = |seed| live(24, seed, Conduct::Collude, Simulation::run);
    let first = run(seed);
    assert!(first == run(seed), "two runs with one seed differ");
    assert!(first != run(seed + 1), "two seeds give one run");
}

#[test]
fn a_run_in_slices_is_the_run_at_once() {
    let seed = seed(2);
    let at_once = live(24, seed, Conduct::Lie, Simulation::run);
    assert!(at_once == live(24, seed, Conduct::Lie, pass_checked), "slices make a difference");
}

#[test]
fn invariants_hold_and_lookups_end_in_every_trouble_at_once() {
    // A flood is too much for a debug build; the large set has it.
    for conduct in CONDUCTS.into_iter().filter(|&conduct| conduct != Conduct::Flood) {
        live(24, seed(3), conduct, pass_checked);
    }
}

#[test]
fn virtual_time_passes_where_nothing_happens() {
    let mut sim = Simulation::new(Settings { nodes: 0, seed: seed(4), ..Settings::default() });
    let start = sim.now();
    sim.run(3_600 * SECOND);
    assert_eq!(sim.now() - start, 3_600 * SECOND);
    assert!(sim.run_until(start, usize::MAX), "the past is over");
    assert_eq!(sim.now() - start, 3_600 * SECOND, "time never goes back");
    sim.finish();
    assert_eq!((sim.alive(), sim.lookups().len(), sim.traffic().datagrams), (0, 0, 0));
}

#[test]
fn a_network_of_one_looks_up_nothing_and_ends() {
    let mut sim = Simulation::new(Settings { nodes: 1, seed: seed(5), ..Settings::default() });
    sim.build();
    sim.look_up(5, SECOND);
    sim.finish();
    assert_eq!(sim.lookups().len(), 10);
    assert!(sim.lookups().iter().all(|lookup| lookup.queries == 0 && lookup.path.is_empty()));
}

#[test]
#[ignore = "takes minutes: cargo test --release --test sim_runs -- --ignored"]
fn hundreds_of_troubled_nodes_keep_their_invariants_and_repeat_their_run() {
    for conduct in CONDUCTS {
        let seed = seed(6);
        let first = live(300, seed, conduct, pass_checked);
        assert!(first == live(300, seed, conduct, Simulation::run), "{conduct:?}");
    }
}
