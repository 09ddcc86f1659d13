//! Working without the GIL, in such a way that Ctrl-C, the interpreter's exit and a fork find their
//! way in.
//!
//! A thread that comes back for the GIL while the interpreter shuts down is killed inside CPython,
//! and with Rust frames on its stack that aborts the process. So threads in here are counted; the
//! exit waits for them, and lets none go without the GIL any more. A daemon thread that would learn
//! then that its node is closed stays where it is, as it would in any other wait: nobody is
//! interested in the end of its work, and to print a traceback at that point may abort the process.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::node::CommandError;

/// How often a blocked call looks for a signal: Ctrl-C is answered within this.
pub const SIGNAL_INTERVAL: Duration = Duration::from_millis(50);
/// The longest that the interpreter's exit waits for threads to come back.
const EXIT_MAX: Duration = Duration::from_secs(1);

/// Threads that the exit waits for.
static PRESENT: AtomicUsize = AtomicUsize::new(0);
static IS_EXITING: AtomicBool = AtomicBool::new(false);
static DAEMONS: Mutex<Vec<u64>> = Mutex::new(Vec::new());

/// Runs `work` without the GIL.
pub fn detached<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> T {
    // Counted before the question, so that the exit either is seen here or sees this.
    let _present = Present::enter();
    if is_exiting() { work() } else { py.detach(work) }
}

/// Runs `work`, which runs Python code; not any more once the interpreter is shutting down, which
/// would stop this thread in that code, with our frames on its stack.
pub fn in_python<T>(work: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    let present = Present::enter();
    if !is_exiting() {
        return work();
    }
    drop(present);
    Err(CommandError::Closed.into())
}

/// Calls `step` without the GIL until it gives something; signals are answered in between.
pub fn wait<T: Send>(
    py: Python<'_>,
    mut step: impl FnMut() -> Result<Option<T>, CommandError> + Send,
) -> PyResult<T> {
    loop {
        if let Some(value) = detached(py, &mut step)? {
            return Ok(value);
        }
        py.check_signals()?;
    }
}

/// `threading.get_ident`.
pub fn get_ident(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static GET_IDENT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    GET_IDENT.import(py, "_thread", "get_ident")
}

/// From now on nobody goes without the GIL; every node is to be closed. `daemons` are the idents of
/// the daemon threads.
pub fn begin_exit(daemons: Vec<u64>) {
    *DAEMONS.lock() = daemons;
    IS_EXITING.store(true, Ordering::SeqCst);
}

/// Keeps a daemon thread here until the process is gone, where the interpreter is shutting down.
pub fn stay_if_daemon(py: Python<'_>) {
    let me = get_ident(py).and_then(|get_ident| get_ident.call0()?.extract::<u64>());
    if is_exiting() && me.is_ok_and(|me| DAEMONS.lock().contains(&me)) {
        py.detach(|| {
            loop {
                std::thread::park();
            }
        });
    }
}

/// Whether the interpreter is shutting down.
pub fn is_exiting() -> bool {
    IS_EXITING.load(Ordering::SeqCst)
}

/// Waits, with a bound, for the threads that are in here; to be called without the GIL.
pub fn wait_for_all() {
    let deadline = Deadline::after(Some(EXIT_MAX));
    while PRESENT.load(Ordering::SeqCst) > 0 && !deadline.is_over() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Forgets the threads that a fork has left in the parent.
pub fn forget_all() {
    PRESENT.store(0, Ordering::SeqCst);
}

/// A thread that the exit waits for, while it lives.
pub struct Present;

impl Present {
    pub fn enter() -> Self {
        PRESENT.fetch_add(1, Ordering::SeqCst);
        Self
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        // A fork may have set it to zero meanwhile.
        let one_less = |present: usize| Some(present.saturating_sub(1));
        let _ = PRESENT.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less);
    }
}

/// When to give up.
#[derive(Clone, Copy)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    pub fn after(timeout: Option<Duration>) -> Self {
        Self(timeout.map(|timeout| now() + timeout))
    }

    pub fn left(self) -> Option<Duration> {
        self.0.map(|at| at.saturating_duration_since(now()))
    }

    pub fn is_over(self) -> bool {
        self.left().is_some_and(|left| left.is_zero())
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long a Python caller waits is the clock's business"
)]
fn now() -> Instant {
    Instant::now()
}
