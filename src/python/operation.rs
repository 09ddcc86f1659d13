//! What Python holds of work under way: it waits for the end, or is told and asks; letting go of it
//! ends the work.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use super::detach::{SIGNAL_INTERVAL, detached, wait};
use super::handle::Handle;
use super::resolve::Joining;
use super::{classes, convert};
use crate::dht::protocol::{Obstacle, Outcome};
use crate::id::NodeId;
use crate::node::{CommandError, Pending, Reply, reasons};
use crate::wire::message::Endpoint;

/// An operation of a node, as long as somebody wants its replies.
struct Running {
    pending: Mutex<Option<Arc<Pending>>>,
    owner: Weak<Handle>,
    /// Where the node is bound.
    bound: IpAddr,
}

impl Running {
    fn new(owner: &Arc<Handle>, pending: Pending) -> Self {
        Self {
            pending: Mutex::new(Some(Arc::new(pending))),
            owner: Arc::downgrade(owner),
            bound: owner.node.address().ip(),
        }
    }

    /// `None` once it is over.
    fn pending(&self) -> Option<Arc<Pending>> {
        self.pending.lock().clone()
    }

    /// Has `listener` called on the dispatcher's thread whenever there is something to take; gives
    /// whether there is already, of which it is not told.
    fn listen(&self, py: Python<'_>, listener: Py<PyAny>) -> PyResult<bool> {
        let (Some(pending), Some(owner)) = (self.pending(), self.owner.upgrade()) else {
            return Ok(true);
        };
        owner.ensure_dispatcher(py)?;
        owner.callbacks.set_listener(pending.op(), listener);
        if self.pending().is_none() {
            // Another thread has ended it meanwhile, when there was no listener to remove.
            owner.callbacks.remove_listener(pending.op());
            return Ok(true);
        }
        Ok(pending.listen())
    }

    /// Whether it ended, or the node is closed.
    fn is_over(&self) -> bool {
        let owner = self.owner.upgrade();
        self.pending().is_none() || owner.is_none_or(|owner| owner.node.is_closed())
    }

    fn close(&self) {
        let Some(pending) = self.pending.lock().take() else {
            return;
        };
        if let Some(owner) = self.owner.upgrade() {
            owner.callbacks.remove_listener(pending.op());
        }
        drop(pending);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.close();
    }
}

/// What the outcome of an operation is to Python.
pub enum Goal {
    /// Seconds, or `RequestTimeout`.
    Ping { to: Endpoint, timeout: Option<Duration> },
    /// A list of nodes.
    FindNode,
    /// How many nodes confirmed.
    Announce,
    /// How many contacts are listed, or `BootstrapError`.
    Join(Joining),
}

/// Work that has one result.
#[pyclass(frozen, name = "Operation", module = "kadepy._core")]
pub struct PyOperation {
    running: Running,
    goal: Goal,
}

impl PyOperation {
    pub fn new(owner: &Arc<Handle>, pending: Pending, goal: Goal) -> Self {
        Self { running: Running::new(owner, pending), goal }
    }

