//! A walk towards an id: the questions of one lookup, from the contacts that the node knows to the
//! nearest that answer. Which contact comes next is decided in `dht::lookup`; what is done with the
//! answers, by the task that the walk is for.

use super::step::{Answer, Outcome, Step, Verdict};
use crate::config::Config;
use crate::dht::lookup::Lookup;
use crate::dht::requests::{Purpose, Question, Request};
use crate::id::NodeId;
use crate::time::Time;
use crate::wire::message::Contact;

/// A walk under way. By itself it is a lookup for nodes.
pub struct Walk {
    pub(super) lookup: Lookup,
    pub(super) question: Question,
    /// Whether it has the contacts to begin with.
    is_begun: bool,
}

impl Walk {
    /// A walk to the nodes nearest to `target` that asks for nodes.
    pub fn to_nodes(target: NodeId, config: &Config) -> Self {
        let question = Question::FindNode(target);
        Self { lookup: Lookup::new(target, config), question, is_begun: false }
    }

    /// A walk to the nodes nearest to `topic` that asks for its peers.
    pub fn to_peers(topic: NodeId, config: &Config) -> Self {
        let question = Question::GetPeers(topic);
        Self { lookup: Lookup::new(topic, config), question, is_begun: false }
    }

    pub fn begin(&mut self, contacts: &[Contact]) {
        self.is_begun = true;
        contacts.iter().for_each(|contact| self.lookup.add(*contact));
    }

    pub(super) fn step(&mut self, now: Time) -> Step {
        if !self.is_begun {
            return Step::Nearest(self.lookup.target());
        }
        if let Some(query) = self.lookup.next_query() {
            let Self { question, .. } = *self;
            let first = Request::to_contact(now, query.contact, question, Purpose::Nothing);
            return Step::Ask(Request { is_retry: query.is_retry, ..first });
        }
        if self.lookup.is_done() { Step::Over } else { Step::Wait }
    }

    pub(super) fn answered(&mut self, answer: &Answer<'_>) {
        if answer.verdict == Verdict::Refused {
            return self.lookup.refused(&answer.contact.endpoint);
        }
        self.lookup.answered(answer.contact, answer.token);
        answer.nodes.iter().for_each(|node| self.lookup.add(*node));
    }

    pub(super) fn outcome(&self) -> Outcome {
        Outcome::Nodes(self.lookup.closest().map(|(contact, _)| contact).collect())
    }
}
