//! KadePy's classes that Python defines, the exceptions first, and how the core's errors become such.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

use super::detach;
use crate::config::ConfigError;
use crate::node::{CommandError, SaveError};

/// KadePy's classes, fetched while imports still work.
pub struct Classes {
    pub kadepy_error: Py<PyType>,
    pub request_timeout: Py<PyType>,
    pub bootstrap_error: Py<PyType>,
    pub closed_error: Py<PyType>,
    pub node: Py<PyType>,
    pub peer: Py<PyType>,
    pub link_peer: Py<PyType>,
    pub stats: Py<PyType>,
    pub lookup: Py<PyType>,
}

/// The classes of `kadepy._types`.
pub fn classes(py: Python<'_>) -> PyResult<&'static Classes> {
    static CLASSES: PyOnceLock<Classes> = PyOnceLock::new();
    CLASSES.get_or_try_init(py, || {
        let module = py.import("kadepy._types")?;
        let class = |name| Ok::<_, PyErr>(module.getattr(name)?.cast_into::<PyType>()?.unbind());
        Ok(Classes {
            kadepy_error: class("KadepyError")?,
            request_timeout: class("RequestTimeout")?,
            bootstrap_error: class("BootstrapError")?,
            closed_error: class("ClosedError")?,
            node: class("Node")?,
            peer: class("Peer")?,
            link_peer: class("LinkPeer")?,
            stats: class("Stats")?,
            lookup: class("Lookup")?,
        })
    })
}

fn raise(py: Python<'_>, class: impl Fn(&Classes) -> &Py<PyType>, message: String) -> PyErr {
    match classes(py) {
        Ok(classes) => PyErr::from_type(class(classes).bind(py).clone(), message),
        Err(error) => error,
    }
}

/// `kadepy.RequestTimeout`.
pub fn request_timeout(py: Python<'_>, message: String) -> PyErr {
    raise(py, |classes| &classes.request_timeout, message)
}

/// `kadepy.BootstrapError`.
pub fn bootstrap_error(py: Python<'_>, message: String) -> PyErr {
    raise(py, |classes| &classes.bootstrap_error, message)
}

/// `kadepy.ClosedError`.
pub fn closed_error(py: Python<'_>, message: String) -> PyErr {
    raise(py, |classes| &classes.closed_error, message)
}

/// `kadepy.KadepyError`.
pub fn kadepy_error(py: Python<'_>, message: String) -> PyErr {
    raise(py, |classes| &classes.kadepy_error, message)
}

/// The `OSError` of an address that cannot be bound, with its errno, as the subclass for that.
pub fn bind_error(address: SocketAddr, error: &io::Error) -> PyErr {
    let message = format!("cannot bind {address}: {}", reason(error));
    match error.raw_os_error() {
        // The fourth argument is Windows' own code, from which Python makes the errno.
        Some(code) if cfg!(windows) => PyOSError::new_err((0, message, None::<String>, code)),
        Some(code) => PyOSError::new_err((code, message)),
        None => PyOSError::new_err(message),
    }
}

/// The `OSError` of a file, with its errno and the file's name, as the subclass for that.
pub fn file_error(path: &Path, error: &io::Error) -> PyErr {
    let (reason, name) = (reason(error), path.as_os_str().to_owned());
    match error.raw_os_error() {
        Some(code) if cfg!(windows) => PyOSError::new_err((0, reason, name, code)),
        Some(code) => PyOSError::new_err((code, reason, name)),
        None => PyOSError::new_err(format!("{}: {reason}", path.display())),
    }
}

/// The system's words for an error, without its number.
fn reason(error: &io::Error) -> String {
    error.to_string().split(" (os error").next().unwrap_or_default().to_owned()
}

impl From<SaveError> for PyErr {
    fn from(error: SaveError) -> Self {
        match error {
            SaveError::Command(error) => error.into(),
            SaveError::File { path, error } => file_error(&path, &error),
            SaveError::NoFile => Python::attach(|py| {
                let remedy = "give Swarm a state_path to have it keep one";
                kadepy_error(py, format!("{error}: {remedy}"))
            }),
        }
    }
}

impl From<CommandError> for PyErr {
    fn from(error: CommandError) -> Self {
        Python::attach(|py| match error {
            CommandError::Closed if detach::is_exiting() => {
                detach::stay_if_daemon(py);
                closed_error(py, "the node is closed, for the interpreter is shutting down".into())
            }
            CommandError::Closed | CommandError::Forked | CommandError::Ended => {
                closed_error(py, error.to_string())
            }
            CommandError::Busy(_) | CommandError::NoRandomness => {
                kadepy_error(py, error.to_string())
            }
            CommandError::TooLong(_) => PyValueError::new_err(error.to_string()),
        })
    }
}

impl From<ConfigError> for PyErr {
    fn from(error: ConfigError) -> Self {
        PyValueError::new_err(error.to_string())
    }
}
