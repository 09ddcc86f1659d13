//! A join: the contacts that it starts from are asked, the own id is looked up through those that
//! answer, and then an id in each bucket that is still thin. When a node joins by itself is not
//! decided here.

use std::collections::BTreeSet;

use super::step::{Answer, Outcome, SeedState, Seeds, Step, pause_after};
use super::walk::Walk;
use crate::config::Config;
use crate::dht::requests::{Purpose, Request};
use crate::id::NodeId;
use crate::time::Time;
use crate::wire::message::Endpoint;

/// So often a join asks a contact that does not answer: one that somebody named, on which all may
/// hang, and another, of which there are more. One with a deadline goes on asking the named ones as
/// long as nobody answers.
const NAMED_ATTEMPTS: u32 = 3;
const OTHER_ATTEMPTS: u32 = 2;

/// Contacts that one join asks at once, without waiting for the answer of one: of the most that an
/// earlier run leaves, where nearly all are dead, the last is asked within ten seconds.
const GREETINGS: usize = 64;

/// Buckets that one join refreshes at once.
const REFRESHES: usize = 3;

/// A join under way.
pub struct Join {
    seeds: Seeds,
    /// How many of the seeds, the first, are asked in any case; the others only until k answered.
    named: usize,
    /// Whether [`Join::add`] is going to bring more.
    expects_more: bool,
    /// Whether it asks the named seeds until its deadline, as long as nobody answers.
    is_patient: bool,
    /// Seeds to ask once more, because they are late.
    repeats: Vec<Endpoint>,
    /// The walk to the own id.
    walk: Walk,
    /// The buckets that are still to be refreshed, once that walk is over.
    to_refresh: Option<Vec<usize>>,
    /// The walks of refreshes, at most [`REFRESHES`].
    refreshes: Vec<Walk>,
    k: usize,
    /// The most seeds asked at once.
    greetings: usize,
}

impl Join {
    /// A join of the node `own` that asks all of `named`, and of `others` as many as it takes.
    pub fn new(
        own: NodeId,
        named: Vec<Endpoint>,
        others: Vec<Endpoint>,
        expects_more: bool,
        config: &Config,
    ) -> Self {
        let mut known = BTreeSet::new();
        let mut distinct = |seeds: Vec<Endpoint>| {
            let fresh = seeds.into_iter().filter(|seed| known.insert(*seed));
            fresh.map(|seed| (seed, SeedState::Unasked)).collect::<Seeds>()
        };
        let mut seeds = distinct(named);
        let named = seeds.len();
        seeds.extend(distinct(others));
        let mut walk = Walk::to_nodes(own, config);
        walk.begin(&[]);
        Self {
            seeds,
            named,
            expects_more,
            is_patient: false,
            repeats: Vec::new(),
            walk,
            to_refresh: None,
            refreshes: Vec::new(),
            k: config.k,
            // Each may be repeated while it is open. Half of the room for requests is kept for what
            // callers want.
            greetings: GREETINGS.min(config.open_requests / 4),
        }
    }

    /// Whether it is to ask for as long as nobody answers; a deadline must end it then.
    pub fn set_patient(&mut self, is_patient: bool) {
        self.is_patient = is_patient;
    }

    /// Has it ask more in any case, each that is new, once.
    pub fn add(&mut self, seeds: Vec<Endpoint>, expects_more: bool) {
        self.expects_more = expects_more;
        for seed in seeds {
            let state = match self.position(&seed) {
                Some(at) if at < self.named => continue,
                Some(at) => self.seeds.remove(at).1,
                None => SeedState::Unasked,
            };
            self.seeds.insert(self.named, (seed, state));
            self.named += 1;
        }
    }

    /// Tells it which buckets are thin. Where nobody answered there is nobody to fill them.
    pub fn survey(&mut self, thin: Vec<usize>) {
        self.to_refresh = Some(if self.answered_seeds() > 0 { thin } else { Vec::new() });
    }

    pub fn refresh(&mut self, walk: Walk) {
        self.refreshes.push(walk);
    }

    pub(super) fn step(&mut self, now: Time) -> Step {
        if let Some(seed) = self.next_seed(now) {
            return Step::Ask(seed);
        }
        let walk = match self.walk.step(now) {
            Step::Ask(query) => return Step::Ask(query),
            step => step,
        };
        for refresh in &mut self.refreshes {
            if let Step::Ask(query) = refresh.step(now) {
                return Step::Ask(query);
            }
        }
        self.refreshes.retain_mut(|refresh| !matches!(refresh.step(now), Step::Over));
        let Some(buckets) = &mut self.to_refresh else {
            let is_over = matches!(walk, Step::Over) && self.is_settled();
            return if is_over { Step::Survey } else { Step::Wait };
        };
        if self.refreshes.len() >= REFRESHES {
            return Step::Wait;
        }
        match buckets.pop() {
            Some(bucket) => Step::Refresh(bucket),
            None if self.refreshes.is_empty() => Step::Over,
            None => Step::Wait,
        }
    }

