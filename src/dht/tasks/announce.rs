//! An announce: a walk to the nodes nearest to a topic, and then the announce to each of them, with
//! the token that it gave.

use super::step::{Answer, Step, Verdict};
use super::walk::Walk;
use crate::config::Config;
use crate::dht::requests::{Announcement, Purpose, Question, Request};
use crate::id::NodeId;
use crate::time::Time;
use crate::wire::message::{Contact, Endpoint, Token};

/// An announce under way.
pub struct Announce {
    pub(super) walk: Walk,
    port: Option<u16>,
    /// Nodes that gave no token and take an announce without one, as those of v0.1 do.
    unproved: Vec<Endpoint>,
    /// The nodes that are to store it; `None` until the walk is over.
    storers: Option<Vec<Storer>>,
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
    /// It refused, was silent twice, or could not be told; it may still confirm late.
    Failed,
}

impl Announce {
    /// An announce of `topic`, with this port or the one that its packets come from.
    pub fn new(topic: NodeId, port: Option<u16>, config: &Config) -> Self {
        let walk = Walk::to_peers(topic, config);
        Self { walk, port, unproved: Vec::new(), storers: None }
    }

    pub(super) fn step(&mut self, now: Time) -> Step {
        if self.storers.is_none() {
            match self.walk.step(now) {
                Step::Over => self.storers = Some(self.choose()),
                step => return step,
            }
        }
        let Self { walk, port, storers, .. } = self;
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
        Step::Ask(Request { is_retry: state == Storing::Late, ..request })
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
        self.settle(storer, if is_retry { Storing::Failed } else { Storing::Late });
    }

    /// Notes that a storer cannot be told.
    pub(super) fn failed(&mut self, storer: &Endpoint) {
        self.settle(storer, Storing::Failed);
    }

    /// How many nodes have confirmed that they store it.
    pub(super) fn confirmed(&self) -> usize {
        self.count(Storing::Confirmed)
    }

    /// How far from the topic, in the leading bits of the distance, a node belongs among the storers:
    /// any does while they are fewer than k.
    pub(super) fn reach(&self, k: usize) -> u64 {
        let storers = self.storers.as_deref().unwrap_or_default();
        let topic = self.walk.lookup.target();
        let distances =
            storers.iter().map(|storer| topic.distance(&storer.contact.id).leading_word());
        distances.max().filter(|_| storers.len() >= k).unwrap_or(u64::MAX)
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
        if let Some(storer) = storers.find(|storer| storer.contact.endpoint == *endpoint) {
            if storer.state != Storing::Confirmed {
                storer.state = state;
            }
        }
    }

    fn count(&self, state: Storing) -> usize {
        self.storers.iter().flatten().filter(|storer| storer.state == state).count()
    }
}
