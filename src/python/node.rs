//! `kadepy._core.Node`: one node as Python holds it, its blocking calls and its callback.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use crossbeam_channel::RecvTimeoutError;
use log::Level;
use parking_lot::Mutex;
use pyo3::exceptions::{PyBaseException, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

use super::config::PyConfig;
use super::detach::{self, Deadline, Present, SIGNAL_INTERVAL, detached, in_python, wait};
use super::resolve::{self, Resolved};
use super::{classes, convert, v01};
use crate::config::Config;
use crate::dht::protocol::{Outcome, Refusal, SeedState};
use crate::dht::requests::Question;
use crate::node::{CommandError, Node, Notice, Pending, Reply};
use crate::wire::message::{Endpoint, Kind};

/// A node and its callback.
pub struct Inner {
    pub node: Arc<Node>,
    config: Config,
    callback: Mutex<Option<Py<PyAny>>>,
    callback_errors: Arc<AtomicU64>,
    has_dispatcher: AtomicBool,
}

/// Every node of this process that may still be open, in the order of their making.
static NODES: Mutex<Vec<Weak<Inner>>> = Mutex::new(Vec::new());

/// The first node that is still open.
pub fn first_open() -> Option<Arc<Inner>> {
    let nodes = NODES.lock();
    nodes.iter().filter_map(Weak::upgrade).find(|inner| !inner.node.is_closed())
}

impl Inner {
    /// Makes a node, and has the interpreter's exit and forks looked after.
    pub fn start(
        py: Python<'_>,
        address: SocketAddr,
        id: Option<crate::NodeId>,
        config: Config,
    ) -> PyResult<Arc<Self>> {
        static HOOKS: PyOnceLock<()> = PyOnceLock::new();
        HOOKS.get_or_try_init(py, || {
            classes::classes(py)?;
            py.import("kadepy._runtime")?.getattr("install_hooks")?.call0().map(drop)
        })?;
        let node = detached(py, || Node::start(address, id, config.clone()))
            .map_err(|error| classes::bind_error(address, &error))?;
        let inner = Arc::new(Self {
            node: Arc::new(node),
            config,
            callback: Mutex::new(None),
            callback_errors: Arc::default(),
            has_dispatcher: AtomicBool::new(false),
        });
        let mut nodes = NODES.lock();
        if detach::is_exiting() {
            drop(nodes);
            return Err(PyRuntimeError::new_err(
                "the interpreter is shutting down: too late for a node",
            ));
        }
        nodes.retain(|node| node.strong_count() > 0);
        nodes.push(Arc::downgrade(&inner));
        drop(nodes);
        Ok(inner)
    }

    /// Sets or removes the callback; `None` as the value removes it.
    pub fn set_callback(self: &Arc<Self>, callback: &Bound<'_, PyAny>) -> PyResult<()> {
        self.node.check_open()?;
        let py = callback.py();
        let callback = checked_callback(callback)?;
        let is_set = callback.is_some();
        if is_set {
            self.ensure_dispatcher(py)?;
        }
        let former = std::mem::replace(&mut *self.callback.lock(), callback);
        self.node.observe(is_set)?;
        if !is_set {
            // They are not for the one that may be set next.
            self.node.forget_packets();
        }
        // Its finalizer may run any code, so not under the lock.
        drop(former);
        Ok(())
    }

    /// Starts the thread that runs what must run in Python, unless it runs.
    fn ensure_dispatcher(self: &Arc<Self>, py: Python<'_>) -> PyResult<()> {
        if self.has_dispatcher.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.node.open_notices(self.config.callback_queue);
        let notices = PyNotices {
            node: Arc::clone(&self.node),
            owner: Arc::downgrade(self),
            callback_errors: Arc::clone(&self.callback_errors),
        };
        let name = format!("kadepy-callbacks-{}", self.node.address().port());
        let started = in_python(|| {
            let start = py.import("kadepy._runtime")?.getattr("start_dispatcher")?;
            start.call1((Py::new(py, notices)?, name))
        });
        if started.is_err() {
            self.has_dispatcher.store(false, Ordering::Release);
        }
        started.map(drop)
    }

    /// An endpoint that this node can send to.
    pub fn endpoint(
        &self,
        names: [&str; 2],
        ip: &Bound<'_, PyAny>,
        port: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Endpoint> {
        let endpoint = convert::endpoint(names, ip, port)?;
        if self.node.reaches(&endpoint) {
            return Ok(endpoint);
        }
        let (has, wants) = if endpoint.is_ipv4() { ("IPv6", "IPv4") } else { ("IPv4", "IPv6") };
        Err(PyValueError::new_err(format!(
            "{} must be an {has} address, for this node is bound to {}, got the {wants} address {}",
            names[0],
            self.node.address().ip(),
            endpoint.ip(),
        )))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The dispatcher holds the node too; it ends with this.
        self.node.close();
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
        let pending = detached(py, || self.inner.node.join(seeds, deadline.left()))?;
        match outcome(py, &pending)? {
            Outcome::Joined { contacts, seeds } => {
                let has_joined = seeds.iter().any(|(_, state)| *state == SeedState::Answered);
                Ok(has_joined.then_some(contacts))
            }
            other => Err(unexpected(&other)),
        }
    }
}

/// A callback that can be called for each packet; `None` where it is None.
pub fn checked_callback(callback: &Bound<'_, PyAny>) -> PyResult<Option<Py<PyAny>>> {
    if callback.is_none() {
        return Ok(None);
    }
    if !callback.is_callable() {
        return Err(PyTypeError::new_err(format!(
            "callback must be callable or None, got {}",
            convert::shown(callback)
        )));
    }
    let py = callback.py();
    let is_async = in_python(|| {
        py.import("kadepy._runtime")?.getattr("is_async")?.call1((callback,))?.is_truthy()
    })?;
    if is_async {
        return Err(PyTypeError::new_err(format!(
            "callback must be a plain function, which {} is not: nothing would await it",
            convert::shown(callback)
        )));
    }
    Ok(Some(callback.clone().unbind()))
}

/// One DHT node: a UDP socket, its thread and a routing table. `kadepy.Swarm` is its public face.
#[pyclass(frozen, name = "Node", module = "kadepy._core")]
pub struct PyNode {
    pub inner: Arc<Inner>,
}

#[pymethods]
impl PyNode {
    #[new]
    #[pyo3(signature = (port, host, bootstrap, node_id, config))]
    fn new(
        py: Python<'_>,
        port: &Bound<'_, PyAny>,
        host: &Bound<'_, PyAny>,
        bootstrap: &Bound<'_, PyAny>,
        node_id: &Bound<'_, PyAny>,
        config: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let port = convert::bind_port("port", port)?;
        let mut address = convert::ip("host", host)?;
        address.set_port(port);
        let id = if node_id.is_none() { None } else { Some(own_id(node_id)?) };
        let config = if config.is_none() {
            Config::default()
        } else {
            let config = config.cast::<PyConfig>().map_err(|_| {
                PyTypeError::new_err(format!(
                    "config must be a Config or None, got {}",
                    convert::shown(config)
                ))
            })?;
            config.get().config.clone()
        };
        let targets = convert::targets(bootstrap, None)?;
        let inner = Inner::start(py, address, id, config)?;
        if !targets.is_empty() {
            detached(py, || resolve::stay_joined(&inner.node, targets))?;
        }
        v01::adopt(py, &inner)?;
        Ok(Self { inner })
    }

    #[getter]
    fn id<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.inner.node.id().0)
    }

    #[getter]
    fn port(&self) -> u16 {
        self.inner.node.address().port()
    }

    #[getter]
    fn host(&self) -> String {
        convert::host_text(&self.inner.node.address().into())
    }

    #[getter]
    fn closed(&self) -> bool {
        self.inner.node.is_closed()
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
        let node = &self.inner.node;
        node.check_open()?;
        let deadline = Deadline::after(timeout);
        let ipv4 = node.address().is_ipv4();
        let (literal, names) = resolve::split(targets);
        // Names resolve while the addresses are asked, and are asked where those stay silent.
        let resolving = (!names.is_empty()).then(|| resolve::resolve(names.clone(), ipv4));
        let mut tried = resolve::resolve_all(literal, ipv4);
        if let Some(contacts) = self.join(py, resolve::endpoints(&tried), deadline)? {
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
            if let Some(contacts) = self.join(py, resolve::endpoints(&resolved), deadline)? {
                return Ok(contacts);
            }
            tried.extend(resolved);
        }
        let reasons: Vec<String> = tried.iter().map(|entry| reason(entry, node)).collect();
        let message = format!("no bootstrap contact answered: {}", reasons.join("; "));
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
        let to = self.inner.endpoint(["ip", "port"], ip, port)?;
        let pending = detached(py, || self.inner.node.ping(to, limit))?;
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
        let pending = detached(py, || self.inner.node.find_node(target, timeout))?;
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
        let pending = detached(py, || self.inner.node.get_peers(topic, timeout))?;
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
        let pending = detached(py, || self.inner.node.announce_peer(topic, port, timeout))?;
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
        let to = self.inner.endpoint(["ip", "port"], ip, port)?;
        let kind = convert::application_kind("type", kind)?;
        let payload = convert::payload("payload", payload)?;
        Ok(detached(py, || self.inner.node.send(to, kind, &payload))?)
    }

    fn announce_to(
        &self,
        py: Python<'_>,
        target_ip: &Bound<'_, PyAny>,
        target_port: Option<&Bound<'_, PyAny>>,
        topic_hash: &Bound<'_, PyAny>,
        port: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let to = self.inner.endpoint(["target_ip", "target_port"], target_ip, target_port)?;
        let topic = convert::topic("topic_hash", topic_hash)?;
        let port = optional_port(port)?;
        Ok(detached(py, || self.inner.node.announce_to(to, topic, port))?)
    }

    fn lookup_from(
        &self,
        py: Python<'_>,
        target_ip: &Bound<'_, PyAny>,
        target_port: Option<&Bound<'_, PyAny>>,
        topic_hash: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let to = self.inner.endpoint(["target_ip", "target_port"], target_ip, target_port)?;
        let topic = convert::topic("topic_hash", topic_hash)?;
        Ok(detached(py, || self.inner.node.fire(to, Question::GetPeers(topic)))?)
    }

    fn set_callback(&self, callback: &Bound<'_, PyAny>) -> PyResult<()> {
        self.inner.set_callback(callback)
    }

    /// Sends what is worth a log line to `logging`, from the dispatcher.
    fn report(&self, py: Python<'_>) -> PyResult<()> {
        self.inner.ensure_dispatcher(py)?;
        self.inner.node.report();
        Ok(())
    }

    fn nodes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let entries = detached(py, || self.inner.node.entries())?;
        let nodes: Vec<_> = entries
            .iter()
            .map(|entry| convert::node(py, &entry.contact))
            .collect::<PyResult<_>>()?;
        PyList::new(py, nodes)
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let stats = detached(py, || self.inner.node.stats())?;
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
        let (waiting, callback_dropped) = self.inner.node.notices_waiting();
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
            self.inner.callback_errors.load(Ordering::Relaxed).into_pyobject(py)?.into_any(),
            stats.uptime.as_secs_f64().into_pyobject(py)?.into_any(),
        ];
        let class = classes::classes(py)?.stats.bind(py);
        convert::named_tuple(class, PyTuple::new(py, fields)?)
    }

    fn close(&self, py: Python<'_>) {
        detached(py, || self.inner.node.close());
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self.inner.callback.try_lock() {
            Some(callback) => visit.call(&*callback),
            None => Ok(()),
        }
    }

    fn __clear__(&self) {
        let callback = self.inner.callback.lock().take();
        drop(callback);
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

/// What the dispatcher thread takes its work from. It keeps no node alive.
#[pyclass(frozen, name = "Notices", module = "kadepy._core")]
pub struct PyNotices {
    node: Arc<Node>,
    owner: Weak<Inner>,
    callback_errors: Arc<AtomicU64>,
}

#[pymethods]
impl PyNotices {
    /// The next thing to do, waited for where there is none: a logging level and a line, or None and
    /// a callback's arguments. None says that the node is closed.
    fn take<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        // The GIL is kept as long as there is more to do.
        let notice = self.node.try_notice();
        match notice.unwrap_or_else(|| detached(py, || self.node.wait_notice())) {
            Notice::Packet { from, datagram } => {
                (py.None(), convert::packet(py, &from, &datagram)?).into_pyobject(py).map(Some)
            }
            Notice::Log { level, text } => {
                let line = format!("node on port {}: {text}", self.node.address().port());
                (logging_level(level), line).into_pyobject(py).map(Some)
            }
            Notice::Closed => Ok(None),
        }
    }

    /// The callback, unless there is none or the node is closed.
    #[getter]
    fn callback(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let owner = self.owner.upgrade()?;
        if owner.node.is_closed() {
            return None;
        }
        owner.callback.lock().as_ref().map(|callback| callback.clone_ref(py))
    }

    /// Counts a call of the callback that raised.
    fn count_error(&self) {
        self.callback_errors.fetch_add(1, Ordering::Relaxed);
    }
}