    fn result<'py>(&self, py: Python<'py>, reply: Reply) -> PyResult<Bound<'py, PyAny>> {
        self.running.close();
        match reply {
            Reply::Done(outcome) => self.convert(py, outcome),
            Reply::Peers(_) | Reply::Members => {
                Err(PyRuntimeError::new_err("peers came from an operation that finds none"))
            }
        }
    }

    fn convert<'py>(&self, py: Python<'py>, outcome: Outcome) -> PyResult<Bound<'py, PyAny>> {
        match (&self.goal, outcome) {
            (Goal::Ping { .. }, Outcome::Pong(round_trip)) => {
                Ok(round_trip.as_secs_f64().into_pyobject(py)?.into_any())
            }
            (Goal::Ping { to, timeout }, Outcome::Silence) => {
                let within =
                    timeout.map_or(String::new(), |t| format!(" within {} s", t.as_secs_f64()));
                Err(classes::request_timeout(py, format!("{to} did not answer{within}")))
            }
            (Goal::Ping { to, .. }, Outcome::Failed(Obstacle::System(code))) => {
                Err(convert::unsent(&format!("cannot send to {to}"), code, self.running.bound))
            }
            (Goal::Ping { to, .. }, Outcome::Failed(Obstacle::Itself)) => {
                Err(classes::request_timeout(py, format!("{to} is this node itself")))
            }
            (Goal::Ping { to, .. }, Outcome::Failed(Obstacle::Namesake)) => {
                Err(classes::request_timeout(py, format!("{to} {}", reasons::NAMESAKE)))
            }
            (_, Outcome::Failed(Obstacle::System(code))) => {
                Err(convert::unsent("nobody could be asked", code, self.running.bound))
            }
            (Goal::FindNode, Outcome::Nodes(nodes)) => {
                let nodes: Vec<_> =
                    nodes.iter().map(|node| convert::node(py, node)).collect::<PyResult<_>>()?;
                Ok(PyList::new(py, nodes)?.into_any())
            }
            (Goal::Announce, Outcome::Announced(confirmed)) => {
                Ok(confirmed.into_pyobject(py)?.into_any())
            }
            (Goal::Join(joining), Outcome::Joined { contacts, seeds }) => {
                match joining.failure(&seeds) {
                    None => Ok(contacts.into_pyobject(py)?.into_any()),
                    Some(failure) => Err(classes::bootstrap_error(py, failure)),
                }
            }
            (_, other) => Err(PyRuntimeError::new_err(format!(
                "an operation ended as another does: {other:?}"
            ))),
        }
    }
}

#[pymethods]
impl PyOperation {
    /// Waits for the result, and gives or raises it.
    fn wait<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let pending = self.running.pending().ok_or(CommandError::Ended)?;
        let reply = wait(py, || pending.wait(SIGNAL_INTERVAL));
        drop(pending);
        self.result(py, reply?)
    }

    /// Gives or raises the result, which must be there.
    fn result_now<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let pending = self.running.pending().ok_or(CommandError::Ended)?;
        let reply = pending.try_next();
        drop(pending);
        let reply = reply?.ok_or_else(|| PyRuntimeError::new_err("the result is not there yet"))?;
        self.result(py, reply)
    }

    /// Has `listener` called without arguments, on the dispatcher's thread, when the result is there;
    /// gives whether it is already, of which it is not told.
    fn listen(&self, py: Python<'_>, listener: Py<PyAny>) -> PyResult<bool> {
        self.running.listen(py, listener)
    }

    /// Ends the work, if it is still under way.
    fn close(&self) {
        self.running.close();
    }
}

/// The peers that a lookup finds, each as it arrives.
#[pyclass(frozen, name = "Peers", module = "kadepy._core")]
pub struct PyPeers {
    running: Running,
    topic: NodeId,
    ready: Mutex<VecDeque<Endpoint>>,
}

impl PyPeers {
    pub fn new(owner: &Arc<Handle>, pending: Pending, topic: NodeId) -> Self {
        Self { running: Running::new(owner, pending), topic, ready: Mutex::default() }
    }

    /// Takes in a reply, or learns that none comes any more.
    fn absorb(&self, reply: Result<Option<Reply>, CommandError>) -> PyResult<()> {
        match reply {
            Ok(Some(Reply::Peers(peers))) => self.ready.lock().extend(peers),
            Ok(Some(Reply::Done(Outcome::Failed(Obstacle::System(code))))) => {
                self.running.close();
                return Err(convert::unsent("nobody could be asked", code, self.running.bound));
            }
            // Another thread may have taken the last reply.
            Ok(Some(Reply::Done(_))) | Err(CommandError::Ended) => self.running.close(),
            Ok(Some(Reply::Members) | None) => {}
            Err(error) => {
                self.running.close();
                return Err(error.into());
            }
        }
        Ok(())
    }
}

