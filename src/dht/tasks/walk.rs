//! A walk towards an id: the questions of one lookup, from the contacts that the node knows to the
//! nearest that answer. Which contact comes next is decided in `dht::lookup`; what is done with the
//! answers, by the task that the walk is for.

use std::time::Duration;

use super::step::{Answer, Obstacle, Outcome, Step, Verdict, pause_after};
use crate::config::Config;
use crate::dht::lookup::Lookup;
use crate::dht::requests::{Purpose, Question, Request};
use crate::id::NodeId;
use crate::time::Time;
use crate::wire::message::{Contact, Part};

/// A walk under way. By itself it is a lookup for nodes.
pub struct Walk {
    pub(super) lookup: Lookup,
    pub(super) question: Question,
    /// Whether it has the contacts to begin with.
    is_begun: bool,
    /// Whether its questions are repeated until its deadline, as long as nobody answers.
    is_patient: bool,
    /// So often all were silent and are asked anew.
    repeats: u32,
    /// Questions that met with an obstacle, and the last.
    obstacles: usize,
    obstacle: Option<Obstacle>,
}

impl Walk {
    /// A walk to the nodes nearest to `target` that asks for nodes.
    pub fn to_nodes(target: NodeId, config: &Config) -> Self {
        Self::new(target, Question::FindNode(target), config)
    }

    /// A walk to the nodes nearest to `topic` that asks for its peers.
    pub fn to_peers(topic: NodeId, config: &Config) -> Self {
        Self::new(topic, Question::GetPeers(topic, Part::WHOLE), config)
    }

    fn new(target: NodeId, question: Question, config: &Config) -> Self {
        Self {
            lookup: Lookup::new(target, config),
            question,
            is_begun: false,
            is_patient: false,
            repeats: 0,
            obstacles: 0,
            obstacle: None,
        }
    }

    /// Whether it is to repeat its questions for as long as nobody answers; a deadline must end it
    /// then.
    pub fn set_patient(&mut self, is_patient: bool) {
        self.is_patient = is_patient;
    }

    pub(super) fn is_patient(&self) -> bool {
        self.is_patient
    }

    pub fn begin(&mut self, contacts: &[Contact]) {
        self.is_begun = true;
        contacts.iter().for_each(|contact| self.lookup.add(*contact));
    }

    pub(super) fn step(&mut self, now: Time) -> Step {
        if !self.is_begun {
            return Step::Nearest(self.lookup.target());
        }
        if self.is_patient && self.lookup.is_done() && self.lookup.ask_silent_again() {
            self.repeats += 1;
        }
        if let Some(query) = self.lookup.next_query() {
            let Self { question, .. } = *self;
            let first = Request::to_contact(now, query.contact, question, Purpose::Nothing);
            let pause = if query.is_retry { pause_after(2 + self.repeats) } else { Duration::ZERO };
            return Step::Ask(Request { is_retry: query.is_retry, pause, ..first });
        }
        if self.lookup.is_done() { Step::Over } else { Step::Wait }
    }

    /// Notes that one of its questions met with an obstacle.
    pub(super) fn met(&mut self, obstacle: Obstacle) {
        if let Obstacle::System(_) = obstacle {
            self.obstacles += 1;
            self.obstacle = Some(obstacle);
        }
    }

    /// Why none of its questions was sent.
    pub(super) fn obstacle(&self) -> Option<Obstacle> {
        self.obstacle.filter(|_| self.obstacles >= self.lookup.queries())
    }

    pub(super) fn answered(&mut self, answer: &Answer<'_>) {
        if answer.verdict == Verdict::Refused {
            return self.lookup.refused(&answer.contact.endpoint);
        }
        self.lookup.answered(answer.contact, answer.token);
        answer.nodes.iter().for_each(|node| self.lookup.add(*node));
    }

    pub(super) fn outcome(&self) -> Outcome {
        if let Some(obstacle) = self.obstacle() {
            return Outcome::Failed(obstacle);
        }
        Outcome::Nodes(self.lookup.nodes())
    }
}
