//! `kadepy._core.Node`: one node as Python holds it, its blocking calls and its callback.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::RecvTimeoutError;
use parking_lot::Mutex;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

use super::detach::{Deadline, SIGNAL_INTERVAL, detached, wait};
use super::handle::Handle;
use super::resolve::{self, Resolved};
use super::state::StateFile;
use super::{classes, config, convert, v01};
use crate::dht::protocol::{Outcome, Refusal, SeedState};
use crate::dht::requests::Question;
use crate::node::{CommandError, Node, Pending, Reply};
use crate::wire::message::{Endpoint, Kind};

/// How long a join asks addresses alone where there are names too.
const NAMES_AFTER: Duration = Duration::from_secs(1);

/// One DHT node: a UDP socket, its thread and a routing table. `kadepy.Swarm` is its public face.
#[pyclass(frozen, name = "Node", module = "kadepy._core")]
pub struct PyNode {
    pub handle: Arc<Handle>,
}

#[pymethods]
impl PyNode {
    #[new]
    #[pyo3(signature = (port, host, bootstrap, node_id, network_key, cipher, state_path, config, logs))]
    #[expect(clippy::too_many_arguments, reason = "those of Swarm")]
    fn new(
        py: Python<'_>,
        port: &Bound<'_, PyAny>,
        host: &Bound<'_, PyAny>,
        bootstrap: &Bound<'_, PyAny>,
        node_id: &Bound<'_, PyAny>,
        network_key: &Bound<'_, PyAny>,
        cipher: &Bound<'_, PyAny>,
        state_path: &Bound<'_, PyAny>,
        config: &Bound<'_, PyAny>,
        logs: bool,
    ) -> PyResult<Self> {
        let port = convert::bind_port("port", port)?;
        let mut address = convert::ip("host", host)?;
        address.set_port(port);
        let id = if node_id.is_none() { None } else { Some(own_id(node_id)?) };
        let config = config::config(config)?;
        let targets = convert::targets(bootstrap, None)?;
        let network = convert::network(network_key, cipher)?;
        let state_path = convert::path("state_path", state_path)?;
        let state_file = state_path.map(|path| StateFile::open(py, path)).transpose()?;
        let id = id.or_else(|| state_file.as_ref()?.id());
        let handle = Handle::start(py, address, id, &network, config)?;
        if logs {
            // Before there is anything to tell.
            handle.ensure_dispatcher(py)?;
            handle.node.report();
        }
        let recalled = state_file.map(|file| file.hand_to(py, &handle.node)).transpose()?;
        if !targets.is_empty() {
            detached(py, || resolve::stay_joined(&handle.node, targets))?;
        }
        if let Some(contacts) = recalled {
            detached(py, || handle.node.recall(contacts))?;
        }
        v01::adopt(py, &handle)?;
        Ok(Self { handle })
    }

