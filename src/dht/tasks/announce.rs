//! An announce: a walk to the nodes nearest to a topic, and then the announce to each of them, with
//! the token that it gave.

use super::step::{Answer, Ask, Outcome, Step, Verdict};
use super::walk::Walk;
use crate::config::Config;
use crate::dht::requests::{Announcement, Question, Request};
use crate::id::NodeId;
use crate::wire::message::{Contact, Endpoint, Token};

/// An announce under way.
pub struct Announce {
    walk: Walk,
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

    /// Gives it the contacts to begin with.
    pub fn begin(&mut self, contacts: &[Contact]) {
        self.walk.begin(contacts);
    }

    /// What it wants next.
    pub fn step(&mut self) -> Step {
        if self.storers.is_none() {
            match self.walk.step() {
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
        let announcement = Announcement { topic: walk.target(), port: *port, token };
        let ask = Ask::contact(contact, Question::Announce(announcement));
        if token.is_none() {
            storer.state = Storing::Entrusted;
            return Step::Tell(Ask { id: None, ..ask });
        }
        storer.state = Storing::Told;
        Step::Ask(Ask { is_retry: state == Storing::Late, ..ask })
    }

    /// Takes an answer in.
    pub fn answered(&mut self, answer: &Answer<'_>) {
        if matches!(answer.question, Question::Announce(_)) {
            let is_stored = answer.verdict == Verdict::Stored;
            let state = if is_stored { Storing::Confirmed } else { Storing::Failed };
            return self.settle(&answer.contact.id, state);
        }
        if answer.token.is_none() && answer.takes_unproved {
            self.unproved.push(answer.contact.endpoint);
        }
        self.walk.answered(answer);
    }

    /// Notes that the short wait for an answer is over.
    pub fn late(&mut self, request: &Request, contact: &Contact) {
        match request.question {
            Question::Announce(_) if request.is_retry => self.settle(&contact.id, Storing::Failed),
            Question::Announce(_) => self.settle(&contact.id, Storing::Late),
            _ => self.walk.late(contact),
        }
    }

    /// Notes that a contact cannot be asked.
    pub fn failed(&mut self, request: &Request, contact: &Contact) {
        match request.question {
            Question::Announce(_) => self.settle(&contact.id, Storing::Failed),
            _ => self.walk.failed(contact),
        }
    }

    /// How many nodes have confirmed that they store it.
    pub fn confirmed(&self) -> usize {
        self.count(Storing::Confirmed)
    }

    /// Whether any node stores it, as far as can be known.
    pub fn is_stored(&self) -> bool {
        self.confirmed() + self.count(Storing::Entrusted) > 0
    }

    /// How it stands.
    pub fn outcome(&self) -> Outcome {
        Outcome::Announced(self.confirmed())
    }

    /// Panics where the walk's invariants are broken.
    pub fn check_invariants(&self) {
        self.walk.check_invariants();
    }

    fn choose(&self) -> Vec<Storer> {
        let takes_it = |(contact, token): &(Contact, Option<Token>)| {
            token.is_some() || self.unproved.contains(&contact.endpoint)
        };
        let storer = |(contact, token)| Storer { contact, token, state: Storing::Untold };
        self.walk.closest().filter(takes_it).map(storer).collect()
    }

    fn settle(&mut self, id: &NodeId, state: Storing) {
        let mut storers = self.storers.iter_mut().flatten();
        if let Some(storer) = storers.find(|storer| storer.contact.id == *id) {
            if storer.state != Storing::Confirmed {
                storer.state = state;
            }
        }
    }

    fn count(&self, state: Storing) -> usize {
        self.storers.iter().flatten().filter(|storer| storer.state == state).count()
    }
}
