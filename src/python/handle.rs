//! One node as the process holds it, the list of all, and what the interpreter's exit and a fork do with
//! them.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::callbacks::{self, Callbacks};
use super::detach::{self, detached, in_python};
use super::lines::Log;
use super::notices::PyNotices;
use super::{classes, convert, lines, resolve};
use crate::config::Config;
use crate::node::Node;
use crate::wire::message::Endpoint;
use crate::wire::seal::Network;

/// A node and what is to be called for it.
pub struct Handle {
    pub node: Arc<Node>,
    /// Whether it was made with a network key; that of a `Swarm` never changes.
    pub is_private: bool,
    /// Whether v0.1's functions may act on it.
    pub is_default: bool,
    pub callbacks: Arc<Callbacks>,
    config: Config,
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
        let too_late = || {
            let why = "the interpreter is shutting down: too late for a node";
            Err(PyRuntimeError::new_err(why))
        };
        if detach::is_exiting() {
            return too_late();
        }
        install_hooks(py)?;
        in_python(|| py.import("kadepy._log")?.getattr("start")?.call0().map(drop))?;
        let start = |address| Node::start(address, id, network, config.clone());
        let node = detached(py, || match former_port {
            0 => start(address),
            // Whatever keeps it from that port need not keep it from another.
            port => start((address.ip(), port).into()).or_else(|_| start(address)),
        })
        .map_err(|error| classes::bind_error(address, &error))?;
        let node = Arc::new(node);
        if let Some(lines) = lines::sender() {
            // Before there is anything to tell.
            node.log_to(lines);
        }
        let handle = Arc::new(Self {
            callbacks: Arc::new(Callbacks::new(Arc::clone(&node))),
            node,
            is_private: !matches!(network, Network::Public),
            is_default,
            config,
            dispatcher: PyOnceLock::new(),
        });
        let mut nodes = NODES.lock();
        if detach::is_exiting() {
            drop(nodes);
            return too_late();
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
        let callback = callbacks::checked("callback", callback)?;
        if callback.is_some() {
            self.ensure_dispatcher(py)?;
        }
        Ok(self.callbacks.replace(callback).map(drop)?)
    }

    /// Starts the thread that runs what must run in Python, unless it runs.
    pub fn ensure_dispatcher(self: &Arc<Self>, py: Python<'_>) -> PyResult<()> {
        let start = || {
            self.node.open_notices(self.config.callback_queue);
            let name = format!("kadepy-callbacks-{}", self.node.address().port());
            let runtime = py.import("kadepy._runtime")?;
            let notices = PyNotices::new(Arc::clone(&self.node), &self.callbacks);
            runtime.getattr("start_dispatcher")?.call1((Py::new(py, notices)?, name)).map(drop)
        };
        // Whoever comes meanwhile waits, for what it has told before the queue is open is lost.
        in_python(|| self.dispatcher.get_or_try_init(py, start).map(drop))
    }

    /// Packets that may wait for whoever takes them.
    pub fn callback_queue(&self) -> usize {
        self.config.callback_queue
    }

    /// An endpoint that this node can send to.
    pub fn endpoint(
        &self,
        names: [&str; 2],
        ip: &Bound<'_, PyAny>,
        port: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Endpoint> {
        let endpoint = convert::endpoint(names, ip, port)?;
        if self.node.families().includes(&endpoint) {
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

/// Closes every node, and waits for the threads that are in here without the GIL; daemon threads,
/// which have these idents, are left where they wait.
#[pyfunction]
pub fn _close_all(py: Python<'_>, daemons: Vec<u64>) {
    detach::begin_exit(daemons);
    let nodes = all();
    let log = lines::close();
    py.detach(|| {
        Node::close_all(nodes.iter().map(|handle| &*handle.node));
        // Closing may have had something to tell.
        log.into_iter().for_each(Log::finish);
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
    lines::forget_all();
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
