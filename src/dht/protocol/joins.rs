//! Joining a network: through the contacts that a caller names, or by itself through those that the
//! node was made with or has known before, and again whenever it knows nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand_core::Rng;

use super::lookups::{Goal, LookupTask};
use super::operations::Busy;
use super::{Engine, Event, Outbox};
use crate::dht::requests::{OpId, Purpose, Question, Request};
use crate::dht::routing::Entry;
use crate::time::Time;
use crate::wire::message::{Contact, Endpoint};

/// The contacts that a join asks, each once, and what became of each.
pub type Seeds = Vec<(Endpoint, SeedState)>;

/// What became of a contact that a join asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeedState {
    /// Not asked yet.
    Unasked,
    /// No answer yet.
    Asking,
    /// No answer within the short wait; it was asked so often by now.
    Late(u8),
    /// It answered.
    Answered,
    /// It did not answer, however often it was asked; or it cannot be asked.
    Silent,
}

/// What makes a lookup a join.
pub(super) struct Join {
    pub(super) seeds: Seeds,
    /// How many of the seeds, the first, are asked in any case; the others only until k answered.
    named: usize,
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
    /// Contacts of an earlier run that nothing is known of since, the one to ask first first.
    pub(super) recalled: Vec<Contact>,
    /// Whether a join is to begin whoever is known: some contacts were never asked, or not for long.
    is_due: bool,
    pub(super) join: Option<OpId>,
    next_try: Time,
    /// The wait after the next failure; zero before the first.
    backoff: Duration,
    /// Lookups that wait for the join.
    pub(super) held: Vec<OpId>,
}

/// So often a join asks a contact that does not answer: one that somebody named, on which all may
/// hang, and another, of which there are more.
const NAMED_ATTEMPTS: u8 = 3;
const OTHER_ATTEMPTS: u8 = 2;

/// Contacts that one join asks at once, without waiting for the answer of one: of the most that an
/// earlier run leaves, where nearly all are dead, the last is asked within ten seconds.
const GREETINGS: usize = 64;

/// Contacts known before that a join asks after one has failed: few, for it is repeated as long as
/// the node is alone, and others may have their addresses by now.
const ASKED_AGAIN: usize = 32;

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
        self.check_room()?;
        Ok(self.begin_join(now, Join::new(seeds, Vec::new(), expects_more), timeout, out))
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
        join.add_named(seeds);
        self.greet(now, op, out);
        self.advance(now, op, out);
    }

    /// Has the node join through `seeds`, from the next tick on, and whenever it knows nobody again.
    /// Where it `expects_more`, lookups wait for them to come in another call.
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
        if let Some(join) = self.home.join {
            self.add_seeds(now, join, seeds, false, out);
        } else if has_new {
            self.home.is_due = true;
            // After a failure the pause holds for new ones too, which a name may give without end.
            if self.home.backoff.is_zero() {
                self.home.next_try = now;
            }
        }
    }

    /// Has the node join at the next tick through `contacts` too, which an earlier run has left, and
    /// whenever it knows nobody again; the one to ask first comes first.
    pub fn recall(&mut self, now: Time, contacts: Vec<Contact>) {
        self.home.recalled = contacts;
        if self.has_recalled() {
            self.home.is_due = true;
            self.join_anew(now);
        }
    }

    /// Has the node do at the next tick what it would do after a restart, because time has passed in
    /// which it could do nothing: it joins through its seeds, whoever is known, and announces all
    /// memberships. What `now` has made due needs no word.
    pub fn resumed(&mut self, now: Time) {
        self.home.is_due = true;
        self.home.backoff = Duration::ZERO;
        self.home.next_try = now;
        self.renew_memberships(now);
    }

    /// The contacts to [`Engine::recall`] in a later run, `max` at most, the one to ask first first.
    ///
    /// Those that answered last come first: they are the likeliest to be there still, and a join asks
    /// in this order. Then come those that fell silent within a day, and then those recalled in this
    /// run that nobody has heard of since, so that a run in which nothing answers loses nothing.
    pub fn remembered(&mut self, now: Time, max: usize) -> Vec<Contact> {
        let mut listed: Vec<&Entry> = self.table.entries().collect();
        listed.sort_by_key(|entry| (entry.is_reliable(), entry.seen));
        let mut contacts: Vec<Contact> = listed.iter().rev().map(|entry| entry.contact).collect();
        contacts.extend(self.table.dropped(now));
        contacts.extend(&self.home.recalled);
        let mut known = BTreeSet::new();
        contacts.retain(|contact| known.insert(contact.endpoint));
        contacts.truncate(max);
        contacts
    }
}

