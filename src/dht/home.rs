//! The contacts through which a node joins by itself, and when it does so. How a join goes is the
//! affair of `tasks`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::requests::OpId;
use super::tasks::step::{Obstacle, SeedState, Seeds};
use crate::time::Time;
use crate::wire::message::{Contact, Endpoint};

/// The wait before a failed join is tried again, which doubles with each failure.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// The wait before contacts that are not listed are asked again, which doubles each time.
const CHECK_MIN: Duration = Duration::from_secs(10);
const CHECK_MAX: Duration = Duration::from_secs(600);

/// Where a node is at home.
#[derive(Default)]
pub struct Home {
    /// The contacts that the node was made with.
    pub seeds: Vec<Endpoint>,
    /// Whether more of them are still being resolved.
    pub expects_more: bool,
    /// Contacts of an earlier run that nothing is known of since, the one to ask first first.
    pub recalled: Vec<Contact>,
    /// The join under way.
    pub join: Option<OpId>,
    /// Lookups that wait for a join, because nobody is known yet.
    pub held: Vec<OpId>,
    /// Those of the contacts that are this node itself, as far as is known.
    own: Vec<Endpoint>,
    /// The join through contacts that were silent, while others are known.
    pub check: Option<OpId>,
    next_check: Time,
    check_wait: Duration,
    /// When the check before the next was.
    last_check: Time,
    /// When each of the contacts answered last.
    heard: BTreeMap<Endpoint, Time>,
    /// Whether a join begins whoever is known: some contacts were never asked, or not since a sleep.
    is_due: bool,
    next_try: Time,
    /// The wait after the next failure; zero before the first.
    backoff: Duration,
}

impl Home {
    /// Replaces the contacts; where there are new ones, a join is due.
    pub fn stay(&mut self, now: Time, seeds: Vec<Endpoint>, expects_more: bool) {
        let has_new = seeds.iter().any(|seed| !self.seeds.contains(seed));
        self.heard.retain(|seed, _| seeds.contains(seed));
        self.own.retain(|seed| seeds.contains(seed));
        self.seeds = seeds;
        if has_new {
            self.check_wait = CHECK_MIN;
            self.next_check = now + CHECK_MIN;
        }
        self.expects_more = expects_more;
        if self.join.is_none() && has_new {
            self.is_due = true;
            // After a failure the pause holds for new ones too, which a name may give without end.
            if self.backoff.is_zero() {
                self.next_try = now;
            }
        }
    }

    /// The contacts that may be other nodes.
    pub fn others(&self) -> impl Iterator<Item = Endpoint> {
        self.seeds.iter().copied().filter(|seed| !self.own.contains(seed))
    }

    /// Notes that a node answered, which may be one of the contacts.
    pub fn heard(&mut self, now: Time, from: Endpoint) {
        if self.seeds.contains(&from) {
            self.heard.insert(from, now);
        }
    }

    /// Takes note of which contacts are this node itself.
    pub fn sort_own(&mut self, seeds: &[(Endpoint, SeedState)]) {
        for (seed, state) in seeds {
            self.own.retain(|own| own != seed);
            if *state == SeedState::Failed(Obstacle::Itself) {
                self.own.push(*seed);
            }
        }
    }

    /// What became of each of the contacts in a join with this outcome.
    pub fn states(&self, seeds: &Seeds) -> Seeds {
        let state = |seed: &Endpoint| {
            let asked = seeds.iter().find(|(asked, _)| asked == seed).map(|(_, state)| *state);
            let is_own = self.own.contains(seed);
            asked.unwrap_or(if is_own {
                SeedState::Failed(Obstacle::Itself)
            } else {
                SeedState::Silent
            })
        };
        self.seeds.iter().map(|seed| (*seed, state(seed))).collect()
    }

    /// When it is looked next whether contacts are missing.
    pub fn next_check(&self) -> Option<Time> {
        (self.check.is_none() && self.others().next().is_some()).then_some(self.next_check)
    }

    /// Begins a check: of the contacts that are not listed, those that have been silent, and those
    /// that answered since the last check but one.
    pub fn split_missing(&mut self, now: Time, missing: Vec<Endpoint>) -> [Vec<Endpoint>; 2] {
        let since = self.last_check;
        let is_silent = |seed: &Endpoint| self.heard.get(seed).is_none_or(|heard| *heard < since);
        let (silent, there) = missing.into_iter().partition(is_silent);
        self.last_check = now;
        self.next_check = now + self.check_wait;
        self.check_wait = (self.check_wait * 2).clamp(CHECK_MIN, CHECK_MAX);
        [silent, there]
    }

    pub fn hurry(&mut self, now: Time) {
        self.is_due = true;
        self.next_try = now;
    }

    /// Has the node join again: what failed before a sleep may go well after it.
    pub fn resumed(&mut self, now: Time) {
        self.backoff = Duration::ZERO;
        self.hurry(now);
    }

    /// When the next join begins; `is_alone` says whether the node knows nobody.
    pub fn next_join(&self, is_alone: bool) -> Option<Time> {
        (self.join.is_none() && (self.is_due || is_alone)).then_some(self.next_try)
    }

    pub fn began(&mut self, op: OpId) {
        self.is_due = false;
        self.join = Some(op);
    }

    /// Notes that the join is over; returns the wait before the next where nobody is known still.
    pub fn ended(&mut self, now: Time, is_alone: bool) -> Option<Duration> {
        self.join = None;
        let wait = self.backoff.max(BACKOFF_MIN);
        let (wait, backoff) = if is_alone {
            (wait, (wait * 2).min(BACKOFF_MAX))
        } else {
            (Duration::ZERO, BACKOFF_MIN)
        };
        self.next_try = now + wait;
        self.backoff = backoff;
        is_alone.then_some(wait)
    }

    /// Whether the last joins have failed.
    pub fn has_failed(&self) -> bool {
        self.backoff > BACKOFF_MIN
    }

    /// Forgets the recalled contacts that have answered, or were silent while others answered; returns
    /// the silent ones, the last first. Where nobody has answered, silence proves nothing.
    pub fn sort_recalled(&mut self, seeds: &[(Endpoint, SeedState)]) -> Vec<Contact> {
        if seeds.iter().all(|(_, state)| *state != SeedState::Answered) {
            return Vec::new();
        }
        let states: BTreeMap<Endpoint, SeedState> = seeds.iter().copied().collect();
        let state = |contact: &Contact| states.get(&contact.endpoint).copied();
        let is_open = |contact: &Contact| {
            matches!(state(contact), None | Some(SeedState::Unasked | SeedState::Asking))
        };
        let recalled = std::mem::take(&mut self.recalled);
        let (open, mut settled): (Vec<_>, Vec<_>) = recalled.into_iter().partition(is_open);
        self.recalled = open;
        settled.retain(|contact| state(contact) != Some(SeedState::Answered));
        settled.reverse();
        settled
    }
}
