//! What a node has for the thread that dispatches to the application: packets, and the news that there
//! is something of an operation.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Select, Sender, TrySendError, bounded, unbounded};

use super::pending::Signal;
use super::{CommandError, Node, Shared};
use crate::dht::requests::OpId;
use crate::wire::message::Endpoint;

/// Something to be told by whoever dispatches to the application.
#[derive(Debug)]
pub enum Notice {
    /// A packet came in.
    Packet {
        /// Its source.
        from: Endpoint,
        /// Its bytes, opened, of which it is known that they decode.
        packet: Box<[u8]>,
    },
    /// There is something for [`Pending::try_next`](super::Pending::try_next) of this operation, see
    /// [`Pending::listen`](super::Pending::listen).
    Ready(OpId),
    /// The node is closed: the last one.
    Closed,
}

/// What waits for the dispatcher.
pub(super) struct Notices {
    /// Packets and where they came from: bounded, the oldest goes first.
    sender: Sender<(Endpoint, Box<[u8]>)>,
    receiver: Receiver<(Endpoint, Box<[u8]>)>,
    dropped: AtomicU64,
    /// What must not be lost; each operation stands in it once at most.
    urgent_sender: Sender<Urgent>,
    urgent: Receiver<Urgent>,
}

pub(super) enum Urgent {
    Ready(Arc<Signal>),
    Closed,
}

impl Node {
    /// Whether every packet that decodes becomes a notice.
    ///
    /// # Errors
    ///
    /// See [`Node::ping`].
    pub fn observe(&self, every_packet: bool) -> Result<(), CommandError> {
        self.check_open()?;
        self.shared.state.lock().engine.observe(every_packet);
        Ok(())
    }

    /// Opens the queue of notices, for at most `cap` packets.
    pub fn open_notices(&self, cap: usize) {
        self.shared.notices.get_or_init(|| {
            let (sender, receiver) = bounded(cap);
            let (urgent_sender, urgent) = unbounded();
            Notices { sender, receiver, dropped: AtomicU64::new(0), urgent_sender, urgent }
        });
        // A node that ended before has told nobody.
        if self.wait_closed(Duration::ZERO) {
            self.shared.hurry(Urgent::Closed);
        }
    }

    /// The next notice, if one waits. In a closed node no packet does.
    pub fn try_notice(&self) -> Option<Notice> {
        let notices = self.shared.notices.get()?;
        let is_closed = match self.check_open() {
            // What the parent's thread would say, nobody says here.
            Err(CommandError::Forked) => return Some(Notice::Closed),
            open => open.is_err(),
        };
        match notices.urgent.try_recv() {
            Ok(Urgent::Ready(signal)) => {
                // Before the replies are taken, so that none that comes now is missed.
                signal.taken();
                Some(Notice::Ready(signal.op))
            }
            Ok(Urgent::Closed) => {
                self.forget_packets();
                Some(Notice::Closed)
            }
            Err(_) => {
                let waiting = notices.receiver.try_recv().ok().filter(|_| !is_closed);
                waiting.map(|(from, packet)| Notice::Packet { from, packet })
            }
        }
    }

    /// Waits for the next notice; [`Notice::Closed`] is the last.
    pub fn wait_notice(&self) -> Notice {
        let Some(notices) = self.shared.notices.get() else {
            return Notice::Closed;
        };
        loop {
            if let Some(notice) = self.try_notice() {
                return notice;
            }
            let mut select = Select::new();
            select.recv(&notices.receiver);
            select.recv(&notices.urgent);
            select.ready();
        }
    }

    /// Forgets the packets that wait.
    pub fn forget_packets(&self) {
        if let Some(notices) = self.shared.notices.get() {
            notices.receiver.try_iter().for_each(drop);
        }
    }

    /// Counts a packet that was taken as a notice and dropped later because too many waited.
    pub fn count_dropped(&self) {
        if let Some(notices) = self.shared.notices.get() {
            notices.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Packets that wait, and those that were dropped because too many did.
    pub fn notices_waiting(&self) -> (usize, u64) {
        let notices = self.shared.notices.get();
        notices.map_or((0, 0), |n| (n.receiver.len(), n.dropped.load(Ordering::Relaxed)))
    }
}

impl Shared {
    /// Puts it up that there is something of an operation, where anybody wants to be told.
    pub(super) fn announce_ready(&self, signal: Arc<Signal>) {
        if signal.is_due() {
            self.hurry(Urgent::Ready(signal));
        }
    }

    pub(super) fn hurry(&self, urgent: Urgent) {
        if let Some(notices) = self.notices.get() {
            // It cannot fail: both ends are in there.
            let _ = notices.urgent_sender.send(urgent);
        }
    }

    pub(super) fn notify(&self, from: Endpoint, packet: Box<[u8]>) {
        let Some(notices) = self.notices.get() else {
            return;
        };
        let mut packet = (from, packet);
        while let Err(TrySendError::Full(refused)) = notices.sender.try_send(packet) {
            if notices.receiver.try_recv().is_ok() {
                notices.dropped.fetch_add(1, Ordering::Relaxed);
            }
            packet = refused;
        }
    }
}
