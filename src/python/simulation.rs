//! `kadepy._core.Simulation`: a simulated network as Python holds it, which passes time in slices; its
//! public face and what is made of its figures stand in `kadepy.simulation`.

use std::time::Duration;

use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};

use super::detach::{self, Deadline, SIGNAL_INTERVAL, detached};
use super::{classes, config, convert, handle};
use crate::Time;
use crate::sim::{Conduct, Goal, Lookup, Settings, Simulation};
use crate::wire::message::Contact;

/// What happens between two looks at the clock.
const BATCH: usize = 64;
/// The longest pause in which nothing happens while a lookup is under way.
const PAUSE: Duration = Duration::from_secs(1);
/// The most nodes, and the most lookups of one series.
const NODES_MAX: u32 = 1_000_000;
const LOOKUPS_MAX: u32 = 1_000_000;

/// What hostile nodes may do, as Python names it.
const CONDUCTS: [(&str, Conduct); 5] = [
    ("silence", Conduct::Silence),
    ("lie", Conduct::Lie),
    ("collude", Conduct::Collude),
    ("forge", Conduct::Forge),
    ("flood", Conduct::Flood),
];

/// A network on virtual time. `kadepy.Simulation` is its public face.
#[pyclass(frozen, name = "Simulation", module = "kadepy._core")]
pub struct PySimulation {
    sim: Mutex<Simulation>,
    nodes: usize,
    /// The process that made it.
    process: u32,
}

#[pymethods]
impl PySimulation {
    #[new]
    #[pyo3(signature = (nodes, seed, loss, latency_ms, churn, hostile, conduct, nat, read_only, local, config))]
    #[expect(clippy::too_many_arguments, reason = "those of kadepy.Simulation")]
    fn new(
        py: Python<'_>,
        nodes: &Bound<'_, PyAny>,
        seed: &Bound<'_, PyAny>,
        loss: &Bound<'_, PyAny>,
        latency_ms: &Bound<'_, PyAny>,
        churn: &Bound<'_, PyAny>,
        hostile: &Bound<'_, PyAny>,
        conduct: &Bound<'_, PyAny>,
        nat: &Bound<'_, PyAny>,
        read_only: &Bound<'_, PyAny>,
        local: &Bound<'_, PyAny>,
        config: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let nodes = convert::count("nodes", nodes, 1, NODES_MAX)?;
        let conduct = convert::choice("conduct", conduct, &CONDUCTS.map(|(name, _)| name))?;
        let churn = if churn.is_none() {
            None
        } else {
            Some(convert::some_seconds("churn", "seconds, finite and above 0, or None", churn)?)
        };
        let settings = Settings {
            nodes,
            seed: convert::seed("seed", seed)?,
            latency: convert::milliseconds("latency_ms", latency_ms)?,
            loss: convert::share("loss", loss)?,
            churn,
            hostile: convert::share("hostile", hostile)?,
            conduct: CONDUCTS[conduct].1,
            nat: convert::share("nat", nat)?,
            read_only: convert::optional_boolean("read_only", read_only)?,
            is_local: convert::boolean("local", local)?,
            config: config::config(config)?,
        };
        // The exit waits for a slice that is under way.
        handle::install_hooks(py)?;
        let sim = detached(py, || Simulation::new(settings));
        Ok(Self { sim: Mutex::new(sim), nodes, process: std::process::id() })
    }

    /// Lets time pass until this time, or, for None, until no lookup is under way, though not for
    /// much longer than it takes to notice a signal; whether it came that far.
    fn advance(&self, py: Python<'_>, until: Option<f64>) -> PyResult<bool> {
        if detach::is_exiting() {
            // Slice upon slice would keep the exit waiting.
            detach::stay_if_daemon(py);
        }
        let end = until.map(|until| Time::from_micros((until * 1e6).round() as u64));
        self.with(py, |sim| {
            let slice = Deadline::after(Some(SIGNAL_INTERVAL));
            while !slice.is_over() {
                let is_there = match end {
                    Some(end) => sim.run_until(end, BATCH),
                    None => is_idle_within(sim, BATCH),
                };
                if is_there {
                    return true;
                }
            }
            false
        })
    }

