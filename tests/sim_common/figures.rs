//! What lookups came to: one line of figures from a simulation, for the tests and the benchmark.

use std::fmt;
use std::time::Duration;

use kadepy::sim::{Goal, Lookup, Simulation};

/// What a number of lookups came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    /// How many there were.
    pub lookups: usize,
    /// The share of those for records or peers that found any.
    pub success: f64,
    /// The share of those for nodes that gave exactly the k nearest that live.
    pub exact: f64,
    /// The mean length of the ways to what was found.
    pub hops: f64,
    /// Mean over all.
    pub queries: f64,
    /// How long they took, the shortest first.
    latencies: Vec<Duration>,
}

impl Figures {
    pub fn of(lookups: &[Lookup]) -> Self {
        let of = |is_in: &dyn Fn(Goal) -> bool| {
            let those = || lookups.iter().filter(|lookup| is_in(lookup.goal));
            mean(those().map(|lookup| f64::from(u8::from(lookup.success))))
        };
        // An announce has no way to one node, and what the asker stores itself none at all.
        let found = || lookups.iter().filter(|lookup| !lookup.path.is_empty());
        let mut latencies: Vec<Duration> = lookups.iter().map(|lookup| lookup.latency).collect();
        latencies.sort();
        Self {
            lookups: lookups.len(),
            success: of(&|goal| matches!(goal, Goal::Record | Goal::Peers)),
            exact: of(&|goal| goal == Goal::Nodes),
            hops: mean(found().map(|lookup| lookup.path.len() as f64)),
            queries: mean(lookups.iter().map(|lookup| f64::from(lookup.queries))),
            latencies,
        }
    }

    /// Plans `count` lookups of each kind over `span`, and gives what they came to when all are over.
    pub fn measure(sim: &mut Simulation, count: usize, span: Duration) -> Self {
        let before = sim.lookups().len();
        sim.look_up(count, span);
        sim.finish();
        Self::of(&sim.lookups()[before..])
    }

    /// The latency that this share of the lookups does not pass.
    pub fn latency(&self, share: f64) -> Duration {
        let at = (self.latencies.len() as f64 * share) as usize;
        self.latencies
            .get(at.min(self.latencies.len().saturating_sub(1)))
            .copied()
            .unwrap_or_default()
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |share| self.latency(share).as_secs_f64() * 1e3;
        write!(
            f,
            "{:6} {:7.2} {:7.2} {:5.2} {:7.1} {:6.0} {:6.0} {:6.0}",
            self.lookups,
            self.success * 100.0,
            self.exact * 100.0,
            self.hops,
            self.queries,
            ms(0.5),
            ms(0.9),
            ms(0.99)
        )
    }
}

/// The mean, and 1 of nothing: where nobody looked up, nobody failed.
fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (count, sum) = values.fold((0.0, 0.0), |(count, sum), value| (count + 1.0, sum + value));
    if count == 0.0 { 1.0 } else { sum / count }
}
