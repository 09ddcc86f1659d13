//! The lock by which one node at a time uses a state file.
//!
//! Each save replaces the state file, and a lock on it would go with the file that was replaced. So
//! the lock is on a file next to it that is always the same one: it is made where there is none,
//! stays empty, and is never removed, because a node that removed it could take it from under another
//! that has just opened it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::{beside, target};

/// The right to use a state file, until it is dropped or the process is gone.
///
/// The system keeps the lock with the open file, so it also keeps out a second node of the same
/// process, and a process that was killed leaves nothing behind.
///
/// ```
/// use kadepy::state::Lock;
///
/// # let directory = std::env::temp_dir().join(format!("kadepy-lock-{}", std::process::id()));
/// # std::fs::create_dir(&directory)?;
/// let path = directory.join("node.state");
/// let lock = Lock::take(&path)?;
/// assert!(Lock::take(&path).is_err());
/// drop(lock);
/// assert!(Lock::take(&path).is_ok());
/// # std::fs::remove_dir_all(&directory)?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Lock {
    /// The absolute path of the state file: the process may go to another directory.
    path: PathBuf,
    /// The locked file, unless the system locks none there.
    file: Option<File>,
    /// The process that took it.
    process: u32,
}

impl Lock {
    /// Takes the lock of the state file at `path`, which need not exist. Paths that lead to one file
    /// through links have one lock.
    ///
    /// Where no lock can be had at all, in a directory that is read-only or on a network file system
    /// without locks, this succeeds and keeps nobody out.
    ///
    /// # Errors
    ///
    /// `ResourceBusy` while another node uses the file; the system's, where `path` names no file.
    pub fn take(path: &Path) -> io::Result<Self> {
        let beside = beside(&target(path)?, ".lock")?;
        let file = match open(&beside).ok().map(|file| (file.try_lock(), file)) {
            Some((Ok(()), file)) => Some(file),
            Some((Err(TryLockError::WouldBlock), _)) => {
                return Err(io::Error::new(
                    ErrorKind::ResourceBusy,
                    "another node uses this state file: close that node, or give each a file of its own",
                ));
            }
            Some((Err(TryLockError::Error(_)), _)) | None => None,
        };
        Ok(Self { path: std::path::absolute(path)?, file, process: std::process::id() })
    }

    /// The absolute path of the state file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The descriptor of the locked file, on systems where a fork copies it; else -1.
    pub fn descriptor(&self) -> i32 {
        #[cfg(unix)]
        {
            use std::os::fd::AsRawFd;
            self.file.as_ref().map_or(-1, |file| file.as_raw_fd())
        }
        #[cfg(not(unix))]
        {
            -1
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A forked child shares the lock. To unlock ends it for both, so the parent does it, whatever
        // children live; to close the file, as the child may, ends it for neither alone.
        if let Some(file) = self.file.as_ref().filter(|_| std::process::id() == self.process) {
            // What fails here, closing the file does.
            let _ = file.unlock();
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // For reading too, because to open a pipe for writing alone may take for ever.
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
