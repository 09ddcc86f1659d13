//! An announce: a walk to the nodes nearest to a topic, and then the announce to each of them, with
//! the token that it gave.

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
    /// The nodes that are to store it; `None` until the walk is over.
    storers: Option<Vec<Storer>>,
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
        Self { walk, port, unproved: Vec::new(), storers: None, repeats: 0 }
    }

    pub(super) fn step(&mut self, now: Time) -> Step {
        if self.storers.is_none() {
            match self.walk.step(now) {
                Step::Over => self.storers = Some(self.choose()),
                step => return step,
            }
        }
        self.tell_silent_again();
        let Self { walk, port, storers, repeats, .. } = self;
        let storers = storers.get_or_insert_default();
        let is_untold =
            |storer: &&mut Storer| matches!(storer.state, Storing::Untold | Storing::Late);
        let Some(storer) = storers.iter_mut().find(is_untold) else {
            let is_waiting = storers.iter().any(|storer| storer.state == Storing::Told);
            return if is_waiting { Step::Wait } else { Step::Over };
        };
        let Storer { contact, token, state } = *storer;
        let announcement = Announcement { topic: walk.lookup.target(), port: *port, token };
        let question = Question::Announce(announcement);
        let request = Request::to_contact(now, contact, question, Purpose::Nothing);
        if token.is_none() {
            storer.state = Storing::Entrusted;
            return Step::Tell(Request { id: None, ..request });
        }
        storer.state = Storing::Told;
        let is_retry = state == Storing::Late;
        let pause = if is_retry { pause_after(2 + *repeats) } else { Duration::ZERO };
        Step::Ask(Request { is_retry, pause, ..request })
    }

    /// Has a patient announce tell all storers once more, where they are silent and nobody stores it.
    fn tell_silent_again(&mut self) {
        let is_open = |state| matches!(state, Storing::Untold | Storing::Told | Storing::Late);
        let has_hope = self.storers.iter().flatten().any(|storer| is_open(storer.state));
        if !self.walk.is_patient() || has_hope || self.is_stored() {
            return;
        }
        let silent = self.storers.iter_mut().flatten();
        let silent = silent.filter(|storer| storer.state == Storing::Silent);
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

    /// How many nodes have confirmed that they store it.
    pub(super) fn confirmed(&self) -> usize {
        self.count(Storing::Confirmed)
    }

    /// How far from the topic, in the leading bits of the distance, a node belongs among the storers:
    /// any does while they are fewer than it looks for.
    pub(super) fn reach(&self) -> u64 {
        let storers = self.storers.as_deref().unwrap_or_default();
        let topic = self.walk.lookup.target();
        let count = self.walk.lookup.count();
        let distances =
            storers.iter().map(|storer| topic.distance(&storer.contact.id).leading_word());
        distances.max().filter(|_| storers.len() >= count).unwrap_or(u64::MAX)
    }

    /// Whether any node stores it, as far as can be known.
    pub(super) fn is_stored(&self) -> bool {
        self.confirmed() + self.count(Storing::Entrusted) > 0
    }

    fn choose(&self) -> Vec<Storer> {
        let takes_it = |(contact, token): &(Contact, Option<Token>)| {
            token.is_some() || self.unproved.contains(&contact.endpoint)
        };
        let storer = |(contact, token)| Storer { contact, token, state: Storing::Untold };
        self.walk.lookup.closest().filter(takes_it).map(storer).collect()
    }

    fn settle(&mut self, endpoint: &Endpoint, state: Storing) {
        let mut storers = self.storers.iter_mut().flatten();
        if let Some(storer) = storers.find(|storer| storer.contact.endpoint == *endpoint)
            && storer.state != Storing::Confirmed
        {
            storer.state = state;
        }
    }

    fn count(&self, state: Storing) -> usize {
        self.storers.iter().flatten().filter(|storer| storer.state == state).count()
    }
}
