//! One node as the process holds it: its callback and dispatcher, the list of all, and what the
//! interpreter's exit and a fork do with them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::detach::{self, detached, in_python};
use super::notices::PyNotices;
use super::{classes, convert, resolve};
use crate::config::Config;
use crate::dht::requests::OpId;
use crate::node::{CommandError, Node};
use crate::wire::message::Endpoint;
use crate::wire::seal::Network;

/// A node and its callback.
pub struct Handle {
    pub node: Arc<Node>,
    /// Whether it was made with a network key; that of a `Swarm` never changes.
    pub is_private: bool,
    /// Whether v0.1's functions may act on it.
    pub is_default: bool,
    config: Config,
    callback: Mutex<Option<Py<PyAny>>>,
    /// Who is told when there is something of an operation.
    listeners: Mutex<BTreeMap<OpId, Py<PyAny>>>,
    callback_errors: AtomicU64,
    dispatcher: PyOnceLock<()>,
}

/// Every node of this process that may still be open, in the order of their making.
static NODES: Mutex<Vec<Weak<Handle>>> = Mutex::new(Vec::new());

/// Every node of this process that Python still holds, in the order of their making. What is dropped
/// may be the last of a node, and with it a callback, whose finalizer runs any code: not under a lock.
pub fn all() -> Vec<Arc<Handle>> {
    NODES.lock().iter().filter_map(Weak::upgrade).collect()
}

/// Has the interpreter's exit and forks looked after.
pub fn install_hooks(py: Python<'_>) -> PyResult<()> {
    static HOOKS: PyOnceLock<()> = PyOnceLock::new();
    HOOKS.get_or_try_init(py, || {
        classes::classes(py)?;
        detach::get_ident(py)?;
        py.import("kadepy._runtime")?.getattr("install_hooks")?.call0().map(drop)
    })?;
    Ok(())
}

impl Handle {
    /// Makes a node, and has the interpreter's exit and forks looked after. Before the
    /// port of `address`, `former_port` is tried, unless it is 0.
    pub fn start(
        py: Python<'_>,
        (address, former_port): (SocketAddr, u16),
        id: Option<crate::NodeId>,
        network: &Network,
        config: Config,
        is_default: bool,
    ) -> PyResult<Arc<Self>> {
        install_hooks(py)?;
        let start = |address| Node::start(address, id, network, config.clone());
        let node = detached(py, || match former_port {
            0 => start(address),
            // Whatever keeps it from that port need not keep it from another.
            port => start((address.ip(), port).into()).or_else(|_| start(address)),
        })
        .map_err(|error| classes::bind_error(address, &error))?;
        let handle = Arc::new(Self {
            node: Arc::new(node),
            is_private: !matches!(network, Network::Public),
            is_default,
            config,
            callback: Mutex::new(None),
            listeners: Mutex::default(),
            callback_errors: AtomicU64::new(0),
            dispatcher: PyOnceLock::new(),
        });
        let mut nodes = NODES.lock();
        if detach::is_exiting() {
            drop(nodes);
            return Err(PyRuntimeError::new_err(
                "the interpreter is shutting down: too late for a node",
            ));
        }
        nodes.retain(|node| node.strong_count() > 0);
        nodes.push(Arc::downgrade(&handle));
        drop(nodes);
        Ok(handle)
    }

    /// Sets or removes the callback; `None` as the value removes it.
    pub fn set_callback(self: &Arc<Self>, callback: &Bound<'_, PyAny>) -> PyResult<()> {
        self.node.check_open()?;
        let py = callback.py();
        let callback = checked_callback("callback", callback)?;
        if callback.is_some() {
            self.ensure_dispatcher(py)?;
        }
        Ok(self.replace_callback(callback).map(drop)?)
    }

    /// Puts a checked callback in the place of the former one, and gives that back: dropping it may
    /// run any code, while this runs no Python. A callback needs the dispatcher.
    pub fn replace_callback(
        &self,
        callback: Option<Py<PyAny>>,
    ) -> Result<Option<Py<PyAny>>, CommandError> {
        let mut slot = self.callback.lock();
        // All of it under the same lock, so that no other thread's call comes between.
        self.node.observe(callback.is_some())?;
        if callback.is_none() {
            // They are not for the one that may be set next.
            self.node.forget_packets();
        }
        Ok(std::mem::replace(&mut *slot, callback))
    }

