//! The datagrams that an engine wants sent, in order.

use crate::wire::message::Endpoint;
use crate::wire::native;

/// Datagrams to send, in order.
#[derive(Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    /// Each with where it ends in `bytes`.
    datagrams: Vec<(Endpoint, usize)>,
}

impl Outbox {
    /// The bytes of memory that an emptied outbox keeps: a burst is not worth more.
    const KEPT_LEN: usize = 64 << 10;

    /// The datagrams, in the order in which they are to leave.
    pub fn iter(&self) -> impl Iterator<Item = (Endpoint, &[u8])> {
        let starts = std::iter::once(0).chain(self.datagrams.iter().map(|&(_, end)| end));
        self.datagrams.iter().zip(starts).map(|(&(to, end), start)| (to, &self.bytes[start..end]))
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }

    /// Empties it, keeping some memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(Self::KEPT_LEN);
        self.datagrams.clear();
        self.datagrams.shrink_to(Self::KEPT_LEN / native::MAX_SENT);
    }

    /// Takes in a datagram that `write` puts at the end of the bytes; returns its length, none where
    /// nothing was written.
    pub(super) fn push(
        &mut self,
        to: Endpoint,
        write: impl FnOnce(&mut Vec<u8>) -> Option<usize>,
    ) -> Option<usize> {
        let len = write(&mut self.bytes)?;
        self.datagrams.push((to, self.bytes.len()));
        Some(len)
    }
}
