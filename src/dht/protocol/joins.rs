//! Joining a network: through the contacts that a caller names, or by itself through those that the
//! node was made with, and again whenever it knows nobody.

use std::time::Duration;

use super::lookups::{Goal, LookupTask};
use super::operations::Busy;
use super::{Engine, Event, Outbox};
use crate::dht::requests::{OpId, Purpose, Question, Request};
use crate::time::Time;
use crate::wire::message::Endpoint;

/// The contacts that a join asks, each once, and what became of each.
pub type Seeds = Vec<(Endpoint, SeedState)>;

/// What became of a contact that a join asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeedState {
    /// Not asked yet.
    Unasked,
    /// No answer yet.
    Asking,
    /// No answer within the short wait; it is asked once more.
    Late,
    /// It answered.
    Answered,
    /// It did not answer, twice; or it cannot be asked.
    Silent,
}

/// What makes a lookup a join.
pub(super) struct Join {
    pub(super) seeds: Seeds,
    /// Whether [`Engine::add_seeds`] is going to bring more.
    expects_more: bool,
    /// The buckets that are still to be refreshed, once the lookup of the own id is done.
    to_refresh: Option<Vec<usize>>,
    /// Refreshes under way.
    refreshing: usize,
}

/// The contacts through which the node joins by itself whenever it knows nobody.
#[derive(Default)]
pub(super) struct Home {
    seeds: Vec<Endpoint>,
    /// Whether more of them are still being resolved.
    expects_more: bool,
    pub(super) join: Option<OpId>,
    next_try: Time,
    /// The wait after the next failure; zero before the first.
    backoff: Duration,
    /// Lookups that wait for the join.
    pub(super) held: Vec<OpId>,
}

/// Contacts that one join asks at once.
const GREETINGS: usize = 16;

/// Buckets that one join refreshes at once.
const REFRESHES: usize = 3;

/// The wait before a failed join is tried again, which doubles with each failure.
const BACKOFF_MIN: Duration = Duration::from_secs(1);

const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Commands.
impl Engine {
    /// Joins a network through `seeds`: asks them, looks up the own id, refreshes.
    ///
    /// Where it `expects_more`, silence of all of them does not end it before
    /// [`Engine::add_seeds`] has brought the rest.
    ///
    /// # Errors
    ///
    /// See [`Engine::ping`].
    pub fn join(
        &mut self,
        now: Time,
        seeds: Vec<Endpoint>,
        expects_more: bool,
        timeout: Option<Duration>,
        out: &mut Outbox,
    ) -> Result<OpId, Busy> {
        let mut join = Join { seeds: Seeds::new(), expects_more, to_refresh: None, refreshing: 0 };
        join.add(seeds);
        let op = self.begin_lookup(now, self.id, Goal::Join(join), timeout)?;
        self.end_overdue(now);
        self.table.touch(now, &self.id);
        self.greet(now, op, out);
        self.advance(now, op, out);
        Ok(op)
    }

    /// Brings a join more seeds, if it is still under way.
    pub fn add_seeds(
        &mut self,
        now: Time,
        op: OpId,
        seeds: Vec<Endpoint>,
        expects_more: bool,
        out: &mut Outbox,
    ) {
        let Some(join) = self.lookup(op).and_then(LookupTask::join) else {
            return;
        };
        join.expects_more = expects_more;
        join.add(seeds);
        self.greet(now, op, out);
        self.advance(now, op, out);
    }

    /// Has the node join through `seeds` whenever it knows nobody, from the next tick on. Where it
    /// `expects_more`, lookups wait for them to come in another call.
    pub fn stay_joined(
        &mut self,
        now: Time,
        seeds: Vec<Endpoint>,
        expects_more: bool,
        out: &mut Outbox,
    ) {
        let has_new = seeds.iter().any(|seed| !self.home.seeds.contains(seed));
        self.home.seeds.clone_from(&seeds);
        self.home.expects_more = expects_more;
        match self.home.join {
            Some(join) => self.add_seeds(now, join, seeds, false, out),
            // Those that were silent before wait for their turn.
            None if has_new => self.home.next_try = now,
            None => {}
        }
    }
}

impl Engine {
    /// Asks the seeds of a join, a few at once.
    pub(super) fn greet(&mut self, now: Time, op: OpId, out: &mut Outbox) {
        loop {
            let own_id = self.id;
            let Some(Join { seeds, .. }) = self.lookup(op).and_then(LookupTask::join) else {
                return;
            };
            let is_open = |state| matches!(state, SeedState::Asking | SeedState::Late);
            let asking = seeds.iter().filter(|(_, state)| is_open(*state)).count();
            let unasked = seeds.iter_mut().find(|(_, state)| *state == SeedState::Unasked);
            let Some((to, state)) = unasked.filter(|_| asking < GREETINGS) else {
                return;
            };
            *state = SeedState::Asking;
            let to = *to;
            let greeting =
                Request::to_endpoint(now, to, Question::FindNode(own_id), Purpose::Op(op));
            let is_sent = self.reaches(&to) && !self.is_own(&to) && self.ask(greeting, out);
            if !is_sent {
                self.settle_seed(op, to, SeedState::Silent);
            }
        }
    }