    /// Starts the thread that runs what must run in Python, unless it runs.
    pub fn ensure_dispatcher(self: &Arc<Self>, py: Python<'_>) -> PyResult<()> {
        let start = || {
            self.node.open_notices(self.config.callback_queue);
            let name = format!("kadepy-callbacks-{}", self.node.address().port());
            let runtime = py.import("kadepy._runtime")?;
            let notices = PyNotices::new(self, runtime.getattr("log")?.unbind());
            runtime.getattr("start_dispatcher")?.call1((Py::new(py, notices)?, name)).map(drop)
        };
        // Whoever comes meanwhile waits, for what it has told before the queue is open is lost.
        in_python(|| self.dispatcher.get_or_try_init(py, start).map(drop))
    }

    /// The callback, unless there is none or the node is closed.
    pub fn callback(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        if self.node.is_closed() {
            return None;
        }
        self.callback.lock().as_ref().map(|callback| callback.clone_ref(py))
    }

    /// Has `listener` called when there is something of an operation.
    pub fn set_listener(&self, op: OpId, listener: Py<PyAny>) {
        let former = self.listeners.lock().insert(op, listener);
        drop(former);
    }

    /// Who is to be called for an operation.
    pub fn listener(&self, py: Python<'_>, op: OpId) -> Option<Py<PyAny>> {
        self.listeners.lock().get(&op).map(|listener| listener.clone_ref(py))
    }

    /// Has nobody called for it any more.
    pub fn remove_listener(&self, op: OpId) {
        // In a forked child the lock may be held for ever, and nobody is called.
        if self.node.check_open() != Err(CommandError::Forked) {
            let former = self.listeners.lock().remove(&op);
            drop(former);
        }
    }

    /// Packets that may wait for whoever takes them.
    pub fn callback_queue(&self) -> usize {
        self.config.callback_queue
    }

    /// Counts a call of the callback that raised.
    pub fn count_error(&self) {
        self.callback_errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Calls of the callback that raised, so far.
    pub fn callback_errors(&self) -> u64 {
        self.callback_errors.load(Ordering::Relaxed)
    }

    /// Shows the garbage collector what is held here.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some(callback) = self.callback.try_lock() {
            visit.call(&*callback)?;
        }
        if let Some(listeners) = self.listeners.try_lock() {
            listeners.values().try_for_each(|listener| visit.call(listener))?;
        }
        Ok(())
    }

    /// Lets go of it.
    pub fn clear(&self) {
        let callback = self.callback.lock().take();
        let listeners = std::mem::take(&mut *self.listeners.lock());
        drop((callback, listeners));
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

impl Drop for Handle {
    fn drop(&mut self) {
        // The dispatcher holds the node too; it ends with this.
        self.node.close();
    }
}

/// What can be called with news; `None` where it is None.
pub fn checked_callback(name: &str, callback: &Bound<'_, PyAny>) -> PyResult<Option<Py<PyAny>>> {
    if callback.is_none() {
        return Ok(None);
    }
    if !callback.is_callable() {
        return Err(PyTypeError::new_err(format!(
            "{name} must be callable or None, got {}",
            convert::shown(callback)
        )));
    }
    let py = callback.py();
    let is_async = in_python(|| {
        py.import("kadepy._runtime")?.getattr("is_async")?.call1((callback,))?.is_truthy()
    })?;
    if is_async {
        return Err(PyTypeError::new_err(format!(
            "{name} must be a plain function, which {} is not: nothing would await it",
            convert::shown(callback)
        )));
    }
    Ok(Some(callback.clone().unbind()))
}

/// Closes every node, and waits for the threads that are in here without the GIL; daemon threads,
/// which have these idents, are left where they wait.
#[pyfunction]
pub fn _close_all(py: Python<'_>, daemons: Vec<u64>) {
    detach::begin_exit(daemons);
    let nodes = all();
    py.detach(|| {
        Node::close_all(nodes.iter().map(|handle| &*handle.node));
        detach::wait_for_all();
    });
    drop(nodes);
}

/// Marks every node as the parent's, in a forked child; gives the descriptors of their sockets and of
/// the locks on their state files.
#[pyfunction]
pub fn _abandon_all() -> Vec<i32> {
    let mut descriptors = Vec::new();
    detach::forget_all();
    resolve::forget_all();
    // Whoever held it is not in this process.
    let Some(nodes) = NODES.try_lock() else {
        return descriptors;
    };
    for handle in nodes.iter().filter_map(Weak::upgrade) {
        let held = descriptors.len();
        descriptors.extend(handle.node.descriptors());
        // A closed one has none, and stays what it is.
        if descriptors.len() > held {
            handle.node.abandon();
        }
        std::mem::forget(handle);
    }
    descriptors
}