    pub(super) fn answered(&mut self, answer: &Answer<'_>) {
        let walk = answer.question.target().and_then(|target| self.walk_to(target));
        walk.into_iter().for_each(|walk| walk.answered(answer));
        self.settle(&answer.contact.endpoint, SeedState::Answered);
    }

    pub(super) fn walks(&self) -> impl Iterator<Item = &Walk> {
        std::iter::once(&self.walk).chain(&self.refreshes)
    }

    /// The walk to this id, unless it is over.
    pub(super) fn walk_to(&mut self, target: NodeId) -> Option<&mut Walk> {
        let mut walks = std::iter::once(&mut self.walk).chain(&mut self.refreshes);
        walks.find(|walk| walk.lookup.target() == target)
    }

    pub(super) fn outcome(&self, contacts: usize) -> Outcome {
        let settled = |&(seed, state)| match state {
            SeedState::Late(_) => (seed, SeedState::Silent),
            _ => (seed, state),
        };
        Outcome::Joined { contacts, seeds: self.seeds.iter().map(settled).collect() }
    }

    /// Notes that a seed is silent: it is asked again, up to a number of times.
    pub(super) fn seed_is_late(&mut self, seed: &Endpoint) {
        let Some(at) = self.position(seed) else {
            return;
        };
        let asked = match self.seeds[at].1 {
            SeedState::Late(asked) => asked,
            _ => 1,
        };
        let is_named = at < self.named;
        let max = if is_named { NAMED_ATTEMPTS } else { OTHER_ATTEMPTS };
        let goes_on = is_named && self.is_patient && self.answered_seeds() == 0;
        if asked < max || goes_on {
            self.repeats.push(*seed);
            self.settle(seed, SeedState::Late(asked + 1));
        } else {
            self.settle(seed, SeedState::Silent);
        }
    }

    /// Notes that a seed could not be asked, or cannot answer.
    pub(super) fn seed_failed(&mut self, seed: &Endpoint, state: SeedState) {
        self.settle(seed, state);
    }

    /// The next seed to ask, if one more may be asked.
    fn next_seed(&mut self, now: Time) -> Option<Request> {
        let question = self.walk.question;
        let request = |to| Request::to_endpoint(now, to, question, Purpose::Nothing);
        if let Some(to) = self.repeats.pop() {
            let asked = match self.position(&to).map(|at| self.seeds[at].1) {
                Some(SeedState::Late(asked)) => asked - 1,
                _ => 0,
            };
            return Some(Request { is_retry: true, pause: pause_after(asked), ..request(to) });
        }
        let at = self.seeds.iter().position(|(_, state)| *state == SeedState::Unasked)?;
        // The named ones do not wait for the others.
        let ahead = if at < self.named { &self.seeds[..self.named] } else { &self.seeds[..] };
        let asking = ahead.iter().filter(|(_, state)| *state == SeedState::Asking).count();
        if asking >= self.greetings {
            return None;
        }
        let (to, state) = &mut self.seeds[at];
        *state = SeedState::Asking;
        Some(request(*to))
    }

    fn settle(&mut self, seed: &Endpoint, settled: SeedState) {
        if let Some(at) = self.position(seed) {
            // Whoever answered once is there, though a repeated question may be left open.
            if self.seeds[at].1 != SeedState::Answered {
                self.seeds[at].1 = settled;
            }
        }
        if self.answered_seeds() >= self.k {
            self.spare_others();
        }
    }

    /// Leaves out the others than the named seeds that were not asked yet.
    fn spare_others(&mut self) {
        let mut at = 0;
        self.seeds.retain(|(_, state)| {
            at += 1;
            at <= self.named || *state != SeedState::Unasked
        });
    }

    /// Whether the walk to the own id may be over: when each seed has had its short wait, and one has
    /// answered or all are silent and no more expected.
    fn is_settled(&self) -> bool {
        let mut states = self.seeds.iter().map(|(_, state)| *state);
        let is_open = |state| matches!(state, SeedState::Unasked | SeedState::Asking);
        let is_given_up = |state| matches!(state, SeedState::Silent | SeedState::Failed(_));
        !states.clone().any(is_open)
            && (self.answered_seeds() > 0 || !self.expects_more && states.all(is_given_up))
    }

    fn answered_seeds(&self) -> usize {
        self.seeds.iter().filter(|(_, state)| *state == SeedState::Answered).count()
    }

    fn position(&self, seed: &Endpoint) -> Option<usize> {
        self.seeds.iter().position(|(known, _)| known == seed)
    }
}
