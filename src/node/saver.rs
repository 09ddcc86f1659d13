//! Keeps a node's state file up to date: on a thread of its own, every few minutes and once more at
//! the end, and on the thread of whoever asks for it. What is in the file is `state`'s affair.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use log::Level;
use thiserror::Error;

use super::{CommandError, Node, Shared};
use crate::state::{self, CONTACTS_MAX, Memory};

/// How often a node saves by itself: what a crash may cost is the contacts of so long.
pub const SAVE_INTERVAL: Duration = Duration::from_secs(300);

/// The pause before the first save, which doubles up to the interval: a node that has just joined has
/// most to lose.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// Why nothing was saved.
#[derive(Debug, Error)]
pub enum SaveError {
    /// The node takes no commands.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// There was no [`Node::keep_state`].
    #[error("the node keeps no state file")]
    NoFile,
    /// The file is as it was.
    #[error("cannot write the state file {}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        error: io::Error,
    },
}

/// Where a node saves to.
pub(super) struct StateFile {
    path: PathBuf,
    /// Nothing is ever sent: it is disconnected when the thread has ended.
    saver_ended: Receiver<()>,
}

impl Node {
    /// Saves the node's id and contacts to the file at `path` every `interval` and when the node is
    /// closed, from now on and on a thread of its own.
    ///
    /// One node at a time may use a file. What it holds already is the caller's to read
    /// ([`state::load`]) and to give to the node ([`Node::recall`]).
    ///
    /// # Errors
    ///
    /// The system's, where it gives no thread; `AlreadyExists` at the second call.
    pub fn keep_state(&self, path: PathBuf, interval: Duration) -> io::Result<()> {
        // The process may go to another directory.
        let path = std::path::absolute(path)?;
        let (saver_lives, saver_ended) = bounded::<()>(0);
        self.shared
            .file
            .set(StateFile { path, saver_ended })
            .map_err(|_| io::Error::new(io::ErrorKind::AlreadyExists, "it keeps one already"))?;
        let shared = Arc::clone(&self.shared);
        let name = format!("kadepy-saver-{}", self.address().port());
        let spawned = std::thread::Builder::new().name(name).spawn(move || {
            shared.keep_saving(interval);
            drop(saver_lives);
        });
        spawned.map(drop)
    }

    /// Saves now, on the calling thread.
    ///
    /// # Errors
    ///
    /// [`SaveError`].
    pub fn save(&self) -> Result<(), SaveError> {
        self.check_open()?;
        self.shared.save()
    }
}

impl Shared {
    /// Waits until a closed node has saved for the last time, where it does.
    pub(super) fn wait_saved(&self, deadline: Instant) {
        if let Some(file) = self.file.get() {
            // It fails at once when the thread has ended, and else at the deadline.
            let _ = file.saver_ended.recv_deadline(deadline);
        }
    }

    fn keep_saving(&self, interval: Duration) {
        let mut has_failed = false;
        let mut pause = FIRST_PAUSE;
        loop {
            let waited = self.thread_ended.recv_timeout(pause.min(interval));
            pause = (pause * 2).min(interval);
            let saved = self.save();
            if let (Err(error), false) = (&saved, has_failed) {
                self.log(Level::Warn, &error.to_string());
            }
            has_failed = saved.is_err();
            if waited != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    /// Two at once do no harm: each writes a file of its own, and one takes the place of the other.
    fn save(&self) -> Result<(), SaveError> {
        let StateFile { path, .. } = self.file.get().ok_or(SaveError::NoFile)?;
        let mut state = self.state.lock();
        let id = state.engine.id();
        let contacts = state.engine.remembered(self.link.now(), CONTACTS_MAX);
        drop(state);
        state::write(path, &Memory::new(id, contacts))
            .map_err(|error| SaveError::File { path: path.clone(), error })
    }
}
