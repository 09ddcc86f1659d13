//! What comes back from an operation of a node, to who waits or to who is told by a notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, unbounded};

use super::{CommandError, Node, Shared};
use crate::dht::protocol::{Busy, Engine, Membership, Outbox, Outcome};
use crate::dht::requests::OpId;
use crate::time::Time;
use crate::wire::message::Endpoint;

/// An operation under way. Dropping it ends the operation.
pub struct Pending {
    replies: Receiver<Reply>,
    signal: Arc<Signal>,
    shared: Arc<Shared>,
}

/// Where the replies of an operation go.
#[derive(Clone)]
pub(super) struct Waiter {
    pub(super) replies: Sender<Reply>,
    pub(super) signal: Arc<Signal>,
}

/// Whether the notices tell of an operation's replies.
pub(super) struct Signal {
    pub(super) op: OpId,
    is_wanted: AtomicBool,
    /// So that it stands in the queue once at most.
    is_queued: AtomicBool,
}

/// What comes back from an operation: any number of `Peers` or `Members`, then one `Done`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Peers that were not found before.
    Peers(Vec<Endpoint>),
    /// A membership has new peers: [`Pending::members`] gives them. None is told while one waits.
    Members,
    /// The end.
    Done(Outcome),
}

impl Node {
    /// Starts an operation and waits for its replies.
    pub(super) fn operation(
        &self,
        start: impl FnOnce(&mut Engine, Time, &mut Outbox) -> Result<OpId, Busy>,
    ) -> Result<Pending, CommandError> {
        let (sender, replies) = unbounded();
        let signal = self.shared.command(|state, now, out| {
            let op = start(&mut state.engine, now, out)?;
            let (is_wanted, is_queued) = (AtomicBool::new(false), AtomicBool::new(false));
            let signal = Arc::new(Signal { op, is_wanted, is_queued });
            let waiter = Waiter { replies: sender, signal: Arc::clone(&signal) };
            state.waiters.insert(op, waiter);
            Ok::<_, Busy>(signal)
        })??;
        Ok(Pending { replies, signal, shared: Arc::clone(&self.shared) })
    }
}

impl Signal {
    /// Whether it is to be put into the queue, in which it does not stand yet.
    pub(super) fn is_due(&self) -> bool {
        self.is_wanted.load(Ordering::SeqCst) && !self.is_queued.swap(true, Ordering::SeqCst)
    }

    /// Notes that it was taken out of the queue.
    pub(super) fn taken(&self) {
        self.is_queued.store(false, Ordering::SeqCst);
    }
}

impl Pending {
    /// The operation's number, which [`Notice::Ready`](super::Notice::Ready) carries.
    pub fn op(&self) -> OpId {
        self.signal.op
    }

    /// From now on [`Notice::Ready`](super::Notice::Ready) tells when there is something for [`Pending::try_next`]. Gives
    /// whether there is already, of which it does not tell.
    #[must_use]
    pub fn listen(&self) -> bool {
        self.signal.is_wanted.store(true, Ordering::SeqCst);
        !self.replies.is_empty() || self.shared.check_open().is_err()
    }

    /// Has the notices tell once more, where [`Pending::listen`] was called.
    pub fn remind(&self) {
        self.shared.announce_ready(Arc::clone(&self.signal));
    }

    /// The next reply, if it is there.
    ///
    /// # Errors
    ///
    /// See [`Pending::wait`].
    pub fn try_next(&self) -> Result<Option<Reply>, CommandError> {
        match self.replies.try_recv() {
            Ok(reply) => Ok(Some(reply)),
            Err(TryRecvError::Empty) => self.shared.check_open().map(|()| None),
            Err(TryRecvError::Disconnected) => {
                self.shared.check_open().and(Err(CommandError::Ended))
            }
        }
    }

    /// Waits for the next reply, at most for `patience`; `None` where none came in that time.
    ///
    /// # Errors
    ///
    /// [`CommandError::Closed`] or [`CommandError::Forked`], and [`CommandError::Ended`] after the
    /// last reply.
    pub fn wait(&self, patience: Duration) -> Result<Option<Reply>, CommandError> {
        match self.replies.recv_timeout(patience) {
            Ok(reply) => Ok(Some(reply)),
            Err(RecvTimeoutError::Timeout) => self.shared.check_open().map(|()| None),
            Err(RecvTimeoutError::Disconnected) => {
                self.shared.check_open().and(Err(CommandError::Ended))
            }
        }
    }
}

/// What is to be known of a membership; of none, nothing is. Also in a closed node.
impl Pending {
    /// See [`Engine::members`].
    ///
    /// # Errors
    ///
    /// [`CommandError::Forked`].
    pub fn members(&self, after: u64) -> Result<Vec<(u64, Endpoint)>, CommandError> {
        Ok(self.shared.to_read()?.engine.members(self.op(), after))
    }

    /// See [`Engine::membership`].
    ///
    /// # Errors
    ///
    /// [`CommandError::Forked`].
    pub fn membership(&self) -> Result<Option<Membership>, CommandError> {
        Ok(self.shared.to_read()?.engine.membership(self.op()))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let _ = self.shared.command(|state, _, _| {
            if state.waiters.remove(&self.signal.op).is_some() {
                state.engine.cancel(self.signal.op);
            }
        });
    }
}
