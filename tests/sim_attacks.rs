//! What hostile nodes achieve against lookups and tables: each conduct, at a tenth and at a fifth of
//! the nodes.

#[path = "sim_common/figures.rs"]
mod figures;
mod sim_common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use figures::Figures;
use kadepy::dht::protocol::Refusal;
use kadepy::sim::{Conduct, Goal, Settings, Simulation};
use kadepy::wire::message::Kind;
use kadepy::{Endpoint, NodeId};
use sim_common::seed;

const SECOND: Duration = Duration::from_secs(1);

/// A network in which this share of the nodes is hostile from its start.
fn attacked(nodes: usize, seed: u64, conduct: Conduct, hostile: f64) -> Simulation {
    let mut sim =
        Simulation::new(Settings { nodes, seed, conduct, hostile, ..Settings::default() });
    sim.build();
    sim
}

/// Who is where.
fn members(sim: &Simulation, nodes: usize) -> BTreeMap<Endpoint, NodeId> {
    let contacts = (0..nodes as u32).filter_map(|index| sim.contact(index));
    contacts.map(|contact| (contact.endpoint, contact.id)).collect()
}

/// The ids of nodes whose engines never hear a lookup, because their conduct deals with these: the
/// hostile ones that are silent, lie or collude.
fn deaf(sim: &Simulation) -> BTreeSet<NodeId> {
    let heard = |kind: Kind, packets: &[u64]| packets[kind as usize] > 0;
    let engines = sim.engines().filter(|node| {
        let packets = node.stats(sim.now()).counters.packets_in;
        !heard(Kind::FindNode, &packets) && !heard(Kind::GetPeers, &packets)
    });
    engines.map(|node| node.id()).collect()
}

/// Contacts in the tables of honest nodes: how many there are, and how many of them name somebody
/// at an honest node's address, or at an address where nobody is, who is not there.
fn listed(sim: &Simulation, nodes: usize, hostile: &BTreeSet<NodeId>) -> (usize, usize) {
    let members = members(sim, nodes);
    let mut counts = (0, 0);
    for engine in sim.engines().filter(|engine| !hostile.contains(&engine.id())) {
        for entry in engine.table().entries() {
            let real = members.get(&entry.contact.endpoint);
            let is_theirs = real.is_some_and(|id| hostile.contains(id));
            counts.0 += 1;
            counts.1 += usize::from(!is_theirs && real != Some(&entry.contact.id));
        }
    }
    counts
}

/// Looks up under attack, shows the figures, and holds what no conduct may break: lookups end, within
/// their queries, and no table of an honest node names anybody who is not where it says.
fn withstand(
    nodes: usize,
    conduct: Conduct,
    hostile: f64,
    lookups: usize,
    least: f64,
) -> Simulation {
    let mut sim = attacked(nodes, seed(1), conduct, hostile);
    let figures = Figures::measure(&mut sim, lookups, 30 * SECOND);
    println!("{:16} {figures}", format!("{conduct:?} {hostile}"));
    sim.check_invariants();
    assert_eq!(figures.lookups, 2 * lookups, "a lookup that does not end");
    for lookup in sim.lookups() {
        assert!(lookup.latency <= 10 * SECOND && lookup.queries <= 120, "{lookup:?}");
    }
    let theirs = match conduct {
        Conduct::Silence | Conduct::Lie | Conduct::Collude => deaf(&sim),
        Conduct::Forge | Conduct::Flood => BTreeSet::new(),
    };
    if !matches!(conduct, Conduct::Forge | Conduct::Flood) {
        let part = theirs.len() as f64 / nodes as f64;
        assert!((part - hostile).abs() < 0.12, "{part} of the nodes are hostile, not {hostile}");
    }
    let (contacts, wrong) = listed(&sim, nodes, &theirs);
    assert!(contacts > nodes * 10);
    assert_eq!(wrong, 0, "of {contacts} contacts, so many are not where the tables say");
    assert!(figures.success >= least, "{conduct:?} of {hostile}: {figures}");
    sim
}

