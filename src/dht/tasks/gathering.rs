//! The peers that a lookup gathers, each once, and how it gets the rest where a node stores more of
//! them than fit into one answer.
//!
//! Such a node says how many it stores. Once the walk is over, the lookup asks it for the rest, part by
//! part, the node nearest to the topic first. A node is passed over where it can bring nothing: where
//! all that it named is known from nodes that have named all of theirs, and it stores no more than
//! those have named. So where all store the same, only one is asked.

use std::collections::{BTreeMap, BTreeSet};

use super::step::{Answer, Step, Verdict};
use crate::config::Config;
use crate::dht::lookup::Lookup;
use crate::dht::requests::{Purpose, Question, Request};
use crate::id::NodeId;
use crate::time::Time;
use crate::wire::message::{Contact, Endpoint, Part};

/// The peers that count from one node; as many as this node stores of a topic where that is more.
const BELIEVED_MIN: usize = 256;
/// The least peers that an answer is taken to have room for, so that a node cannot make a lookup ask
/// for many parts by naming few peers in each.
const ROOM_MIN: usize = 32;
/// Questions for parts that a node may leave unanswered, one after the other.
const SILENCES_MAX: usize = 6;

/// The peers of one lookup.
pub struct Gathering {
    topic: NodeId,
    /// The peers named so far, each with whether a node that has named all of its peers did.
    named: BTreeMap<Endpoint, bool>,
    /// How many of `named` a node did that has named all of its peers.
    settled: usize,
    /// The nodes that store more than they named at first, the nearest to the topic first.
    sources: Vec<Source>,
    /// Questions sent for parts.
    queries: usize,
    /// The most peers that it takes.
    max: usize,
    /// With so many it asks for no more.
    enough: usize,
    believed_max: usize,
    queries_max: usize,
    alpha: usize,
}

/// A node that stores more peers than it named at first.
struct Source {
    contact: Contact,
    /// How many it says it stores.
    total: usize,
    /// How many its first answer held.
    room: usize,
    named: BTreeSet<Endpoint>,
    state: State,
    /// The parts to ask for.
    parts: Vec<Part>,
    /// The parts asked for, whose short wait runs.
    open: Vec<Part>,
    questions: usize,
    questions_max: usize,
    /// Questions left unanswered since the last answer.
    silences: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not asked for parts yet.
    Fresh,
    Asking,
    /// Not to be asked any more; a late answer still counts.
    Over,
}

impl Gathering {
    /// One that knows what the node stores itself, and takes no more than `max`.
    pub fn new(topic: NodeId, own: &[Endpoint], max: usize, config: &Config) -> Self {
        let named: BTreeMap<Endpoint, bool> =
            own.iter().take(max).map(|peer| (*peer, true)).collect();
        Self {
            topic,
            settled: named.len(),
            named,
            sources: Vec::new(),
            queries: 0,
            max,
            enough: config.lookup_peers,
            believed_max: config.topic_peers.max(BELIEVED_MIN),
            queries_max: config.lookup_queries,
            alpha: config.alpha,
        }
    }

    /// What it wants next, once the walk of `lookup` is over: the questions of both count together.
    pub(super) fn step(&mut self, now: Time, lookup: &Lookup) -> Step {
        while !self.is_full() {
            let may_ask = lookup.queries() + self.queries < self.queries_max;
            let alpha = self.alpha;
            let Some(source) = self.current() else {
                return Step::Over;
            };
            if source.questions >= source.questions_max && !source.parts.is_empty() {
                source.give_up();
                continue;
            }
            let has_place = source.open.len() < alpha;
            let part = if may_ask && has_place { source.parts.pop() } else { None };
            let Some(part) = part else {
                return if source.open.is_empty() { Step::Over } else { Step::Wait };
            };
            source.open.push(part);
            source.questions += 1;
            let contact = source.contact;
            self.queries += 1;
            let question = Question::GetPeers(self.topic, part);
            return Step::Ask(Request::to_contact(now, contact, question, Purpose::Nothing));
        }
        Step::Over
    }

    /// Takes an answer in; returns the peers that are new.
    pub(super) fn answered(&mut self, answer: &Answer<'_>) -> Vec<Endpoint> {
        let Question::GetPeers(_, part) = answer.question else {
            return Vec::new();
        };
        let place = self.place_of(&answer.contact);
        let at = match (place, answer.total) {
            _ if answer.verdict == Verdict::Refused => {
                place.into_iter().for_each(|at| self.sources[at].give_up());
                return Vec::new();
            }
            (Some(at), _) => at,
            (None, Some(total)) => self.add(Source::new(answer, total)),
            (None, None) => return self.take(answer.peers, true),
        };
        let source = &mut self.sources[at];
        let counted = source.take(answer.peers, self.believed_max);
        if part != Part::WHOLE {
            source.answered(part, answer.total.is_some(), !counted.is_empty());
        }
        let fresh = self.take(&counted, false);
        self.settle(at);
        fresh
    }

    /// Notes that the short wait for a part is over; its answer still counts if it comes.
    pub(super) fn late(&mut self, contact: &Contact, part: Part) {
        if let Some(at) = self.place_of(contact) {
            self.sources[at].late(part);
        }
    }

    /// Notes that a question could not be sent.
    pub(super) fn failed(&mut self, contact: &Contact) {
        if let Some(at) = self.place_of(contact) {
            self.sources[at].give_up();
        }
    }

