//! What is going to happen on virtual time, in order: datagrams that arrive, nodes that wake, and
//! whatever a scenario has planned.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::time::Time;
use crate::wire::message::Endpoint;

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Happening {
    /// The datagram in this place of the post arrives.
    Arrival(u32),
    /// A node's deadline.
    Wake(u32),
    /// A node is switched on for the first time.
    Start(u32),
    /// A node's session ends, and another node takes its place.
    Leave(u32),
    /// A hostile node does what it does unasked.
    Mischief(u32),
    /// The next lookup of this series begins.
    Lookup(u32),
}

/// The happenings to come, the earliest first; those of one moment in the order of their planning.
#[derive(Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Reverse<(Time, u64, Happening)>>,
    planned: u64,
    post: Vec<Letter>,
    free: Vec<u32>,
}

/// A datagram on its way.
#[derive(Default)]
pub(super) struct Letter {
    pub(super) from: Endpoint,
    pub(super) to: Endpoint,
    /// Who was to be found there when it left.
    pub(super) receiver: u32,
    pub(super) bytes: Vec<u8>,
}

impl Queue {
    pub(super) fn plan(&mut self, at: Time, happening: Happening) {
        self.planned += 1;
        self.heap.push(Reverse((at, self.planned, happening)));
    }

    /// Plans the arrival of a datagram.
    pub(super) fn post(
        &mut self,
        at: Time,
        from: Endpoint,
        (to, receiver): (Endpoint, u32),
        bytes: &[u8],
    ) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.post.push(Letter::default());
            (self.post.len() - 1) as u32
        });
        let letter = &mut self.post[place as usize];
        (letter.from, letter.to, letter.receiver) = (from, to, receiver);
        letter.bytes.clear();
        letter.bytes.extend_from_slice(bytes);
        self.plan(at, Happening::Arrival(place));
    }

    /// When the next thing happens.
    pub(super) fn next_at(&self) -> Option<Time> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
    }

    pub(super) fn next(&mut self) -> Option<(Time, Happening)> {
        self.heap.pop().map(|Reverse((at, _, happening))| (at, happening))
    }

    /// The datagram that arrives; to be given back by [`Queue::recycle`].
    pub(super) fn take(&mut self, place: u32) -> Letter {
        std::mem::take(&mut self.post[place as usize])
    }

    pub(super) fn recycle(&mut self, place: u32, letter: Letter) {
        self.post[place as usize] = letter;
        self.free.push(place);
    }
}