    #[getter]
    fn id<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.handle.node.id().0)
    }

    #[getter]
    fn port(&self) -> u16 {
        self.handle.node.address().port()
    }

    #[getter]
    fn host(&self) -> String {
        convert::host_text(&self.handle.node.address().into())
    }

    #[getter]
    fn closed(&self) -> bool {
        self.handle.node.is_closed()
    }

    fn bootstrap(
        &self,
        py: Python<'_>,
        ip: &Bound<'_, PyAny>,
        port: Option<&Bound<'_, PyAny>>,
        timeout: &Bound<'_, PyAny>,
    ) -> PyResult<usize> {
        let timeout = convert::timeout(timeout)?;
        let targets = convert::targets(ip, port)?;
        if targets.is_empty() {
            return Err(PyValueError::new_err("bootstrap needs at least one contact, got none"));
        }
        let node = &self.handle.node;
        node.check_open()?;
        let deadline = Deadline::after(timeout);
        let ipv4 = node.address().is_ipv4();
        let (literal, names) = resolve::split(targets);
        // Names resolve while the addresses are asked, and join them where those stay silent.
        let resolving = (!names.is_empty()).then(|| resolve::resolve(names.clone(), ipv4));
        let mut tried = resolve::resolve_all(literal, ipv4);
        let first = if names.is_empty() { deadline } else { deadline.no_later_than(NAMES_AFTER) };
        if let Some(contacts) = self.join(py, resolve::endpoints(&tried), first)? {
            return Ok(contacts);
        }
        if let Some(resolving) = resolving {
            let resolved = wait(py, || match resolving.recv_timeout(deadline.patience()) {
                Ok(resolved) => Ok(Some(Some(resolved))),
                Err(RecvTimeoutError::Timeout) if !deadline.is_over() => {
                    node.check_open().map(|()| None)
                }
                Err(_) => Ok(Some(None)),
            })?;
            let unresolved = |name| (name, Err("its name did not resolve in time".to_owned()));
            let resolved = resolved.unwrap_or_else(|| names.into_iter().map(unresolved).collect());
            tried.extend(resolved);
            if let Some(contacts) = self.join(py, resolve::endpoints(&tried), deadline)? {
                return Ok(contacts);
            }
        }
        let reasons: Vec<String> = tried.iter().map(|entry| reason(entry, node)).collect();
        let under = if self.handle.is_private { " under this network key" } else { "" };
        let message = format!("no bootstrap contact answered{under}: {}", reasons.join("; "));
        Err(classes::bootstrap_error(py, message))
    }

    fn ping(
        &self,
        py: Python<'_>,
        ip: &Bound<'_, PyAny>,
        port: Option<&Bound<'_, PyAny>>,
        timeout: &Bound<'_, PyAny>,
    ) -> PyResult<f64> {
        let limit = convert::timeout(timeout)?;
        let to = self.handle.endpoint(["ip", "port"], ip, port)?;
        let pending = detached(py, || self.handle.node.ping(to, limit))?;
        match outcome(py, &pending)? {
            Outcome::Pong(round_trip) => Ok(round_trip.as_secs_f64()),
            Outcome::Silence => {
                let within = limit
                    .map_or(String::new(), |limit| format!(" within {} s", limit.as_secs_f64()));
                Err(classes::request_timeout(py, format!("{to} did not answer{within}")))
            }
            other => Err(unexpected(&other)),
        }
    }

    fn find_node<'py>(
        &self,
        py: Python<'py>,
        target: &Bound<'py, PyAny>,
        timeout: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyList>> {
        let timeout = convert::timeout(timeout)?;
        let target = convert::id("target", target)?;
        let pending = detached(py, || self.handle.node.find_node(target, timeout))?;
        match outcome(py, &pending)? {
            Outcome::Nodes(nodes) => {
                let nodes: Vec<_> =
                    nodes.iter().map(|node| convert::node(py, node)).collect::<PyResult<_>>()?;
                PyList::new(py, nodes)
            }
            other => Err(unexpected(&other)),
        }
    }

    fn iter_peers(
        &self,
        py: Python<'_>,
        topic: &Bound<'_, PyAny>,
        timeout: &Bound<'_, PyAny>,
    ) -> PyResult<PyPeers> {
        let timeout = convert::timeout(timeout)?;
        let topic = convert::topic("topic", topic)?;
        let pending = detached(py, || self.handle.node.get_peers(topic, timeout))?;
        Ok(PyPeers { pending: Mutex::new(Some(Arc::new(pending))), ready: Mutex::default() })
    }

    fn announce_peer(
        &self,
        py: Python<'_>,
        topic: &Bound<'_, PyAny>,
        port: &Bound<'_, PyAny>,
        timeout: &Bound<'_, PyAny>,
    ) -> PyResult<usize> {
        let timeout = convert::timeout(timeout)?;
        let topic = convert::topic("topic", topic)?;
        let port = optional_port(port)?;
        let pending = detached(py, || self.handle.node.announce_peer(topic, port, timeout))?;
        match outcome(py, &pending)? {
            Outcome::Announced(confirmed) => Ok(confirmed),
            other => Err(unexpected(&other)),
        }
    }

    fn send(
        &self,
        py: Python<'_>,
        ip: &Bound<'_, PyAny>,
        port: Option<&Bound<'_, PyAny>>,
        kind: &Bound<'_, PyAny>,
        payload: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let to = self.handle.endpoint(["ip", "port"], ip, port)?;
        let kind = convert::application_kind("type", kind)?;
        let payload = convert::payload("payload", payload)?;
        Ok(detached(py, || self.handle.node.send(to, kind, &payload))?)
    }

    fn announce_to(
        &self,
        py: Python<'_>,
        target_ip: &Bound<'_, PyAny>,
        target_port: Option<&Bound<'_, PyAny>>,
        topic_hash: &Bound<'_, PyAny>,
        port: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let to = self.handle.endpoint(["target_ip", "target_port"], target_ip, target_port)?;
        let topic = convert::topic("topic_hash", topic_hash)?;
        let port = optional_port(port)?;
        Ok(detached(py, || self.handle.node.announce_to(to, topic, port))?)
    }

    fn lookup_from(
        &self,
        py: Python<'_>,
        target_ip: &Bound<'_, PyAny>,
        target_port: Option<&Bound<'_, PyAny>>,
        topic_hash: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let to = self.handle.endpoint(["target_ip", "target_port"], target_ip, target_port)?;
        let topic = convert::topic("topic_hash", topic_hash)?;
        Ok(detached(py, || self.handle.node.fire(to, Question::GetPeers(topic)))?)
    }

    fn set_callback(&self, callback: &Bound<'_, PyAny>) -> PyResult<()> {
        self.handle.set_callback(callback)
    }

    fn nodes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let entries = detached(py, || self.handle.node.entries())?;
        let nodes: Vec<_> = entries
            .iter()
            .map(|entry| convert::node(py, &entry.contact))
            .collect::<PyResult<_>>()?;
        PyList::new(py, nodes)
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let stats = detached(py, || self.handle.node.stats())?;
        let counters = &stats.counters;
        let by_kind = |counts: &[u64]| -> PyResult<Bound<'py, PyDict>> {
            let dict = PyDict::new(py);
            for kind in Kind::ALL {
                dict.set_item(kind.name(), counts[kind as usize])?;
            }
            Ok(dict)
        };
        let dropped = PyDict::new(py);
        for refusal in Refusal::ALL {
            dropped.set_item(refusal.name(), counters.refused[refusal as usize])?;
        }
        let (waiting, callback_dropped) = self.handle.node.notices_waiting();
        let fields = [
            by_kind(&counters.packets_in)?.into_any(),
            by_kind(&counters.packets_out)?.into_any(),
            counters.bytes_in.into_pyobject(py)?.into_any(),
            counters.bytes_out.into_pyobject(py)?.into_any(),
            dropped.into_any(),
            counters.requests.into_pyobject(py)?.into_any(),
            counters.timeouts.into_pyobject(py)?.into_any(),
            stats.rtt.map(|rtt| rtt.as_secs_f64()).into_pyobject(py)?,
            counters.lookups.into_pyobject(py)?.into_any(),
            stats.lookups_active.into_pyobject(py)?.into_any(),
            stats.contacts.into_pyobject(py)?.into_any(),
            stats.topics.into_pyobject(py)?.into_any(),
            stats.records.into_pyobject(py)?.into_any(),
            waiting.into_pyobject(py)?.into_any(),
            callback_dropped.into_pyobject(py)?.into_any(),
            self.handle.callback_errors().into_pyobject(py)?.into_any(),
            stats.uptime.as_secs_f64().into_pyobject(py)?.into_any(),
        ];
        let class = classes::classes(py)?.stats.bind(py);
        convert::named_tuple(class, PyTuple::new(py, fields)?)
    }

    fn save(&self, py: Python<'_>) -> PyResult<()> {
        Ok(detached(py, || self.handle.node.save())?)
    }

    fn close(&self, py: Python<'_>) {
        detached(py, || self.handle.node.close());
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.handle.traverse(&visit)
    }

    fn __clear__(&self) {
        self.handle.clear();
    }
}

