//! A ping: one node asked whether it is there, until it answers or the time is up.

use std::time::Duration;

use super::step::{Obstacle, Outcome, Step, pause_after};
use crate::dht::requests::{Purpose, Question, Request};
use crate::time::Time;
use crate::wire::message::Endpoint;

/// So often a ping without a deadline asks.
const ATTEMPTS: u32 = 3;

/// A ping under way.
pub struct Ping {
    to: Endpoint,
    /// Whether a deadline ends it; else its number of questions does.
    has_deadline: bool,
    /// Questions sent.
    asked: u32,
    /// Those of them that have expired.
    expired: u32,
    /// Whether the last one is late, or none was sent yet.
    is_due: bool,
    has_failed: bool,
    outcome: Option<Outcome>,
}

impl Ping {
    pub fn new(to: Endpoint, has_deadline: bool) -> Self {
        Self {
            to,
            has_deadline,
            asked: 0,
            expired: 0,
            is_due: true,
            has_failed: false,
            outcome: None,
        }
    }

    pub(super) fn step(&mut self, now: Time) -> Step {
        let is_spent = self.has_failed || !self.has_deadline && self.asked >= ATTEMPTS;
        if self.outcome.is_some() || is_spent && self.expired >= self.asked {
            return Step::Over;
        }
        if !self.is_due || is_spent {
            return Step::Wait;
        }
        let pause = pause_after(self.asked);
        self.is_due = false;
        self.asked += 1;
        let first = Request::to_endpoint(now, self.to, Question::Ping, Purpose::Nothing);
        Step::Ask(Request { is_retry: self.asked > 1, pause, ..first })
    }

    pub(super) fn answered(&mut self, round_trip: Duration) {
        self.outcome = Some(Outcome::Pong(round_trip));
    }

    /// Notes that there is no answer to wait for.
    pub(super) fn met(&mut self, obstacle: Obstacle) {
        self.outcome = Some(Outcome::Failed(obstacle));
    }

    /// Notes that the last question was not answered within its short wait.
    pub(super) fn late(&mut self) {
        self.is_due = true;
    }

    /// Notes that one of its questions could not be sent; it is over when all others have expired, or at its
    /// deadline.
    pub(super) fn failed(&mut self) {
        self.has_failed = true;
        self.expired += 1;
    }

    /// Notes that one of its questions has expired.
    pub(super) fn expired(&mut self) {
        self.expired += 1;
    }

    pub(super) fn outcome(&self) -> Outcome {
        self.outcome.clone().unwrap_or(Outcome::Silence)
    }
}