    /// When all nodes have started and had time to join.
    #[getter]
    fn built_at(&self, py: Python<'_>) -> PyResult<f64> {
        self.with(py, |sim| seconds(sim.built_at()))
    }

    #[getter]
    fn now(&self, py: Python<'_>) -> PyResult<f64> {
        self.with(py, |sim| seconds(sim.now()))
    }

    #[getter]
    fn alive(&self, py: Python<'_>) -> PyResult<usize> {
        self.with(py, |sim| sim.alive())
    }

    /// How many lookups are over.
    #[getter]
    fn ended(&self, py: Python<'_>) -> PyResult<usize> {
        self.with(py, |sim| sim.lookups().len())
    }

    fn look_up(
        &self,
        py: Python<'_>,
        count: &Bound<'_, PyAny>,
        over: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let count = convert::count("count", count, 1, LOOKUPS_MAX)?;
        let over = convert::seconds("over", "seconds, finite and not negative", over)?;
        self.with(py, |sim| sim.look_up(count, over))
    }

    /// Gives up the lookups that are not over.
    fn forget_lookups(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, Simulation::forget_lookups)
    }

    fn find_node(
        &self,
        py: Python<'_>,
        target: &Bound<'_, PyAny>,
        node: &Bound<'_, PyAny>,
    ) -> PyResult<Option<u64>> {
        let (target, member) = (convert::id("target", target)?, self.member(node)?);
        self.with(py, |sim| sim.start_lookup(Goal::Nodes, target, member))
    }

    fn get_peers(
        &self,
        py: Python<'_>,
        topic: &Bound<'_, PyAny>,
        node: &Bound<'_, PyAny>,
    ) -> PyResult<Option<u64>> {
        let (topic, member) = (convert::topic("topic", topic)?, self.member(node)?);
        self.with(py, |sim| sim.start_lookup(Goal::Peers, topic, member))
    }

    fn announce(
        &self,
        py: Python<'_>,
        topic: &Bound<'_, PyAny>,
        port: &Bound<'_, PyAny>,
        node: &Bound<'_, PyAny>,
    ) -> PyResult<Option<u64>> {
        let (topic, member) = (convert::topic("topic", topic)?, self.member(node)?);
        let goal = Goal::Announce(convert::port("port", port)?);
        self.with(py, |sim| sim.start_lookup(goal, topic, member))
    }

    /// The lookups that are over, from the one at this index on, in the order of their ends.
    fn lookups<'py>(&self, py: Python<'py>, start: usize) -> PyResult<Bound<'py, PyList>> {
        let lookups =
            self.with(py, |sim| sim.lookups().get(start..).unwrap_or_default().to_vec())?;
        let lookups: Vec<_> =
            lookups.iter().map(|lookup| to_python(py, lookup)).collect::<PyResult<_>>()?;
        PyList::new(py, lookups)
    }

    fn kill(&self, py: Python<'_>, share: &Bound<'_, PyAny>) -> PyResult<usize> {
        let share = convert::share("share", share)?;
        self.with(py, |sim| sim.kill(share))
    }

    fn partition(
        &self,
        py: Python<'_>,
        share: &Bound<'_, PyAny>,
        span: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let share = convert::share("share", share)?;
        let span = convert::seconds("seconds", "seconds, finite and not negative", span)?;
        self.with(py, |sim| sim.partition(share, span))
    }

    fn rebind(&self, py: Python<'_>, share: &Bound<'_, PyAny>) -> PyResult<usize> {
        let share = convert::share("share", share)?;
        self.with(py, |sim| sim.rebind(share))
    }

    /// Datagrams sent so far, their bytes, and copies that did not arrive.
    fn traffic(&self, py: Python<'_>) -> PyResult<(u64, u64, u64)> {
        let traffic = self.with(py, |sim| sim.traffic())?;
        Ok((traffic.datagrams, traffic.bytes, traffic.lost))
    }

    /// The contacts in the table of each node that lives.
    fn fill(&self, py: Python<'_>) -> PyResult<Vec<usize>> {
        self.with(py, |sim| sim.engines().map(|engine| engine.table().len()).collect())
    }

    /// Id and address of a node, where it lives.
    fn contact<'py>(
        &self,
        py: Python<'py>,
        node: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(member) = self.member(node)? else {
            return Ok(None);
        };
        let contact = self.with(py, |sim| sim.contact(member))?;
        contact.map(|contact| convert::node(py, &contact)).transpose()
    }
}

