//! An announce: a walk to the nodes nearest to a topic, on which each that is among the nearest so far is
//! told as soon as it has answered, with the token that it gave. So nobody on the way can hold the
//! announce back, and a few more than the nearest store it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::step::{Answer, Outcome, Step, Verdict, pause_after};
use super::walk::Walk;
use crate::config::Config;
use crate::dht::requests::{Announcement, Purpose, Question, Request};
use crate::id::NodeId;
use crate::time::Time;
use crate::wire::message::{Contact, Endpoint, Token};

/// An announce under way.
pub struct Announce {
    pub walk: Walk,
    port: Option<u16>,
    /// Nodes that gave no token and take an announce without one, as those of v0.1 do.
    unproved: Vec<Endpoint>,
    /// The nodes that are to store it.
    storers: Vec<Storer>,
    k: usize,
    /// So often all storers were silent and are told anew.
    repeats: u32,
}

/// A node that is to store the announce.
struct Storer {
    contact: Contact,
    token: Option<Token>,
    state: Storing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Storing {
    Untold,
    Told,
    /// Silent for the short wait, and to be told once more.
    Late,
    Confirmed,
    /// It was told in v0.1's way, in which it stores and does not say so.
    Entrusted,
    /// Silent twice; it may still confirm late.
    Silent,
    /// It refused, or could not be told.
    Failed,
}

impl Announce {
    /// An announce of `topic`, with this port or the one that its packets come from.
    pub fn new(topic: NodeId, port: Option<u16>, config: &Config) -> Self {
        let walk = Walk::to_peers(topic, config);
        Self { walk, port, unproved: Vec::new(), storers: Vec::new(), k: config.k, repeats: 0 }
    }

    pub(super) fn step(&mut self, now: Time) -> Step {
        if let Some(step) = self.tell_next(now) {
            return step;
        }
        match self.walk.step(now) {
            Step::Over => {}
            step => return step,
        }
        self.tell_silent_again();
        let is_waiting = self.storers.iter().any(|storer| storer.state == Storing::Told);
        let over = if is_waiting { Step::Wait } else { Step::Over };
        self.tell_next(now).unwrap_or(over)
    }

    /// Tells the next node that is to be told.
    fn tell_next(&mut self, now: Time) -> Option<Step> {
        let is_untold =
            |storer: &&mut Storer| matches!(storer.state, Storing::Untold | Storing::Late);
        let storer = self.storers.iter_mut().find(is_untold)?;
        let Storer { contact, token, state } = *storer;
        let topic = self.walk.lookup.target();
        let question = Question::Announce(Announcement { topic, port: self.port, token });
        let request = Request::to_contact(now, contact, question, Purpose::Nothing);
        if token.is_none() {
            storer.state = Storing::Entrusted;
            return Some(Step::Tell(Request { id: None, ..request }));
        }
        storer.state = Storing::Told;
        let is_retry = state == Storing::Late;
        let pause = if is_retry { pause_after(2 + self.repeats) } else { Duration::ZERO };
        Some(Step::Ask(Request { is_retry, pause, ..request }))
    }

    /// Has a patient announce tell all storers once more, where they are silent and nobody stores it.
    fn tell_silent_again(&mut self) {
        let is_open = |state| matches!(state, Storing::Untold | Storing::Told | Storing::Late);
        let has_hope = self.storers.iter().any(|storer| is_open(storer.state));
        if !self.walk.is_patient() || has_hope || self.is_stored() {
            return;
        }
        let silent = self.storers.iter_mut().filter(|storer| storer.state == Storing::Silent);
        if silent.map(|storer| storer.state = Storing::Late).count() > 0 {
            self.repeats += 1;
        }
    }

    pub(super) fn answered(&mut self, answer: &Answer<'_>) {
        if matches!(answer.question, Question::Announce(_)) {
            let is_stored = answer.verdict == Verdict::Stored;
            let state = if is_stored { Storing::Confirmed } else { Storing::Failed };
            return self.settle(&answer.contact.endpoint, state);
        }
        if answer.token.is_none() && answer.takes_unproved {
            self.unproved.push(answer.contact.endpoint);
        }
        self.walk.answered(answer);
        self.choose();
    }

    /// Notes that a storer is silent: it is told once more, unless that was the second time.
    pub(super) fn late(&mut self, storer: &Endpoint, is_retry: bool) {
        self.settle(storer, if is_retry { Storing::Silent } else { Storing::Late });
    }

    /// Notes that a storer cannot be told.
    pub(super) fn failed(&mut self, storer: &Endpoint) {
        self.settle(storer, Storing::Failed);
    }

    pub(super) fn outcome(&self) -> Outcome {
        self.walk.obstacle().map_or(Outcome::Announced(self.confirmed()), Outcome::Failed)
    }

    /// How many nodes have confirmed that they store it, at most k of each family: those that only were
    /// near on the way do not count. One that is told over both families counts once.
    pub(super) fn confirmed(&self) -> usize {
        let mut ids = BTreeSet::new();
        for ipv4 in [true, false] {
            let confirmed = self.storers.iter().filter(|storer| {
                storer.state == Storing::Confirmed && storer.contact.endpoint.is_ipv4() == ipv4
            });
            ids.extend(confirmed.map(|storer| storer.contact.id).take(self.k));
        }
        ids.len()
    }

    /// How far from the topic, in the leading bits of the distance, a node belongs among the storers:
    /// any does while they are fewer than k.
    pub(super) fn reach(&self) -> u64 {
        let topic = self.walk.lookup.target();
        let mut distances: Vec<u64> = self
            .storers
            .iter()
            .map(|storer| topic.distance(&storer.contact.id).leading_word())
            .collect();
        distances.sort_unstable();
        distances.get(self.k - 1).copied().unwrap_or(u64::MAX)
    }

    /// Whether any node stores it, as far as can be known.
    pub(super) fn is_stored(&self) -> bool {
        let stores = |state| matches!(state, Storing::Confirmed | Storing::Entrusted);
        self.storers.iter().any(|storer| stores(storer.state))
    }

    /// Has those of the nearest that have answered so far told that are not.
    fn choose(&mut self) {
        let Self { walk, unproved, storers, .. } = self;
        for (contact, token) in walk.lookup.closest() {
            let takes_it = token.is_some() || unproved.contains(&contact.endpoint);
            if takes_it && storers.iter().all(|storer| storer.contact != contact) {
                storers.push(Storer { contact, token, state: Storing::Untold });
            }
        }
    }

    fn settle(&mut self, endpoint: &Endpoint, state: Storing) {
        let mut storers = self.storers.iter_mut();
        if let Some(storer) = storers.find(|storer| storer.contact.endpoint == *endpoint)
            && storer.state != Storing::Confirmed
        {
            storer.state = state;
        }
    }
}
