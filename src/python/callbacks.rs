//! What of Python is to be called for a node: its callback, and who listens for the end of an
//! operation.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use pyo3::exceptions::PyTypeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::convert;
use super::detach::in_python;
use crate::dht::requests::OpId;
use crate::node::{CommandError, Node};

/// What is to be called for a node. No Python runs under its locks, and none is dropped there.
pub struct Callbacks {
    node: Arc<Node>,
    callback: Mutex<Option<Py<PyAny>>>,
    /// Who is told when there is something of an operation.
    listeners: Mutex<BTreeMap<OpId, Py<PyAny>>>,
    errors: AtomicU64,
}

impl Callbacks {
    /// Nothing is to be called for `node` yet.
    pub fn new(node: Arc<Node>) -> Self {
        let (callback, listeners) = (Mutex::new(None), Mutex::default());
        Self { node, callback, listeners, errors: AtomicU64::new(0) }
    }

    /// Puts a checked callback in the place of the former one, and gives that back: dropping it may
    /// run any code, while this runs no Python. A callback needs the dispatcher.
    pub fn replace(&self, callback: Option<Py<PyAny>>) -> Result<Option<Py<PyAny>>, CommandError> {
        let mut slot = self.callback.lock();
        // All of it under the same lock, so that no other thread's call comes between.
        self.node.observe(callback.is_some())?;
        if callback.is_none() {
            // They are not for the one that may be set next.
            self.node.forget_packets();
        }
        Ok(std::mem::replace(&mut *slot, callback))
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

    /// Counts a call of the callback that raised.
    pub fn count_error(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Calls of the callback that raised, so far.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
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
}

/// What can be called with news; `None` where it is None.
pub fn checked(name: &str, callback: &Bound<'_, PyAny>) -> PyResult<Option<Py<PyAny>>> {
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
