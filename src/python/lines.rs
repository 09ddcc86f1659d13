//! The log lines of every node, on their way to the one thread of the process that writes them.

use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, select};
use log::Level;
use parking_lot::Mutex;
use pyo3::prelude::*;

use super::detach::{detached, is_exiting};
use crate::node::Line;

/// Lines that may wait to be written.
const LINES_MAX: usize = 1_000;
/// The longest that the interpreter's exit waits for the last line to be written.
const WRITE_MAX: Duration = Duration::from_millis(500);

/// The nodes' end of the log. What is held here is touched by threads with the GIL only, and for a
/// moment, so a fork finds it free.
static LOG: Mutex<Option<Log>> = Mutex::new(None);

pub struct Log {
    lines: Sender<Line>,
    /// Nothing is ever sent: the writing thread ends when it is disconnected.
    wanted: Sender<()>,
    /// Nothing is ever sent: it is disconnected when the writing thread has ended.
    written: Receiver<()>,
}

/// Where nodes put their lines.
pub fn sender() -> Option<Sender<Line>> {
    LOG.lock().as_ref().map(|log| log.lines.clone())
}

/// The log, which from now on no new node writes to.
pub fn close() -> Option<Log> {
    LOG.lock().take()
}

/// Leaves the log to the parent, in a forked child. There a thread may have been inside the channel,
/// which is therefore not even dropped.
pub fn forget_all() {
    // Whoever held the lock is not in this process.
    let log = LOG.try_lock().and_then(|mut log| log.take());
    std::mem::forget(log);
}

impl Log {
    /// Waits until what was put in is written, with a bound; to be called without the GIL.
    pub fn finish(self) {
        drop(self.wanted);
        // Disconnected is what it waits for, and after the bound there is nothing to be done.
        let _ = self.written.recv_timeout(WRITE_MAX);
    }
}

/// What the thread that writes log lines takes them from.
#[pyclass(frozen, name = "Lines", module = "kadepy._core")]
pub struct PyLines {
    lines: Receiver<Line>,
    wanted: Receiver<()>,
    _lives: Sender<()>,
}

#[pymethods]
impl PyLines {
    /// The logging level and the text of the next line, waited for; None at the end.
    fn take(&self, py: Python<'_>) -> Option<(u8, String)> {
        let waiting = self.lines.try_recv().ok();
        let line = waiting.or_else(|| detached(py, || self.wait()))?;
        Some((logging_level(line.level), line.text))
    }
}

impl PyLines {
    fn wait(&self) -> Option<Line> {
        select! {
            recv(self.lines) -> line => line.ok(),
            // One may have come right before.
            recv(self.wanted) -> _ => self.lines.try_recv().ok(),
        }
    }
}

/// What the nodes' lines are to be taken from; None where a thread does so already.
#[pyfunction]
pub fn _open_log() -> Option<PyLines> {
    let (line_sender, lines) = bounded(LINES_MAX);
    let (wanted_sender, wanted) = bounded(0);
    let (lives, written) = bounded(0);
    let mut log = LOG.lock();
    // A thread that could not be started has let go of its end.
    let is_written = |log: &Log| log.written.try_recv() == Err(TryRecvError::Empty);
    if log.as_ref().is_some_and(is_written) || is_exiting() {
        return None;
    }
    *log = Some(Log { lines: line_sender, wanted: wanted_sender, written });
    Some(PyLines { lines, wanted, _lives: lives })
}

fn logging_level(level: Level) -> u8 {
    match level {
        Level::Error => 40,
        Level::Warn => 30,
        Level::Info => 20,
        Level::Debug | Level::Trace => 10,
    }
}
