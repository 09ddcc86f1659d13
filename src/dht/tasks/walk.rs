//! A walk towards an id: the questions of one lookup, from the contacts that the node knows to the
//! nearest that answer. Which contact comes next is decided in `dht::lookup`; what is done with the
//! answers, by the task that the walk is for.

use super::step::{Answer, Ask, Outcome, Step, Verdict};
use crate::config::Config;
use crate::dht::lookup::Lookup;
use crate::dht::requests::Question;
use crate::id::NodeId;
use crate::wire::message::{Contact, Token};

/// A walk under way. By itself it is a lookup for nodes.
pub struct Walk {
    lookup: Lookup,
    ask: fn(NodeId) -> Question,
    /// Whether it has the contacts to begin with.
    is_begun: bool,
}

impl Walk {
    /// A walk to the nodes nearest to `target` that asks for nodes.
    pub fn to_nodes(target: NodeId, config: &Config) -> Self {
        Self { lookup: Lookup::new(target, config), ask: Question::FindNode, is_begun: false }
    }

    /// A walk to the nodes nearest to `topic` that asks for its peers.
    pub fn to_peers(topic: NodeId, config: &Config) -> Self {
        Self { lookup: Lookup::new(topic, config), ask: Question::GetPeers, is_begun: false }
    }

    /// The id that it goes to.
    pub fn target(&self) -> NodeId {
        self.lookup.target()
    }

    /// Gives it the contacts to begin with.
    pub fn begin(&mut self, contacts: &[Contact]) {
        self.is_begun = true;
        contacts.iter().for_each(|contact| self.lookup.add(*contact));
    }

    /// What it wants next.
    pub fn step(&mut self) -> Step {
        if !self.is_begun {
            return Step::Nearest(self.target());
        }
        if let Some(query) = self.lookup.next_query() {
            let first = Ask::contact(query.contact, (self.ask)(self.target()));
            return Step::Ask(Ask { is_retry: query.is_retry, ..first });
        }
        if self.lookup.is_done() { Step::Over } else { Step::Wait }
    }

    /// Takes an answer in.
    pub fn answered(&mut self, answer: &Answer<'_>) {
        if answer.verdict == Verdict::Refused {
            return self.lookup.failed(&answer.contact);
        }
        self.lookup.answered(answer.contact, answer.token);
        answer.nodes.iter().for_each(|node| self.lookup.add(*node));
    }

    /// Notes that the short wait for a contact is over.
    pub fn late(&mut self, contact: &Contact) {
        self.lookup.late(contact);
    }

    /// Notes that a contact cannot be asked.
    pub fn failed(&mut self, contact: &Contact) {
        self.lookup.failed(contact);
    }

    /// The nearest that answered, the nearest first, each with its token.
    pub fn closest(&self) -> impl Iterator<Item = (Contact, Option<Token>)> {
        self.lookup.closest()
    }

    /// What it has found, as a lookup for nodes.
    pub fn outcome(&self) -> Outcome {
        Outcome::Nodes(self.closest().map(|(contact, _)| contact).collect())
    }

    /// Panics where the lookup's invariants are broken.
    pub fn check_invariants(&self) {
        self.lookup.check_invariants();
    }
}
