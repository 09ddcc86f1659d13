//! The state file as the constructor of a node meets it: what it holds, and the error or the warning
//! where it cannot be used.

use std::ffi::CString;
use std::path::PathBuf;

use pyo3::exceptions::PyRuntimeWarning;
use pyo3::prelude::*;

use super::classes;
use super::detach::{detached, in_python};
use crate::id::NodeId;
use crate::node::{Node, SAVE_INTERVAL};
use crate::state::{self, Lock, Memory};
use crate::wire::message::Contact;

/// A state file that a node is to keep.
pub struct StateFile {
    lock: Lock,
    /// What it held.
    memory: Option<Memory>,
}

impl StateFile {
    /// Locks the file and reads it, if there is one; one that does not verify is moved aside, with a
    /// warning.
    pub fn open(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let opened = detached(py, || {
            let lock = Lock::take(&path)?;
            let loaded = state::load(&path)?;
            Ok((lock, loaded))
        });
        let (lock, loaded) = opened.map_err(|error| classes::file_error(&path, &error))?;
        let memory = match loaded {
            None => None,
            Some(Ok(memory)) => Some(memory),
            Some(Err(invalid)) => {
                let aside = detached(py, || state::set_aside(&path))
                    .map_err(|error| classes::file_error(&path, &error))?;
                let message = format!(
                    "cannot use the state file {}: {invalid}. It is now {}, and the node starts afresh, without the id and the contacts of its last run",
                    path.display(),
                    aside.display(),
                );
                warn(py, message)?;
                None
            }
        };
        Ok(Self { lock, memory })
    }

    /// The id in it.
    pub fn id(&self) -> Option<NodeId> {
        self.memory.as_ref().map(|memory| memory.id)
    }

    /// The port in it; 0 if there is none.
    pub fn port(&self) -> u16 {
        self.memory.as_ref().map_or(0, |memory| memory.port)
    }

    /// Has `node` keep the file from now on; gives the contacts in it.
    pub fn hand_to(self, py: Python<'_>, node: &Node) -> PyResult<Vec<Contact>> {
        let Self { lock, memory } = self;
        let path = lock.path().to_owned();
        let is_new = memory.as_ref().is_none_or(|memory| memory.id != node.id());
        let contacts = memory.map_or_else(Vec::new, |memory| memory.contacts);
        detached(py, || {
            if is_new {
                // An id that others get to know must not be lost. A file that holds it may also lie
                // where nothing can be written.
                let port = node.address().port();
                state::write(&path, &Memory::new(node.id(), port, contacts.clone()))?;
            }
            node.keep_state(lock, SAVE_INTERVAL)
        })
        .map_err(|error| classes::file_error(&path, &error))?;
        Ok(contacts)
    }
}

fn warn(py: Python<'_>, message: String) -> PyResult<()> {
    let message = CString::new(message)?;
    // Filters and hooks are Python code. Above the core is `Swarm`, and above that its caller.
    in_python(|| PyErr::warn(py, &py.get_type::<PyRuntimeWarning>(), &message, 2))
}
