//! What the simulator costs and what it finds: `cargo bench --bench sim`, which goes up to 100,000
//! nodes with `-- --full`; `cargo bench --bench sim -- sweep` tries alpha, the short wait, repetitions
//! and refreshes under faults.
//!
//! The columns of lookups: how many there were; the share in percent that found their record; the
//! share that gave exactly the 20 nearest; means of hops and queries; the virtual milliseconds that
//! half, 90 % and 99 % of them do not pass.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

#[path = "../tests/sim_common/figures.rs"]
mod figures;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use figures::Figures;
use kadepy::Config;
use kadepy::sim::{Loss, Settings, Simulation};

const SEED: u64 = 1;
const LOOKUP_COLUMNS: &str = "  done success   exact  hops queries    p50    p90    p99";
/// Lookups of each kind in one cell of the sweep.
const SWEEP_LOOKUPS: usize = 150;

fn main() {
    let has = |wanted: &str| std::env::args().any(|argument| argument == wanted);
    if has("sweep") {
        sweep();
    } else {
        let sizes: &[usize] =
            if has("--full") { &[1_000, 10_000, 100_000] } else { &[1_000, 10_000] };
        println!("  nodes build s datagrams   bytes contacts look s {LOOKUP_COLUMNS}");
        for &nodes in sizes {
            grow(nodes);
        }
    }
}

/// Builds a network, looks up a thousand times, and prints the line.
fn grow(nodes: usize) {
    let bytes_before = resident_bytes();
    let begun = Instant::now();
    let mut sim = Simulation::new(Settings { nodes, seed: SEED, ..Settings::default() });
    sim.build();
    let built = begun.elapsed();
    let bytes = resident_bytes().saturating_sub(bytes_before) / nodes;
    let datagrams = sim.traffic().datagrams / nodes as u64;
    let contacts: usize = sim.engines().map(|engine| engine.table().len()).sum();

    let begun = Instant::now();
    let figures = Figures::measure(&mut sim, 500, Duration::from_secs(60));
    println!(
        "{nodes:7} {:7.1} {datagrams:9} {bytes:7} {:8.1} {:6.2} {figures}",
        built.as_secs_f64(),
        contacts as f64 / nodes as f64,
        begun.elapsed().as_secs_f64(),
    );
}

/// The memory that this process has in use, where the system tells.
fn resident_bytes() -> usize {
    // The second field of statm: resident pages, of 4 KiB on the machines that this runs on.
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|field| field.parse::<usize>().ok());
    pages.unwrap_or(0) * 4_096
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    Loss20,
    Dead50,
    Churn10,
}

/// Prints what lookups come to for each choice of the tunables, under each trouble.
fn sweep() {
    let mut cells = Vec::new();
    let default = Config::default();
    for trouble in [Trouble::None, Trouble::Loss20, Trouble::Dead50, Trouble::Churn10] {
        let mut cell = |config: Config| cells.push((trouble, config));
        for alpha in [3, 4, 5, 6, 8] {
            for wait in [400, 500, 1_000] {
                let short_wait_max = Duration::from_millis(wait);
                cell(Config { alpha, short_wait_max, ..default.clone() });
            }
        }
        for lookup_retries in [0, 2] {
            cell(Config { lookup_retries, ..default.clone() });
        }
        if trouble == Trouble::Churn10 {
            for minutes in [5, 60] {
                let bucket_refresh = Duration::from_secs(60 * minutes);
                cell(Config { bucket_refresh, ..default.clone() });
            }
        }
    }
    println!("trouble  alpha wait s retries refresh {LOOKUP_COLUMNS}");
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Results::default()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(cell) = cells.get(at) else {
                        return;
                    };
                    let figures = try_out(cell);
                    if let Ok(mut results) = results.lock() {
                        results.done.insert(at, figures);
                        results.print(&cells);
                    }
                }
            });
        }
    });
}

/// A choice of tunables, under a trouble.
type Cell = (Trouble, Config);

/// What has been measured, which is printed in the order of the cells.
#[derive(Default)]
struct Results {
    done: BTreeMap<usize, Figures>,
    printed: usize,
}

impl Results {
    fn print(&mut self, cells: &[Cell]) {
        while let Some(figures) = self.done.remove(&self.printed) {
            let (trouble, config) = &cells[self.printed];
            println!(
                "{:8} {:5} {:6.1} {:7} {:7} {figures}",
                format!("{trouble:?}"),
                config.alpha,
                config.short_wait_max.as_secs_f64(),
                config.lookup_retries,
                config.bucket_refresh.as_secs(),
            );
            self.printed += 1;
        }
    }
}

fn try_out((trouble, config): &Cell) -> Figures {
    let churn = (*trouble == Trouble::Churn10).then_some(Duration::from_secs(600));
    let config = config.clone();
    let settings = Settings { nodes: 1_000, seed: SEED, churn, config, ..Settings::default() };
    let mut sim = Simulation::new(settings);
    sim.build();
    match trouble {
        Trouble::None => {}
        Trouble::Loss20 => sim.add_fault(Loss(0.2)),
        Trouble::Dead50 => {
            sim.kill(0.5);
        }
        // Two median sessions: three quarters of the first nodes are gone.
        Trouble::Churn10 => sim.run(Duration::from_secs(1_200)),
    }
    Figures::measure(&mut sim, SWEEP_LOOKUPS, Duration::from_secs(60))
}