/// Reports what `function` raised through `sys.unraisablehook`.
#[pyfunction]
pub fn _report(error: Bound<'_, PyBaseException>, function: &Bound<'_, PyAny>) {
    // The hook is code that the exiting interpreter must not stop halfway.
    let _present = Present::enter();
    PyErr::from_value(error.into_any()).write_unraisable(function.py(), Some(function));
}

fn logging_level(level: Level) -> u8 {
    match level {
        Level::Error => 40,
        Level::Warn => 30,
        Level::Info => 20,
        Level::Debug | Level::Trace => 10,
    }
}

/// Closes every node, and waits for the threads that are in here without the GIL.
#[pyfunction]
pub fn _close_all(py: Python<'_>) {
    detach::begin_exit();
    let nodes: Vec<Arc<Inner>> = NODES.lock().iter().filter_map(Weak::upgrade).collect();
    py.detach(|| {
        for inner in &nodes {
            inner.node.close();
        }
        detach::wait_for_all();
    });
    drop(nodes);
}

/// Marks every node as the parent's, in a forked child; gives the descriptors of their sockets.
#[pyfunction]
pub fn _abandon_all() -> Vec<i32> {
    let mut descriptors = Vec::new();
    detach::forget_all();
    // Whoever held it is not in this process.
    let Some(nodes) = NODES.try_lock() else {
        return descriptors;
    };
    for inner in nodes.iter().filter_map(Weak::upgrade) {
        if !inner.node.is_closed() {
            descriptors.extend(inner.node.descriptor());
            inner.node.abandon();
        }
        std::mem::forget(inner);
    }
    descriptors
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
