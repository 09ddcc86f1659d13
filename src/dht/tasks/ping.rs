//! A ping: one node asked whether it is there, until it answers or no answer is accepted any more.

use std::time::Duration;

use super::step::{Outcome, Step};
use crate::dht::requests::{Purpose, Question, Request};
use crate::time::Time;
use crate::wire::message::Endpoint;

/// So often a ping asks.
const ATTEMPTS: u8 = 3;

/// A ping under way.
pub struct Ping {
    to: Endpoint,
    /// Questions sent, at most [`ATTEMPTS`].
    asked: u8,
    /// Those of them whose answer is no longer accepted.
    expired: u8,
    /// Whether the last one is late, or none was sent yet.
    is_due: bool,
    round_trip: Option<Duration>,
}

impl Ping {
    pub fn new(to: Endpoint) -> Self {
        Self { to, asked: 0, expired: 0, is_due: true, round_trip: None }
    }

    pub(super) fn step(&mut self, now: Time) -> Step {
        if self.round_trip.is_some() || self.asked > 0 && self.expired >= self.asked {
            return Step::Over;
        }
        if !self.is_due || self.asked >= ATTEMPTS {
            return Step::Wait;
        }
        self.is_due = false;
        self.asked += 1;
        let first = Request::to_endpoint(now, self.to, Question::Ping, Purpose::Nothing);
        Step::Ask(Request { is_retry: self.asked > 1, ..first })
    }

    pub(super) fn answered(&mut self, round_trip: Duration) {
        self.round_trip = Some(round_trip);
    }

    /// Notes that the last question was not answered within its short wait.
    pub(super) fn late(&mut self) {
        self.is_due = true;
    }

    /// Notes that the answer to one of its questions is no longer accepted.
    pub(super) fn expired(&mut self) {
        self.expired += 1;
    }

    pub(super) fn outcome(&self) -> Outcome {
        self.round_trip.map_or(Outcome::Silence, Outcome::Pong)
    }
}