impl PyNode {
    /// Joins through `seeds`; gives the contacts listed then, where any of them answered.
    fn join(
        &self,
        py: Python<'_>,
        seeds: Vec<Endpoint>,
        deadline: Deadline,
    ) -> PyResult<Option<usize>> {
        if seeds.is_empty() {
            return Ok(None);
        }
        let pending = detached(py, || self.handle.node.join(seeds, deadline.left()))?;
        match outcome(py, &pending)? {
            Outcome::Joined { contacts, seeds } => {
                let has_joined = seeds.iter().any(|(_, state)| *state == SeedState::Answered);
                Ok(has_joined.then_some(contacts))
            }
            other => Err(unexpected(&other)),
        }
    }
}

/// The peers that a lookup finds, each as it arrives.
#[pyclass(frozen, name = "Peers", module = "kadepy._core")]
pub struct PyPeers {
    /// `None` once the lookup is over.
    pending: Mutex<Option<Arc<Pending>>>,
    ready: Mutex<VecDeque<Endpoint>>,
}

#[pymethods]
impl PyPeers {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        loop {
            let ready = self.ready.lock().pop_front();
            if let Some(peer) = ready {
                return convert::peer(py, &peer).map(Some);
            }
            let Some(pending) = self.pending.lock().clone() else {
                return Ok(None);
            };
            // Another thread may have taken the last reply.
            let reply = wait(py, || match pending.wait(SIGNAL_INTERVAL) {
                Err(CommandError::Ended) => Ok(Some(None)),
                other => Ok(other?.map(Some)),
            });
            match reply {
                Ok(Some(Reply::Peers(peers))) => self.ready.lock().extend(peers),
                Ok(Some(Reply::Done(_)) | None) => self.close(),
                Err(error) => {
                    self.close();
                    return Err(error);
                }
            }
        }
    }

    /// Ends the lookup, if it is still under way.
    fn close(&self) {
        let pending = self.pending.lock().take();
        drop(pending);
    }
}