    pub(super) fn settle_seed(&mut self, op: OpId, endpoint: Endpoint, settled: SeedState) {
        let join = self.lookup(op).and_then(LookupTask::join);
        let mut seeds = join.into_iter().flat_map(|join| &mut join.seeds);
        if let Some((_, state)) = seeds.find(|(seed, _)| *seed == endpoint) {
            // Whoever answered once is there, though a repeated question may be left open.
            if *state != SeedState::Answered {
                *state = settled;
            }
        }
    }

    /// Looks up an id in each bucket that the lookup of the own id left thin.
    pub(super) fn refresh_after_join(&mut self, now: Time, op: OpId, out: &mut Outbox) {
        let thin = self.table.thin_buckets();
        if let Some(join) = self.lookup(op).and_then(LookupTask::join) {
            let has_joined = join.seeds.iter().any(|(_, state)| *state == SeedState::Answered);
            join.to_refresh = Some(if has_joined { thin } else { Vec::new() });
        }
        self.refresh_next(now, op, out);
    }

    /// Notes that one of a join's refreshes is over.
    pub(super) fn refreshed(&mut self, now: Time, op: OpId, out: &mut Outbox) {
        if let Some(join) = self.lookup(op).and_then(LookupTask::join) {
            join.refreshing -= 1;
            self.refresh_next(now, op, out);
        }
    }

    /// Starts refreshes as long as there may be more, and ends the join after the last.
    fn refresh_next(&mut self, now: Time, op: OpId, out: &mut Outbox) {
        while let Some(join) = self.lookup(op).and_then(LookupTask::join) {
            let next = join.to_refresh.as_mut().filter(|_| join.refreshing < REFRESHES);
            let Some(bucket) = next.and_then(Vec::pop) else {
                if join.refreshing == 0 {
                    self.finish_operation(now, op);
                }
                return;
            };
            join.refreshing += 1;
            let random = self.random_id();
            let target = self.table.id_in_bucket(bucket, &random);
            if !self.start_refresh(now, target, Some(op), out) {
                self.refreshed(now, op, out);
            }
        }
    }

    /// Whether lookups wait because nobody is known yet and a join is to change that.
    pub(super) fn is_joining(&self) -> bool {
        let home = &self.home;
        self.table.is_empty() && (home.expects_more || !home.seeds.is_empty())
    }

    /// Joins through the home contacts, and those known before, when the table is empty; lets
    /// lookups go that waited for it.
    pub(super) fn rejoin(&mut self, now: Time, out: &mut Outbox) {
        if self.next_rejoin().is_some_and(|at| at <= now) {
            let mut seeds = self.home.seeds.clone();
            seeds.extend(self.table.dropped(now).map(|contact| contact.endpoint));
            // Known before it begins, for a join that nobody can be asked for ends at once.
            self.home.join = Some(self.next_op + 1);
            if self.join(now, seeds, false, None, out).is_err() {
                self.came_home(now);
            }
        }
        if self.must_release() {
            for op in std::mem::take(&mut self.home.held) {
                self.launch(now, op, out);
            }
        }
    }

    /// Whether lookups are held that need not wait any more.
    pub(super) fn must_release(&self) -> bool {
        !self.home.held.is_empty() && !self.is_joining()
    }

    pub(super) fn next_rejoin(&self) -> Option<Time> {
        let home = &self.home;
        let knows_where = !home.seeds.is_empty() || self.table.has_dropped();
        (knows_where && home.join.is_none() && self.table.is_empty()).then_some(home.next_try)
    }

    pub(super) fn came_home(&mut self, now: Time) {
        self.home.join = None;
        if self.table.is_empty() {
            let wait = self.home.backoff.max(BACKOFF_MIN);
            self.home.backoff = (wait * 2).min(BACKOFF_MAX);
            self.home.next_try = now + wait;
            self.events.push_back(Event::Alone { seeds: self.home.seeds.clone(), wait });
        } else {
            self.home.backoff = BACKOFF_MIN;
            self.home.next_try = now;
            self.events.push_back(Event::Joined(self.table.len()));
        }
    }
}

impl Join {
    fn add(&mut self, seeds: Vec<Endpoint>) {
        for seed in seeds {
            if self.seeds.iter().all(|(known, _)| *known != seed) {
                self.seeds.push((seed, SeedState::Unasked));
            }
        }
    }

    /// Whether its lookup may be over: once, when each seed has had its short wait, and one has
    /// answered or all are silent and no more expected.
    pub(super) fn may_conclude(&self) -> bool {
        let mut states = self.seeds.iter().map(|(_, state)| *state);
        let is_open = |state| matches!(state, SeedState::Unasked | SeedState::Asking);
        self.to_refresh.is_none()
            && !states.clone().any(is_open)
            && (states.clone().any(|state| state == SeedState::Answered)
                || !self.expects_more && states.all(|state| state == SeedState::Silent))
    }
}