impl PySimulation {
    /// Works on the simulation without the GIL, for whoever has the lock may be in a slice.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut Simulation) -> T + Send,
    ) -> PyResult<T> {
        if std::process::id() != self.process {
            // The lock may be held by a thread that this process does not have.
            let message = "this simulation belongs to the parent process: make another";
            return Err(classes::kadepy_error(py, message.into()));
        }
        Ok(detached(py, || work(&mut self.sim.lock())))
    }

    /// The number of a node; None for any.
    fn member(&self, node: &Bound<'_, PyAny>) -> PyResult<Option<u32>> {
        if node.is_none() {
            return Ok(None);
        }
        let last = self.nodes as u32 - 1;
        convert::count("node", node, 0, last).map(|node| Some(node as u32))
    }
}

/// Lets so much happen; whether no lookup is under way any more. It stops at the very moment, so
/// that where the slices end makes no difference.
fn is_idle_within(sim: &mut Simulation, happenings: usize) -> bool {
    for _ in 0..happenings {
        if !sim.is_looking_up() {
            return true;
        }
        sim.run_until(sim.now() + PAUSE, 1);
    }
    false
}

fn seconds(time: Time) -> f64 {
    time.as_micros() as f64 / 1e6
}

/// A `kadepy.Lookup`.
fn to_python<'py>(py: Python<'py>, lookup: &Lookup) -> PyResult<Bound<'py, PyAny>> {
    let contacts = |contacts: &mut dyn Iterator<Item = &Contact>| {
        let nodes: Vec<_> =
            contacts.map(|contact| convert::node(py, contact)).collect::<PyResult<_>>()?;
        PyList::new(py, nodes)
    };
    let goal = match lookup.goal {
        Goal::Nodes => "nodes",
        Goal::Record => "record",
        Goal::Peers => "peers",
        Goal::Announce(_) => "announce",
    };
    let peers: Vec<_> =
        lookup.peers.iter().map(|peer| convert::peer(py, peer)).collect::<PyResult<_>>()?;
    let fields = [
        goal.into_pyobject(py)?.into_any(),
        PyBytes::new(py, &lookup.target.0).into_any(),
        lookup.asker.into_pyobject(py)?.into_any(),
        lookup.success.into_pyobject(py)?.to_owned().into_any(),
        contacts(&mut lookup.nodes.iter())?.into_any(),
        PyList::new(py, peers)?.into_any(),
        lookup.confirmed.into_pyobject(py)?.into_any(),
        lookup.path.len().into_pyobject(py)?.into_any(),
        lookup.queries.into_pyobject(py)?.into_any(),
        lookup.messages.into_pyobject(py)?.into_any(),
        lookup.latency.as_secs_f64().into_pyobject(py)?.into_any(),
        contacts(&mut lookup.path.iter().map(|step| &step.contact))?.into_any(),
        seconds(lookup.started).into_pyobject(py)?.into_any(),
        lookup.number.into_pyobject(py)?.into_any(),
        lookup.named.all.into_pyobject(py)?.into_any(),
        lookup.named.dead.into_pyobject(py)?.into_any(),
        lookup.named.barred.into_pyobject(py)?.into_any(),
    ];
    convert::named_tuple(classes::classes(py)?.lookup.bind(py), PyTuple::new(py, fields)?)
}