fn next_reply(py: Python<'_>, pending: &Pending) -> PyResult<Reply> {
    wait(py, || pending.wait(SIGNAL_INTERVAL))
}

/// The end of an operation that reports nothing before.
fn outcome(py: Python<'_>, pending: &Pending) -> PyResult<Outcome> {
    match next_reply(py, pending)? {
        Reply::Done(outcome) => Ok(outcome),
        Reply::Peers(_) => {
            Err(PyRuntimeError::new_err("peers came from an operation that finds none"))
        }
    }
}

fn unexpected(outcome: &Outcome) -> PyErr {
    PyRuntimeError::new_err(format!("an operation ended as another does: {outcome:?}"))
}

fn own_id(value: &Bound<'_, PyAny>) -> PyResult<crate::NodeId> {
    let id = convert::id("node_id", value)?;
    if id == crate::NodeId::ZERO || id == crate::NodeId::MAX {
        return Err(PyValueError::new_err(
            "node_id must not be all zeros or all ones: other nodes ignore such",
        ));
    }
    Ok(id)
}

pub fn optional_port(value: &Bound<'_, PyAny>) -> PyResult<Option<u16>> {
    if value.is_none() { Ok(None) } else { convert::port("port", value).map(Some) }
}

fn reason((target, found): &Resolved, node: &Node) -> String {
    match found {
        Err(error) => format!("{target} ({error})"),
        Ok(endpoints) if endpoints.iter().all(|endpoint| *endpoint == node.address().into()) => {
            format!("{target} (it is this node itself)")
        }
        Ok(_) => format!("{target} (no answer)"),
    }
}