#[test]
fn records_are_found_around_nodes_that_do_not_answer() {
    withstand(60, Conduct::Silence, 0.2, 30, 0.97);
}

#[test]
fn records_are_found_around_nodes_that_name_nobody() {
    withstand(60, Conduct::Lie, 0.1, 30, 0.9);
}

/// Lookups go over one path, which many colluders near the target can take over: a floor below what
/// they reach, and no more.
#[test]
fn colluders_fool_lookups_and_never_tables() {
    withstand(60, Conduct::Collude, 0.2, 30, 0.9);
}

/// Colluders answer under ids made for each target, next to which nobody honest is. A lookup that took
/// an answer under another id than it asked would have them for all of its nearest.
#[test]
fn colluders_among_five_hundred_answer_for_nobody_but_themselves() {
    let mut sim = attacked(500, seed(6), Conduct::Collude, 0.2);
    let figures = Figures::measure(&mut sim, 40, 10 * SECOND);
    println!("{figures}");
    assert!(figures.success >= 0.85, "{figures}");
}

#[test]
fn forged_answers_enter_no_table_and_spoil_no_lookup() {
    withstand(40, Conduct::Forge, 0.1, 20, 1.0);
}

#[test]
fn lookups_succeed_under_a_flood_of_requests() {
    withstand(30, Conduct::Flood, 0.1, 20, 1.0);
}

#[test]
fn a_lie_about_peers_needs_a_peer_that_was_announced() {
    let mut sim = attacked(60, seed(2), Conduct::Collude, 0.2);
    let asked = (0..20).filter_map(|n| sim.start_lookup(Goal::Peers, NodeId::of_topic(&[n]), None));
    assert_eq!(asked.count(), 20);
    sim.finish();
    assert!(sim.lookups().iter().all(|lookup| lookup.peers.is_empty()));
}

#[test]
#[ignore = "takes minutes: cargo test --release --test sim_attacks -- --ignored"]
fn two_thousand_nodes_with_silent_ones_among_them() {
    withstand(2_000, Conduct::Silence, 0.1, 1_000, 0.995);
    withstand(2_000, Conduct::Silence, 0.2, 1_000, 0.97);
}

#[test]
#[ignore = "takes minutes: cargo test --release --test sim_attacks -- --ignored"]
fn two_thousand_nodes_with_liars_among_them() {
    withstand(2_000, Conduct::Lie, 0.1, 1_000, 0.9);
    withstand(2_000, Conduct::Lie, 0.2, 1_000, 0.8);
}

#[test]
#[ignore = "takes minutes: cargo test --release --test sim_attacks -- --ignored"]
fn two_thousand_nodes_with_colluders_among_them() {
    withstand(2_000, Conduct::Collude, 0.1, 1_000, 0.8);
    withstand(2_000, Conduct::Collude, 0.2, 1_000, 0.5);
}

#[test]
#[ignore = "takes minutes: cargo test --release --test sim_attacks -- --ignored"]
fn of_a_million_forged_answers_none_is_taken() {
    let mut forged = 0;
    for hostile in [0.1, 0.2] {
        let sim = withstand(1_000, Conduct::Forge, hostile, 500, 0.999);
        let refused = sim
            .engines()
            .map(|node| node.stats(sim.now()).counters.refused[Refusal::Unsolicited as usize]);
        forged += refused.sum::<u64>();
    }
    println!("{forged} forged answers");
    assert!(forged >= 1_000_000, "only {forged} forged answers");
}

#[test]
#[ignore = "takes minutes: cargo test --release --test sim_attacks -- --ignored"]
fn five_hundred_nodes_flooded_by_a_tenth_and_a_fifth_of_them() {
    withstand(500, Conduct::Flood, 0.1, 200, 0.999);
    withstand(500, Conduct::Flood, 0.2, 200, 0.999);
}
