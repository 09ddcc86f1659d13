//! What an engine gives its owner: datagrams to send, and events.

use std::time::Duration;

use crate::dht::requests::OpId;
use crate::dht::tasks::step::{Outcome, Seeds};
use crate::id::NodeId;
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

    /// How many there are.
    pub fn len(&self) -> usize {
        self.datagrams.len()
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

/// What may be wrong with a node or its surroundings. Anyone can forge what these rest on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warning {
    /// A packet from there carries this node's own id.
    Namesake(Endpoint),
    /// A datagram from there does not open under this network's key.
    Unopened(Endpoint),
    /// The host has lost the address that the node is bound to.
    AddressLost,
}

/// What an engine has to tell its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A lookup found peers that it had not found before.
    Peers {
        /// The lookup.
        op: OpId,
        /// The peers.
        peers: Vec<Endpoint>,
    },
    /// A membership has peers that are new; [`Engine::members`](super::Engine::members) gives them. Until this is taken it is
    /// not told again.
    Members {
        /// The membership.
        op: OpId,
    },
    /// A lookup for peers, or a round of a membership, has ended with as many as it may collect;
    /// there may be more.
    Full {
        /// Their topic.
        topic: NodeId,
        /// How many that is: `Config.lookup_peers`.
        max: usize,
    },
    /// An operation has ended.
    Done {
        /// The operation.
        op: OpId,
        /// How.
        outcome: Outcome,
    },
    /// A packet that decodes, where [`Engine::observe`](super::Engine::observe) asked for them.
    Packet {
        /// Its source.
        from: Endpoint,
        /// Its bytes, opened.
        packet: Box<[u8]>,
    },
    /// The node has joined through its home contacts or a neighbor and lists so many contacts.
    Joined(usize),
    /// A node on the link was found by a beacon: the first one, or the first after a time alone.
    Neighbor(Endpoint),
    /// Something that its owner may want to put right; of each kind, once a minute at most.
    Warning(Warning),
    /// Some of the contacts that the node was made with are silent, while others are known.
    Missing,
    /// The node has tried to join and knows nobody still.
    Alone {
        /// The contacts that it was made with, and what became of each.
        seeds: Seeds,
        /// It tries again after so long.
        wait: Duration,
    },
}
