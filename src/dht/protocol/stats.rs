//! What a node counts: packets, bytes, requests and everything that it refused.

use std::time::Duration;

use crate::wire::message::Kind;

/// Why something that came in was not served, or could not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Shorter than a header.
    Short,
    /// Longer than any node sends.
    Oversize,
    /// Not sealed under a key of the network.
    Unopened,
    /// A reserved type.
    UnknownType,
    /// A body or trailer that breaks its rules.
    Malformed,
    /// A sender id that no other node has.
    SenderId,
    /// A source address that no other node has.
    Source,
    /// An answer to no open request.
    Unsolicited,
    /// A request or an application message of a host, or of all, beyond the rate allowed.
    Rate,
    /// An announce without a right token.
    Token,
    /// An announce beyond a storage cap.
    Storage,
    /// A sender beyond the queue of candidates.
    Candidates,
    /// A request of ours beyond the cap of open ones.
    Busy,
    /// A datagram that the system did not send.
    Send,
    /// An error of the socket while receiving.
    Receive,
}

impl Refusal {
    /// Every reason.
    pub const ALL: [Refusal; 15] = [
        Refusal::Short,
        Refusal::Oversize,
        Refusal::Unopened,
        Refusal::UnknownType,
        Refusal::Malformed,
        Refusal::SenderId,
        Refusal::Source,
        Refusal::Unsolicited,
        Refusal::Rate,
        Refusal::Token,
        Refusal::Storage,
        Refusal::Candidates,
        Refusal::Busy,
        Refusal::Send,
        Refusal::Receive,
    ];

    /// The name in statistics.
    pub fn name(self) -> &'static str {
        match self {
            Refusal::Short => "short",
            Refusal::Oversize => "oversize",
            Refusal::Unopened => "unopened",
            Refusal::UnknownType => "unknown_type",
            Refusal::Malformed => "malformed",
            Refusal::SenderId => "sender_id",
            Refusal::Source => "source",
            Refusal::Unsolicited => "unsolicited",
            Refusal::Rate => "rate",
            Refusal::Token => "token",
            Refusal::Storage => "storage",
            Refusal::Candidates => "candidates",
            Refusal::Busy => "busy",
            Refusal::Send => "send",
            Refusal::Receive => "receive",
        }
    }
}

/// What only ever grows.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Packets that decoded, by [`Kind`].
    pub packets_in: [u64; Kind::ALL.len()],
    /// Packets handed to the socket, by [`Kind`].
    pub packets_out: [u64; Kind::ALL.len()],
    /// Bytes of every datagram that came in.
    pub bytes_in: u64,
    /// Bytes of every datagram handed to the socket.
    pub bytes_out: u64,
    /// What was refused, by [`Refusal`].
    pub refused: [u64; Refusal::ALL.len()],
    /// Requests sent.
    pub requests: u64,
    /// Requests that no answer came to in time; those given up at the cap are not counted.
    pub timeouts: u64,
    /// Lookups begun, refreshes included.
    pub lookups: u64,
}

/// A snapshot of one node.
#[derive(Clone, Debug)]
pub struct Stats {
    /// What it did so far.
    pub counters: Counters,
    /// The smoothed round trip, where one was measured.
    pub rtt: Option<Duration>,
    /// Lookups under way.
    pub lookups_active: usize,
    /// Contacts in the routing table.
    pub contacts: usize,
    /// Topics stored.
    pub topics: usize,
    /// Peers stored.
    pub records: usize,
    /// How long it runs.
    pub uptime: Duration,
}
