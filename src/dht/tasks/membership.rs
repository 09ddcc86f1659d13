//! One membership: a topic that a caller has joined, announced in rounds for as long as it wants, and
//! the peers that come to light. When a round starts is decided by whoever has all memberships.

use std::time::Duration;

use super::announce::Announce;
use super::gathering::Gathering;
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
    /// The round under way.
    pub round: Option<Box<Round>>,
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
    /// When the last round began.
    began: Time,
    /// How far from the topic, in leading bits, a node belongs among those that store it.
    reach: u64,
    /// The distances of those that came during the round and have not confirmed it.
    comers: Vec<u64>,
    /// When the rounds that came out of turn are all paid for, at one each [`TURN_COST`].
    paid: Time,
}

/// One round: an announce, whose answers name peers, and then the rest of the peers.
pub struct Round {
    pub(super) announce: Announce,
    pub(super) peers: Gathering,
}

/// The pause after the first round that a node confirmed. It doubles up to a third of a record's
/// life, so that one round may fail and the next still comes before the record expires.
const INTERVAL_MIN: Duration = Duration::from_secs(60);
const ROUNDS_PER_LIFE: u32 = 3;

/// The most nodes noted that came during a round; more are told by the next in any case.
const COMERS_MAX: usize = 32;
/// How often rounds may come out of turn in the long run, and how many may at once.
const TURN_COST: Duration = Duration::from_secs(30);
const TURNS_MAX: u32 = 32;

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
            began: now,
            reach: u64::MAX,
            comers: Vec::new(),
            paid: now,
        }
    }

    /// Begins a round; `stored` are the peers that this node stores itself.
    pub fn begin_round(&mut self, now: Time, stored: &[Endpoint], config: &Config) {
        self.peers.forget_old(now, config.record_life);
        self.began = now;
        self.comers.clear();
        self.round = Some(Box::new(Round {
            announce: Announce::new(self.topic, self.port, config),
            peers: Gathering::new(self.topic, stored, config.records, config),
        }));
    }

    pub(super) fn step(&mut self, now: Time) -> Step {
        let Some(round) = &mut self.round else {
            return Step::Wait;
        };
        match round.announce.step(now) {
            Step::Over => round.peers.step(now, &round.announce.walk.lookup),
            step => step,
        }
    }

    /// Returns the peers that the answer names and that no other has named in this round.
    ///
    /// What stands at this node's address with the own port is its own record, and no peer. Only for
    /// an answer of v0.1, which does not say where it sees this node, another's word is taken. So a
    /// liar hides nothing but what it could have left out.
    pub(super) fn answered(&mut self, answer: &Answer<'_>) -> Vec<Endpoint> {
        let Some(round) = &mut self.round else {
            return Vec::new();
        };
        if answer.question.part().is_none() {
            round.announce.answered(answer);
        }
        if answer.verdict == Verdict::Stored {
            let distance = self.topic.distance(&answer.contact.id).leading_word();
            self.comers.retain(|comer| *comer != distance);
        }
        if answer.verdict == Verdict::Served {
            self.seen_at = answer.seen_at.or(self.seen_at);
        }
        let own = self.seen_at.map(|seen| seen.with_port(self.port.unwrap_or(seen.port())));
        let others: Vec<Endpoint> =
            answer.peers.iter().copied().filter(|peer| Some(*peer) != own).collect();
        round.peers.answered(&Answer { peers: &others, ..*answer })
    }

    /// Takes note of a node that may not store this; returns when the next round is due instead, which
    /// is at least `gap` after the last began. One under way may tell the node, or is followed by another.
    pub fn missed_by(
        &mut self,
        now: Time,
        id: &NodeId,
        is_small: bool,
        gap: Duration,
    ) -> Option<Time> {
        let distance = self.topic.distance(id).leading_word();
        if distance > self.reach && !is_small {
            return None;
        }
        if self.round.is_none() {
            return self.out_of_turn(now, gap);
        }
        if self.comers.len() < COMERS_MAX {
            // One that is not to store it cannot confirm it, and another round is to meet it.
            self.comers.push(if distance > self.reach { 0 } else { distance });
        }
        None
    }

    /// When a round out of turn may come, unless the next is due by then. So many may follow each other
    /// as [`TURNS_MAX`]: whoever claims again and again to be new causes few more.
    fn out_of_turn(&mut self, now: Time, gap: Duration) -> Option<Time> {
        let paid = Time::ZERO + (self.paid - (Time::ZERO + TURN_COST * TURNS_MAX));
        let due = now.max(self.began + gap).max(paid);
        if due >= self.due {
            return None;
        }
        self.paid = self.paid.max(now) + TURN_COST;
        Some(due)
    }

    /// Ends the round with what it has, and decides when the next is due: a pause is longer or shorter
    /// by `jitter`, or as short as `gap` where nodes came during the round.
    pub fn end_round(&mut self, now: Time, jitter: f64, gap: Duration, config: &Config) {
        let Some(round) = self.round.take() else {
            return;
        };
        self.reach = round.announce.reach();
        let longest = config.record_life / ROUNDS_PER_LIFE;
        let is_stored = round.announce.is_stored();
        let (first, last) =
            if is_stored { (INTERVAL_MIN, longest) } else { (BACKOFF_MIN, BACKOFF_MAX) };
        let last = last.min(longest);
        let is_alike = self.was_stored == Some(is_stored);
        let wait = if is_alike { self.wait * 2 } else { Duration::ZERO };
        self.wait = wait.clamp(first.min(last), last);
        self.confirmed = Some(round.announce.confirmed());
        self.was_stored = Some(is_stored);
        self.due = now + self.wait.mul_f64(jitter);
        if std::mem::take(&mut self.comers).iter().any(|comer| *comer <= self.reach) {
            self.due = self.out_of_turn(now, gap).unwrap_or(self.due);
        }
    }

    /// Has it begin anew, between two rounds.
    pub fn restart(&mut self) {
        self.confirmed = None;
        self.was_stored = None;
        self.reach = u64::MAX;
        self.peers.clear();
    }

    /// How it stands.
    pub fn status(&self) -> Membership {
        let Self { topic, port, confirmed, .. } = *self;
        Membership { topic, port, confirmed, peers: self.peers.len() }
    }
}