impl Engine {
    fn begin_join(
        &mut self,
        now: Time,
        join: Join,
        timeout: Option<Duration>,
        out: &mut Outbox,
    ) -> OpId {
        let op = self.begin_lookup(now, self.id, Goal::Join(join), timeout);
        self.end_overdue(now);
        self.table.touch(now, &self.id);
        self.greet(now, op, out);
        self.advance(now, op, out);
        op
    }

    /// Has the next tick begin a join in the place of one that is under way: that one does not know
    /// every contact.
    fn join_anew(&mut self, now: Time) {
        self.home.next_try = now;
        if let Some(join) = self.home.join.take() {
            self.remove(join);
        }
    }

    /// Asks the seeds of a join, a few at once.
    pub(super) fn greet(&mut self, now: Time, op: OpId, out: &mut Outbox) {
        // Each may be repeated while it is open. Half of the room for requests is kept for what
        // callers want.
        let at_once = GREETINGS.min(self.config.open_requests / 4);
        loop {
            let own_id = self.id;
            let Some(join) = self.lookup(op).and_then(LookupTask::join) else {
                return;
            };
            let is_unasked = |&(_, state): &(Endpoint, SeedState)| state == SeedState::Unasked;
            let Some(at) = join.seeds.iter().position(is_unasked) else {
                return;
            };
            // The named ones do not wait for the others.
            let ahead = if at < join.named { &join.seeds[..join.named] } else { &join.seeds[..] };
            let asking = ahead.iter().filter(|(_, state)| *state == SeedState::Asking).count();
            if asking >= at_once {
                return;
            }
            let (to, state) = &mut join.seeds[at];
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

    /// How often a seed will have been asked with the next question, if it is asked once more.
    pub(super) fn next_attempt(&mut self, op: OpId, endpoint: Endpoint) -> Option<u8> {
        let join = self.lookup(op).and_then(LookupTask::join)?;
        let at = join.seeds.iter().position(|(seed, _)| *seed == endpoint)?;
        let asked = match join.seeds[at].1 {
            SeedState::Late(asked) => asked,
            _ => 1,
        };
        let max = if at < join.named { NAMED_ATTEMPTS } else { OTHER_ATTEMPTS };
        (asked < max).then_some(asked + 1)
    }

    pub(super) fn settle_seed(&mut self, op: OpId, endpoint: Endpoint, settled: SeedState) {
        let enough = self.config.k;
        let Some(join) = self.lookup(op).and_then(LookupTask::join) else {
            return;
        };
        if let Some((_, state)) = join.seeds.iter_mut().find(|(seed, _)| *seed == endpoint) {
            // Whoever answered once is there, though a repeated question may be left open.
            if *state != SeedState::Answered {
                *state = settled;
            }
        }
        if join.answered() >= enough {
            join.spare_others();
        }
    }

    /// Looks up an id in each bucket that the lookup of the own id left thin.
    pub(super) fn refresh_after_join(&mut self, now: Time, op: OpId, out: &mut Outbox) {
        let thin = self.table.thin_buckets();
        if let Some(join) = self.lookup(op).and_then(LookupTask::join) {
            join.to_refresh = Some(if join.answered() > 0 { thin } else { Vec::new() });
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
            self.start_refresh(now, target, Some(op), out);
        }
    }

    /// Whether lookups wait because nobody is known yet and a join is to change that.
    pub(super) fn is_joining(&self) -> bool {
        let home = &self.home;
        self.table.is_empty()
            && (home.expects_more || !home.seeds.is_empty() || self.has_recalled())
    }

    /// Whether there are contacts of an earlier run to ask.
    fn has_recalled(&self) -> bool {
        self.home.recalled.iter().any(|contact| self.reaches(&contact.endpoint))
    }

    /// Joins through the home contacts, and those known before, when the table is empty or some were
    /// never asked; lets lookups go that waited for it.
    pub(super) fn rejoin(&mut self, now: Time, out: &mut Outbox) {
        if self.next_rejoin().is_some_and(|at| at <= now) {
            self.home.is_due = false;
            let known_before = self.known_before(now);
            let join = Join::new(self.home.seeds.clone(), known_before, false);
            // Known before it begins, for a join that nobody can be asked for ends at once.
            self.home.join = Some(self.next_op + 1);
            self.begin_join(now, join, None, out);
        }
        if self.must_release() {
            for op in std::mem::take(&mut self.home.held) {
                self.launch(now, op, out);
            }
        }
    }

    /// The contacts known before that a join asks: all, or a few of them at random after a failure.
    fn known_before(&mut self, now: Time) -> Vec<Endpoint> {
        let mut known: Vec<Endpoint> =
            self.table.dropped(now).map(|contact| contact.endpoint).collect();
        let recalled = self.home.recalled.iter().map(|contact| contact.endpoint);
        known.extend(recalled.filter(|endpoint| self.reaches(endpoint)));
        if self.home.backoff > BACKOFF_MIN && known.len() > ASKED_AGAIN {
            for at in 0..ASKED_AGAIN {
                let rest = (known.len() - at) as u64;
                known.swap(at, at + (self.rng.next_u64() % rest) as usize);
            }
            known.truncate(ASKED_AGAIN);
        }
        known
    }

    /// Whether lookups are held that need not wait any more.
    pub(super) fn must_release(&self) -> bool {
        !self.home.held.is_empty() && !self.is_joining()
    }

    pub(super) fn next_rejoin(&self) -> Option<Time> {
        let home = &self.home;
        let is_wanted = home.join.is_none() && (home.is_due || self.table.is_empty());
        let knows_where =
            || !home.seeds.is_empty() || self.table.has_dropped() || self.has_recalled();
        (is_wanted && knows_where()).then_some(home.next_try)
    }

    pub(super) fn came_home(&mut self, now: Time, seeds: &[(Endpoint, SeedState)]) {
        self.home.join = None;
        self.sort_recalled(now, seeds);
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

    /// Forgets the recalled contacts that have answered, and takes those that were silent for
    /// dropped ones. Where nobody has answered, silence proves nothing.
    fn sort_recalled(&mut self, now: Time, seeds: &[(Endpoint, SeedState)]) {
        if seeds.iter().all(|(_, state)| *state != SeedState::Answered) {
            return;
        }
        let states: BTreeMap<Endpoint, SeedState> = seeds.iter().copied().collect();
        let state = |contact: &Contact| states.get(&contact.endpoint).copied();
        let is_open = |contact: &Contact| {
            matches!(state(contact), None | Some(SeedState::Unasked | SeedState::Asking))
        };
        let recalled = std::mem::take(&mut self.home.recalled);
        let (open, settled): (Vec<_>, Vec<_>) = recalled.into_iter().partition(is_open);
        self.home.recalled = open;
        // The first of them, which is the likeliest to come back, as the latest.
        for contact in settled.into_iter().rev() {
            if state(&contact) != Some(SeedState::Answered) {
                self.table.remember(now, contact);
            }
        }
    }
}

impl Join {
    /// One that asks all of `named`, and of `others` as many as it takes.
    fn new(named: Vec<Endpoint>, others: Vec<Endpoint>, expects_more: bool) -> Self {
        let mut known = BTreeSet::new();
        let mut distinct = |seeds: Vec<Endpoint>| {
            let fresh = seeds.into_iter().filter(|seed| known.insert(*seed));
            fresh.map(|seed| (seed, SeedState::Unasked)).collect::<Seeds>()
        };
        let mut seeds = distinct(named);
        let named = seeds.len();
        seeds.extend(distinct(others));
        Self { seeds, named, expects_more, to_refresh: None, refreshing: 0 }
    }

    /// Has it ask more in any case, each that is new, once.
    fn add_named(&mut self, seeds: Vec<Endpoint>) {
        for seed in seeds {
            let known = self.seeds.iter().position(|(known, _)| *known == seed);
            let state = match known {
                Some(at) if at < self.named => continue,
                Some(at) => self.seeds.remove(at).1,
                None => SeedState::Unasked,
            };
            self.seeds.insert(self.named, (seed, state));
            self.named += 1;
        }
    }

    fn answered(&self) -> usize {
        self.seeds.iter().filter(|(_, state)| *state == SeedState::Answered).count()
    }

    /// Leaves out the others than the named seeds that were not asked yet.
    fn spare_others(&mut self) {
        let mut at = 0;
        self.seeds.retain(|(_, state)| {
            at += 1;
            at <= self.named || *state != SeedState::Unasked
        });
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
