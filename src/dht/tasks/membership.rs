//! One membership: a topic that a caller has joined, announced in rounds for as long as it wants, and
//! the peers that come to light. When a round starts is decided by whoever has all memberships.

use std::time::Duration;

use super::announce::Announce;
use super::step::{Answer, Step, Verdict};
use crate::config::Config;
use crate::dht::members::Members;
use crate::id::NodeId;
use crate::time::Time;
use crate::wire::message::Endpoint;

/// How a membership stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The topic.
    pub topic: NodeId,
    /// The port announced; without one, the port that this node's packets come from.
    pub port: Option<u16>,
    /// How many nodes confirmed the announce of the last round; `None` before the end of the first.
    pub confirmed: Option<usize>,
    /// How many peers are known now.
    pub peers: usize,
}

/// A topic that a caller has joined.
pub struct MembershipTask {
    pub topic: NodeId,
    pub port: Option<u16>,
    /// The round under way: an announce, whose answers name peers.
    pub round: Option<Box<Announce>>,
    /// When the next round is due, while there is none.
    pub due: Time,
    /// The peers; at most `Config.lookup_peers`.
    pub peers: Members,
    /// Whether the owner was told of new peers and has not taken that yet.
    pub is_told: bool,
    /// The last pause between two rounds, before it was jittered.
    wait: Duration,
    confirmed: Option<usize>,
    /// Whether the last round has left the announce anywhere; `None` before its end.
    was_stored: Option<bool>,
    /// Where the last node that said so sees this one.
    seen_at: Option<Endpoint>,
}

/// The pause after the first round that a node confirmed. It doubles up to a third of a record's
/// life, so that one round may fail and the next still comes before the record expires.
const INTERVAL_MIN: Duration = Duration::from_secs(60);
const ROUNDS_PER_LIFE: u32 = 3;

/// The pause after a round that no node confirmed, which doubles with each such round.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

impl MembershipTask {
    /// One whose first round is due at once.
    pub fn new(now: Time, topic: NodeId, port: Option<u16>) -> Self {
        Self {
            topic,
            port,
            round: None,
            due: now,
            peers: Members::default(),
            is_told: false,
            wait: Duration::ZERO,
            confirmed: None,
            was_stored: None,
            seen_at: None,
        }
    }

    pub fn begin_round(&mut self, now: Time, config: &Config) {
        self.peers.forget_old(now, config.record_life);
        self.round = Some(Box::new(Announce::new(self.topic, self.port, config)));
    }

    pub(super) fn step(&mut self, now: Time) -> Step {
        self.round.as_mut().map_or(Step::Wait, |round| round.step(now))
    }

    /// Returns the peers that the answer names.
    ///
    /// What stands at this node's address with the own port is its own record, and no peer. Only for
    /// an answer of v0.1, which does not say where it sees this node, another's word is taken. So a
    /// liar hides nothing but what it could have left out.
    pub(super) fn answered(&mut self, answer: &Answer<'_>) -> Vec<Endpoint> {
        let Some(round) = &mut self.round else {
            return Vec::new();
        };
        round.answered(answer);
        if answer.verdict != Verdict::Served {
            return Vec::new();
        }
        self.seen_at = answer.seen_at.or(self.seen_at);
        let own = self.seen_at.map(|seen| seen.with_port(self.port.unwrap_or(seen.port())));
        answer.peers.iter().copied().filter(|peer| Some(*peer) != own).collect()
    }

    /// Ends the round with what it has, and decides when the next is due: a pause is longer or shorter
    /// by `jitter`.
    pub fn end_round(&mut self, now: Time, jitter: f64, config: &Config) {
        let Some(round) = self.round.take() else {
            return;
        };
        let longest = config.record_life / ROUNDS_PER_LIFE;
        let is_stored = round.is_stored();
        let (first, last) =
            if is_stored { (INTERVAL_MIN, longest) } else { (BACKOFF_MIN, BACKOFF_MAX) };
        let last = last.min(longest);
        let is_alike = self.was_stored == Some(is_stored);
        let wait = if is_alike { self.wait * 2 } else { Duration::ZERO };
        self.wait = wait.clamp(first.min(last), last);
        self.confirmed = Some(round.confirmed());
        self.was_stored = Some(is_stored);
        self.due = now + self.wait.mul_f64(jitter);
    }

    /// Has it begin anew, between two rounds.
    pub fn restart(&mut self) {
        self.confirmed = None;
        self.was_stored = None;
        self.peers.clear();
    }

    /// How it stands.
    pub fn status(&self) -> Membership {
        let Self { topic, port, confirmed, .. } = *self;
        Membership { topic, port, confirmed, peers: self.peers.len() }
    }
}
