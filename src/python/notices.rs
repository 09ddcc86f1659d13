//! What the dispatcher thread takes from a node to run it in Python; the loop is `_runtime.py`'s.

use std::sync::{Arc, Weak};

use log::Level;
use pyo3::exceptions::PyBaseException;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::convert;
use super::detach::{Present, detached};
use super::handle::Handle;
use crate::node::{Node, Notice};

/// What the dispatcher thread takes its work from. It keeps no node alive.
#[pyclass(frozen, name = "Notices", module = "kadepy._core")]
pub struct PyNotices {
    node: Arc<Node>,
    owner: Weak<Handle>,
}

#[pymethods]
impl PyNotices {
    /// The next thing to do, waited for where there is none: a logging level and a line, or None and
    /// a callback's arguments. None says that the node is closed.
    fn take<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        // The GIL is kept as long as there is more to do.
        let notice = self.node.try_notice();
        match notice.unwrap_or_else(|| detached(py, || self.node.wait_notice())) {
            Notice::Packet { from, packet } => {
                (py.None(), convert::packet(py, &from, &packet)?).into_pyobject(py).map(Some)
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
        self.owner.upgrade()?.callback(py)
    }

    /// Counts a call of the callback that raised.
    fn count_error(&self) {
        if let Some(owner) = self.owner.upgrade() {
            owner.count_error();
        }
    }
}

impl PyNotices {
    /// The notices of a node, which do not keep it open.
    pub fn new(owner: &Arc<Handle>) -> Self {
        Self { node: Arc::clone(&owner.node), owner: Arc::downgrade(owner) }
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
