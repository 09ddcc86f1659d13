//! KadePy's exceptions, which are defined in Python, and how the core's errors become them.

use std::io;
use std::net::SocketAddr;

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

use crate::config::ConfigError;
use crate::node::CommandError;

/// Makes `kadepy._types.name(message)` as an error.
fn raise(py: Python<'_>, class: &PyOnceLock<Py<PyType>>, name: &str, message: String) -> PyErr {
    match class.import(py, "kadepy._types", name) {
        Ok(class) => PyErr::from_type(class.clone(), message),
        Err(error) => error,
    }
}

/// `kadepy.RequestTimeout`.
pub fn request_timeout(py: Python<'_>, message: String) -> PyErr {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    raise(py, &CLASS, "RequestTimeout", message)
}

/// `kadepy.BootstrapError`.
pub fn bootstrap_error(py: Python<'_>, message: String) -> PyErr {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    raise(py, &CLASS, "BootstrapError", message)
}

/// `kadepy.ClosedError`.
pub fn closed_error(py: Python<'_>, message: String) -> PyErr {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    raise(py, &CLASS, "ClosedError", message)
}

/// `kadepy.KadepyError`.
pub fn kadepy_error(py: Python<'_>, message: String) -> PyErr {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    raise(py, &CLASS, "KadepyError", message)
}

/// The `OSError` of an address that cannot be bound, with its errno, as the subclass for that.
pub fn bind_error(address: SocketAddr, error: &io::Error) -> PyErr {
    let reason = error.to_string();
    let reason = reason.split(" (os error").next().unwrap_or_default();
    let message = format!("cannot bind {address}: {reason}");
    match error.raw_os_error() {
        // The fourth argument is Windows' own code, from which Python makes the errno.
        Some(code) if cfg!(windows) => PyOSError::new_err((0, message, None::<String>, code)),
        Some(code) => PyOSError::new_err((code, message)),
        None => PyOSError::new_err(message),
    }
}

impl From<CommandError> for PyErr {
    fn from(error: CommandError) -> Self {
        Python::attach(|py| match error {
            CommandError::Closed | CommandError::Forked => closed_error(py, error.to_string()),
            CommandError::Busy(_) => kadepy_error(py, error.to_string()),
            CommandError::TooLong(_) => PyValueError::new_err(error.to_string()),
        })
    }
}

impl From<ConfigError> for PyErr {
    fn from(error: ConfigError) -> Self {
        PyValueError::new_err(error.to_string())
    }
}