    /// The topic, where it has as many peers as a lookup is to collect.
    pub(super) fn full_topic(&self) -> Option<NodeId> {
        self.is_full().then_some(self.topic)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    fn is_full(&self) -> bool {
        self.named.len() >= self.enough
    }

    /// The node that is being asked, or else the next that may bring something.
    fn current(&mut self) -> Option<&mut Source> {
        let is_asking = |source: &Source| source.state == State::Asking;
        let at = self.sources.iter().position(is_asking).or_else(|| {
            let at = self.sources.iter().position(|source| self.may_bring_more(source))?;
            self.sources[at].begin(self.believed_max);
            Some(at)
        })?;
        self.sources.get_mut(at)
    }

    fn may_bring_more(&self, source: &Source) -> bool {
        let is_settled = |peer: &Endpoint| self.named.get(peer) == Some(&true);
        source.state == State::Fresh
            && (source.total.min(self.believed_max) > self.settled
                || !source.named.iter().all(is_settled))
    }

    /// Takes peers in, which are `settled` where a node that has named all of its peers names them.
    fn take(&mut self, peers: &[Endpoint], settled: bool) -> Vec<Endpoint> {
        let mut fresh = Vec::new();
        for &peer in peers {
            let known = self.named.get(&peer).copied();
            if known.is_none() && self.named.len() >= self.max {
                continue;
            }
            let was_settled = known.unwrap_or(false);
            self.named.insert(peer, was_settled || settled);
            self.settled += usize::from(settled && !was_settled);
            if known.is_none() {
                fresh.push(peer);
            }
        }
        fresh
    }

    /// Ends a node that has named all that counts.
    fn settle(&mut self, at: usize) {
        let source = &mut self.sources[at];
        let is_done = source.parts.is_empty() && source.open.is_empty();
        let has_ended = source.state == State::Asking && is_done;
        if has_ended || source.named.len() >= self.believed_max {
            source.give_up();
            let named: Vec<Endpoint> = source.named.iter().copied().collect();
            self.take(&named, true);
        }
    }

    fn add(&mut self, source: Source) -> usize {
        let distance = |source: &Source| self.topic.distance(&source.contact.id);
        let own = distance(&source);
        let at = self.sources.partition_point(|other| distance(other) < own);
        self.sources.insert(at, source);
        at
    }

    fn place_of(&self, contact: &Contact) -> Option<usize> {
        self.sources.iter().position(|source| source.contact == *contact)
    }

    /// Panics where a count is wrong or a cap is passed.
    pub fn check_invariants(&self) {
        assert!(self.named.len() <= self.max, "more peers than allowed");
        assert_eq!(self.settled, self.named.values().filter(|settled| **settled).count());
        assert!(self.queries <= self.queries_max);
        for source in &self.sources {
            assert!(source.named.len() <= self.believed_max, "more peers than count from one node");
            assert!(source.questions <= source.questions_max);
            assert!(source.state == State::Asking || source.open.is_empty());
        }
    }
}

impl Source {
    fn new(answer: &Answer<'_>, total: usize) -> Self {
        Self {
            contact: answer.contact,
            total,
            room: answer.peers.len().max(ROOM_MIN),
            named: BTreeSet::new(),
            state: State::Fresh,
            parts: Vec::new(),
            open: Vec::new(),
            questions: 0,
            questions_max: 0,
            silences: 0,
        }
    }

    /// Plans the parts: so many that nearly always each fits into an answer, though no two are of the
    /// same size. One that does not fit is halved.
    fn begin(&mut self, believed_max: usize) {
        let believed = self.total.min(believed_max);
        let count = (believed * 5).div_ceil(self.room * 4).max(2);
        let count = u16::try_from(count).unwrap_or(u16::MAX);
        self.parts = (0..count).filter_map(|index| Part::new(index, count)).collect();
        self.questions_max = 8 + 3 * usize::from(count);
        self.state = State::Asking;
    }

    /// Takes in what it names; returns the peers that it had not named before and that count.
    fn take(&mut self, peers: &[Endpoint], believed_max: usize) -> Vec<Endpoint> {
        let mut counted = Vec::new();
        for &peer in peers {
            if self.named.len() < believed_max && self.named.insert(peer) {
                counted.push(peer);
            }
        }
        counted
    }

    /// Notes the answer for a part. Where it was cut and yet names nothing new, no end of it is near.
    fn answered(&mut self, part: Part, is_cut: bool, brings_news: bool) {
        self.silences = 0;
        let awaited = self.open.len() + self.parts.len();
        self.open.retain(|open| *open != part);
        self.parts.retain(|unasked| *unasked != part);
        let is_first = self.open.len() + self.parts.len() < awaited;
        if !is_first || !is_cut {
            return;
        }
        match part.halves() {
            Some(halves) if brings_news => self.parts.extend(halves),
            _ => self.give_up(),
        }
    }

    fn late(&mut self, part: Part) {
        let Some(at) = self.open.iter().position(|open| *open == part) else {
            return;
        };
        self.parts.push(self.open.swap_remove(at));
        self.silences += 1;
        if self.silences >= SILENCES_MAX {
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        self.state = State::Over;
        self.parts.clear();
        self.open.clear();
    }
}
