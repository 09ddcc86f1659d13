//! What an engine tells its owner.

use std::time::Duration;

use crate::dht::requests::OpId;
use crate::dht::tasks::step::Outcome;
use crate::wire::message::Endpoint;

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
    /// The node has joined through its home contacts and lists so many contacts.
    Joined(usize),
    /// The node has tried to join and knows nobody still.
    Alone {
        /// The contacts that it was made with.
        seeds: Vec<Endpoint>,
        /// It tries again after so long.
        wait: Duration,
    },
}
