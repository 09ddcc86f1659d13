//! Datagrams as they come from the sockets of a node, a batch at a time, and which of what is sent
//! answers which of them.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use super::socket::{Local, Remedy, Socket, remedy};
use crate::dht::protocol::Outbox;
use crate::wire::message::Endpoint;
use crate::wire::native::MAX_READ;

/// Datagrams taken from the sockets before the host gets them: enough to share one lock among many,
/// few enough that an answer does not wait for them.
pub const BATCH: usize = 32;
/// One byte more than is read, so that a longer datagram is known to be one.
const BUFFER_LEN: usize = MAX_READ + 1;

/// Datagrams as received, and what of an outbox answers them.
#[derive(Default)]
pub struct Batch {
    /// At most twice as many as were ever needed at once: few for an idle node.
    buffers: Vec<[u8; BUFFER_LEN]>,
    received: Vec<Received>,
    /// Datagrams too long for the buffer, where the system does not deliver them cut.
    pub oversize: usize,
}

struct Received {
    from: Endpoint,
    /// Whether it came to a group, not to the node's port.
    is_heard: bool,
    len: usize,
    /// Where it came to, on a socket on which the kernel might answer from elsewhere.
    local: Option<Local>,
    /// How many datagrams the outbox held once this one had been worked on.
    out_len: usize,
}

/// How far a batch was filled from a socket.
pub enum Filled {
    /// The socket is empty.
    Empty,
    /// As many came as may, and there may be more.
    Full,
    /// The socket is of no use any more.
    Lost(io::Error),
}

impl Batch {
    /// Empties it.
    pub fn clear(&mut self) {
        self.received.clear();
        self.oversize = 0;
    }

    /// How many datagrams are in it.
    pub fn count(&self) -> usize {
        self.received.len()
    }

    /// Receives from a socket, which may be one that hears a group, at most `max` datagrams, for which
    /// there is room; counts what fails.
    pub fn fill(
        &mut self,
        socket: &Socket,
        is_heard: bool,
        max: usize,
        failures: &AtomicU64,
    ) -> Filled {
        // Errors come out of the same budget, so that no storm of them keeps us here.
        let (mut left, mut errors) = (max, 0);
        while left > 0 {
            let Self { buffers, received, .. } = self;
            let start = received.len();
            if buffers.len() == start {
                buffers.resize((2 * start).clamp(1, BATCH), [0; BUFFER_LEN]);
            }
            let end = buffers.len().min(start + left);
            let result = socket.receive(&mut buffers[start..end], |len, from, local| {
                received.push(Received { from: from.into(), is_heard, len, local, out_len: 0 });
            });
            left -= (received.len() - start).max(1);
            let Err(error) = result else {
                continue;
            };
            match remedy(&error) {
                Remedy::Wait => return Filled::Empty,
                Remedy::Retry | Remedy::Ignore => {}
                Remedy::Oversize => self.oversize += 1,
                Remedy::Rebind => return Filled::Lost(error),
                Remedy::Count => {
                    failures.fetch_add(1, Ordering::Relaxed);
                    errors += 1;
                    if errors == max {
                        // It gives nothing but errors, and would do so at once for ever.
                        return Filled::Lost(error);
                    }
                }
            }
        }
        Filled::Full
    }

    /// Has `take` work on each datagram, which it is told whether it came to a group, and notes what
    /// it puts into `out`.
    pub fn work(
        &mut self,
        out: &mut Outbox,
        mut take: impl FnMut(Endpoint, bool, &mut [u8], &mut Outbox),
    ) {
        for (received, buffer) in self.received.iter_mut().zip(&mut self.buffers) {
            take(received.from, received.is_heard, &mut buffer[..received.len], out);
            received.out_len = out.len();
        }
    }

    /// For each datagram in `out`, in order: where it leaves from, if the kernel is not to choose.
    ///
    /// That is so for what a received datagram causes at once to be sent back to its source. A peer
    /// takes an answer only from the address that it asked, and a firewall on the way lets no other
    /// one in.
    pub fn locals(&self, out: &Outbox) -> impl Iterator<Item = Option<Local>> {
        let mut causes = self.received.iter().peekable();
        out.iter().enumerate().map(move |(i, (to, _))| {
            while causes.next_if(|cause| cause.out_len <= i).is_some() {}
            causes.peek().filter(|cause| cause.from == to).and_then(|cause| cause.local)
        })
    }
}