#[pymethods]
impl PyPeers {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __repr__(&self) -> String {
        let state = if self.running.is_over() { "over" } else { "under way" };
        let [a, b, c, d, ..] = self.topic.0;
        format!("<Peers of {a:02x}{b:02x}{c:02x}{d:02x}...: lookup {state}>")
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        loop {
            let ready = self.ready.lock().pop_front();
            if let Some(peer) = ready {
                return convert::peer(py, &peer).map(Some);
            }
            let Some(pending) = self.running.pending() else {
                return Ok(None);
            };
            let reply = detached(py, || pending.wait(SIGNAL_INTERVAL));
            drop(pending);
            self.absorb(reply)?;
            py.check_signals()?;
        }
    }

    /// The peers that have come since, without waiting; None when no more can come.
    fn take<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyList>>> {
        while let Some(pending) = self.running.pending() {
            let reply = pending.try_next();
            let is_empty = matches!(reply, Ok(None));
            drop(pending);
            self.absorb(reply)?;
            if is_empty {
                break;
            }
        }
        let ready = std::mem::take(&mut *self.ready.lock());
        if ready.is_empty() && self.running.pending().is_none() {
            return Ok(None);
        }
        let peers: Vec<_> =
            ready.iter().map(|peer| convert::peer(py, peer)).collect::<PyResult<_>>()?;
        PyList::new(py, peers).map(Some)
    }

    /// Has `listener` called without arguments, on the dispatcher's thread, when there is something to
    /// take; gives whether there is already, of which it is not told.
    fn listen(&self, py: Python<'_>, listener: Py<PyAny>) -> PyResult<bool> {
        self.running.listen(py, listener)
    }

    /// Ends the lookup, if it is still under way.
    fn close(&self) {
        self.running.close();
    }
}

/// A topic joined, and the peers known of it.
#[pyclass(frozen, name = "Members", module = "kadepy._core")]
pub struct PyMembers {
    running: Running,
    topic: NodeId,
    port: Option<u16>,
}

impl PyMembers {
    pub fn new(owner: &Arc<Handle>, pending: Pending, topic: NodeId, port: Option<u16>) -> Self {
        Self { running: Running::new(owner, pending), topic, port }
    }
}

#[pymethods]
impl PyMembers {
    #[getter]
    fn topic<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.topic.0)
    }

    #[getter]
    fn port(&self) -> Option<u16> {
        self.port
    }

    /// How many nodes stored the last announce; None before the first is over, and after the end.
    #[getter]
    fn confirmed(&self, py: Python<'_>) -> PyResult<Option<usize>> {
        let Some(pending) = self.running.pending() else {
            return Ok(None);
        };
        let membership = detached(py, || pending.membership())?;
        Ok(membership.and_then(|membership| membership.confirmed))
    }

    /// The peers that came after the one with this number, and the number of the last.
    fn after<'py>(&self, py: Python<'py>, number: u64) -> PyResult<(Bound<'py, PyList>, u64)> {
        let mut members = Vec::new();
        if let Some(pending) = self.running.pending() {
            members = detached(py, || {
                // First, so that what comes from now on tells again.
                while let Ok(Some(_)) = pending.try_next() {}
                pending.members(number)
            })?;
        }
        let last = members.last().map_or(number, |(number, _)| *number);
        let peers: Vec<_> =
            members.iter().map(|(_, peer)| convert::peer(py, peer)).collect::<PyResult<_>>()?;
        Ok((PyList::new(py, peers)?, last))
    }

    /// Whether no peer comes any more: it was left, or the node is closed.
    #[getter]
    fn closed(&self) -> bool {
        self.running.is_over()
    }

    /// Has `listener` called without arguments, on the dispatcher's thread, when there are peers that
    /// it was not told of.
    fn listen(&self, py: Python<'_>, listener: Py<PyAny>) -> PyResult<()> {
        if self.running.listen(py, listener)? {
            let pending = self.running.pending();
            pending.iter().for_each(|pending| pending.remind());
        }
        Ok(())
    }

    /// Leaves the topic.
    fn close(&self) {
        self.running.close();
    }
}
