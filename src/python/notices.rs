//! What the dispatcher thread takes from a node to run it in Python; the loop is `_runtime.py`'s.

use std::sync::{Arc, Weak};

use pyo3::exceptions::PyBaseException;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::callbacks::Callbacks;
use super::convert;
use super::detach::{Present, detached};
use crate::node::{CommandError, Node, Notice};

/// What the dispatcher thread takes its work from. It keeps no node alive.
#[pyclass(frozen, name = "Notices", module = "kadepy._core")]
pub struct PyNotices {
    node: Arc<Node>,
    callbacks: Weak<Callbacks>,
}

#[pymethods]
impl PyNotices {
    /// A function to call and its arguments, waited for where there is none; None at the end.
    ///
    /// The callback is looked up here, for the one called before may have replaced it or closed the
    /// node.
    fn take<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        loop {
            // The GIL is kept as long as there is more to do.
            let notice = self.node.try_notice();
            let notice = notice.unwrap_or_else(|| detached(py, || self.node.wait_notice()));
            let callbacks = || self.callbacks.upgrade();
            let (function, args) = match notice {
                Notice::Packet { from, packet } => {
                    let callback = callbacks().and_then(|callbacks| callbacks.callback(py));
                    (callback, convert::packet(py, &from, &packet)?)
                }
                Notice::Ready(op) => {
                    let listener = callbacks().and_then(|callbacks| callbacks.listener(py, op));
                    (listener, PyTuple::empty(py))
                }
                Notice::Closed => {
                    // In a forked child the locks may be held for ever.
                    let is_forked = self.node.check_open() == Err(CommandError::Forked);
                    if let Some(callbacks) = callbacks().filter(|_| !is_forked) {
                        callbacks.clear();
                    }
                    return Ok(None);
                }
            };
            if let Some(function) = function {
                return (function, args).into_pyobject(py).map(Some);
            }
        }
    }

    /// The UDP port that the node is bound to.
    #[getter]
    fn port(&self) -> u16 {
        self.node.address().port()
    }

    /// Whether the node is closed.
    #[getter]
    fn closed(&self) -> bool {
        self.node.is_closed()
    }

    /// Counts a call that raised.
    fn count_error(&self) {
        if let Some(callbacks) = self.callbacks.upgrade() {
            callbacks.count_error();
        }
    }
}

impl PyNotices {
    /// The notices of a node, which do not keep it open.
    pub fn new(node: Arc<Node>, callbacks: &Arc<Callbacks>) -> Self {
        Self { node, callbacks: Arc::downgrade(callbacks) }
    }
}

/// Reports what `function` raised through `sys.unraisablehook`.
#[pyfunction]
pub fn _report(error: Bound<'_, PyBaseException>, function: &Bound<'_, PyAny>) {
    // The hook is code that the exiting interpreter must not stop halfway.
    let _present = Present::enter();
    PyErr::from_value(error.into_any()).write_unraisable(function.py(), Some(function));
}
