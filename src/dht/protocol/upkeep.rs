//! What a node does by itself to stay joined: it joins through its home contacts, refreshes buckets,
//! asks candidates and contacts whether they are there, and forgets old records.

use std::collections::BTreeSet;
use std::time::Duration;

use rand_core::Rng;

use super::engine::Engine;
use super::output::{Event, Outbox};
use crate::dht::requests::{Purpose, Question, Request};
use crate::dht::tasks::step::{SeedState, Seeds};
use crate::dht::tasks::{Join, Task, Walk};
use crate::time::Time;
use crate::wire::message::{Contact, Endpoint};

/// Contacts known before that a join asks after one has failed: few, for it is repeated as long as
/// the node is alone, and others may have their addresses by now.
const ASKED_AGAIN: usize = 32;
/// So often in the time in which every bucket is refreshed, so many contacts that fell silent are asked
/// again: few enough for whoever has one's address now, enough for two halves to find each other.
const DROPPED_ROUNDS: u32 = 4;
const DROPPED_GREETINGS: usize = 3;
/// How often a member of a topic asks one contact whether it is there, in a network of at most k others.
const WATCH_INTERVAL: Duration = Duration::from_secs(3);
/// How often old records are swept out, and what part of the topics at a time: all of them in the
/// default life of a record.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);
const SWEEP_SHARE: usize = 180;

/// Home.
impl Engine {
    /// Whether lookups wait because nobody is known yet and a join, or a beacon, is to change that.
    pub(super) fn is_joining(&self) -> bool {
        let home = &self.home;
        self.table.is_empty()
            && (home.expects_more
                || home.others().next().is_some()
                || self.has_recalled()
                || self.is_searching())
    }

    /// Whether there are contacts of an earlier run to ask.
    pub(super) fn has_recalled(&self) -> bool {
        self.home.recalled.iter().any(|contact| self.reaches(&contact.endpoint))
    }

    /// When the node joins by itself next.
    pub(super) fn next_join(&self) -> Option<Time> {
        let knows_where =
            || !self.home.seeds.is_empty() || self.table.has_dropped() || self.has_recalled();
        self.home.next_join(self.table.is_empty()).filter(|_| knows_where())
    }

    /// Whether lookups are held that need not wait any more.
    pub(super) fn must_release(&self) -> bool {
        !self.home.held.is_empty() && !self.is_joining()
    }

    /// Joins through the home contacts, and those known before, when the table is empty or some were
    /// never asked; lets lookups go that waited for it.
    pub(super) fn join_if_due(&mut self, now: Time, out: &mut Outbox) {
        if self.next_join().is_some_and(|at| at <= now) {
            let known_before = self.known_before(now);
            let seeds = self.home.seeds.clone();
            let join = Join::new(self.id, seeds, known_before, false, &self.config);
            self.table.touch(now, &self.id);
            let op = self.begin(now, Task::Join(Box::new(join)), None);
            // Known before it is run, for a join that nobody can be asked for ends at once.
            self.home.began(op);
            self.run(now, out);
        }
        if self.must_release() {
            std::mem::take(&mut self.home.held).into_iter().for_each(|op| self.stir(op));
            self.run(now, out);
        }
    }

    /// When it is looked next whether some of the home contacts are missing.
    pub(super) fn next_seed_check(&self) -> Option<Time> {
        self.home.next_check().filter(|_| !self.table.is_empty())
    }

    /// Asks the home contacts that are not listed, now and then for ever: one that comes up late may
    /// have a network of its own by then. Through one that has been silent the node joins; of one
    /// that answered lately it only wants to know that it is there.
    pub(super) fn check_seeds(&mut self, now: Time, out: &mut Outbox) {
        if self.next_seed_check().is_none_or(|at| at > now) {
            return;
        }
        let listed: BTreeSet<Endpoint> =
            self.table.entries().map(|entry| entry.contact.endpoint).collect();
        let missing = self.home.others().filter(|seed| !listed.contains(seed)).collect();
        let [silent, there] = self.home.split_missing(now, missing);
        for seed in there {
            self.ask(Request::to_endpoint(now, seed, Question::Ping, Purpose::Nothing), out);
        }
        if !silent.is_empty() {
            let join = Join::new(self.id, silent, Vec::new(), false, &self.config);
            let op = self.begin(now, Task::Join(Box::new(join)), None);
            self.home.check = Some(op);
            self.events.push_back(Event::Missing);
        }
        self.run(now, out);
    }

    /// Takes note of how a join through home contacts went that were missing.
    pub(super) fn seeds_checked(&mut self, now: Time, seeds: &Seeds) {
        self.home.check = None;
        self.home.sort_own(seeds);
        if seeds.iter().any(|(_, state)| *state == SeedState::Answered) {
            self.events.push_back(Event::Joined(self.table.len()));
            self.hurry_all(now);
        }
    }

    /// Takes note of how a join by itself went.
    pub(super) fn came_home(&mut self, now: Time, seeds: &Seeds) {
        self.home.sort_own(seeds);
        for silent in self.home.sort_recalled(seeds) {
            self.table.of_mut(&silent.endpoint).remember(now, silent);
        }
        self.events.push_back(match self.home.ended(now, self.table.is_empty()) {
            Some(wait) => Event::Alone { seeds: self.home.states(seeds), wait },
            None => Event::Joined(self.table.len()),
        });
    }

    /// The contacts known before that a join asks: all, or a few of them at random after a failure.
    fn known_before(&mut self, now: Time) -> Vec<Endpoint> {
        let mut known: Vec<Endpoint> =
            self.table.dropped(now).map(|contact| contact.endpoint).collect();
        let recalled = self.home.recalled.iter().map(|contact| contact.endpoint);
        known.extend(recalled.filter(|endpoint| self.reaches(endpoint)));
        if self.home.has_failed() && known.len() > ASKED_AGAIN {
            for at in 0..ASKED_AGAIN {
                let rest = (known.len() - at) as u64;
                known.swap(at, at + (self.rng.next_u64() % rest) as usize);
            }
            known.truncate(ASKED_AGAIN);
        }
        known
    }
}

/// The table.
impl Engine {
    /// Asks the candidates whose turn it is whether they are there.
    pub(super) fn ask_candidates(&mut self, now: Time, out: &mut Outbox) {
        while let Some(candidate) = self.guard.candidates().next(now) {
            if self.table.has_use_for(&candidate) && !self.requests.is_asking(candidate.endpoint) {
                self.guard.candidates().asked(now);
                self.greet(now, candidate, Purpose::Candidate, out);
            }
        }
    }

    /// Asks a listed contact whether it is still there.
    pub(super) fn check(&mut self, now: Time, listed: Contact, out: &mut Outbox) {
        if !self.requests.is_asking(listed.endpoint) {
            self.greet(now, listed, Purpose::Check, out);
        }
    }

    /// Asks a contact whether it is there; returns whether there was room for one more question.
    pub(super) fn greet(
        &mut self,
        now: Time,
        contact: Contact,
        purpose: Purpose,
        out: &mut Outbox,
    ) -> bool {
        self.ask(Request::to_contact(now, contact, Question::Ping, purpose), out)
    }

    /// Takes note that nobody answered a request in time.
    pub(super) fn expired(&mut self, now: Time, request: &Request, out: &mut Outbox) {
        self.counters.timeouts += 1;
        self.expire(request);
        if let Purpose::Op(op) = request.purpose
            && self.operations.get(op).is_none()
        {
            self.requests.end(op);
        }
        let is_proof = request.is_retry && self.last_arrival > request.sent;
        if let (true, Some(contact)) = (is_proof, request.contact()) {
            self.table.of_mut(&request.to).failed(now, &contact, request.sent);
            self.ask_claimant(now, request, out);
        }
    }

    /// Asks whoever claims from elsewhere to be the contact of a request that is silent.
    pub(super) fn ask_claimant(&mut self, now: Time, request: &Request, out: &mut Outbox) {
        let claimant = request.id.and_then(|id| self.doubts.claimant(now, &id));
        if let Some(claimant) = claimant.filter(|claimant| claimant.endpoint != request.to) {
            self.check(now, claimant, out);
        }
    }

    /// Asks the contact that was silent longest whether it is there, in a network that stores every
    /// topic everywhere: a node that begins anew and knows nobody can tell nobody.
    pub(super) fn watch(&mut self, now: Time, out: &mut Outbox) {
        if self.next_watch().is_none_or(|at| at > now) {
            return;
        }
        self.next_watch = now + WATCH_INTERVAL;
        let quietest = self.table.quietest();
        if let Some((_, contact)) = quietest.filter(|(seen, _)| now - *seen >= WATCH_INTERVAL) {
            self.check(now, contact, out);
        }
    }

    /// When a contact is to be asked next whether it is there.
    pub(super) fn next_watch(&self) -> Option<Time> {
        let is_small = (1..=self.config.k).contains(&self.table.most());
        (is_small && self.rounds.len() > 0).then_some(self.next_watch)
    }

    /// Looks up an id in a bucket that no lookup went through for long; one at a time, for peers can
    /// make up as many buckets as there may be.
    pub(super) fn refresh(&mut self, now: Time, out: &mut Outbox) {
        while self.next_refresh().is_some_and(|at| at <= now) {
            let random = self.random_id();
            let Some(target) = self.table.stale(now, &random) else {
                return;
            };
            let walk = Walk::to_nodes(target, &self.config);
            self.refreshing = Some(self.begin(now, Task::FindNode(Box::new(walk)), None));
            self.run(now, out);
            self.greet_dropped(now, out);
        }
    }

    /// When a bucket is to be refreshed next.
    pub(super) fn next_refresh(&self) -> Option<Time> {
        let may_start = !self.table.is_empty() && self.refreshing.is_none();
        may_start.then(|| self.table.next_stale())
    }

    /// Asks a few contacts that fell silent once whether they are there again: after a partition that
    /// has healed, both sides know each other by no one else.
    fn greet_dropped(&mut self, now: Time, out: &mut Outbox) {
        if now < self.next_greeting {
            return;
        }
        self.next_greeting = now + self.config.bucket_refresh / DROPPED_ROUNDS;
        let dropped: Vec<Contact> = self.table.dropped(now).collect();
        for _ in 0..DROPPED_GREETINGS.min(dropped.len()) {
            let contact = dropped[(self.rng.next_u64() % dropped.len() as u64) as usize];
            if !self.requests.is_asking(contact.endpoint) {
                self.greet(now, contact, Purpose::Candidate, out);
            }
        }
    }

    /// Sweeps old records out, a part of the topics at a time.
    pub(super) fn sweep(&mut self, now: Time) {
        if self.next_sweep_at().is_some_and(|at| at <= now) {
            self.next_sweep = now + SWEEP_INTERVAL;
            self.storage.sweep(now, self.config.topics.div_ceil(SWEEP_SHARE));
        }
    }

    /// When records are swept next.
    pub(super) fn next_sweep_at(&self) -> Option<Time> {
        (self.storage.records() > 0).then_some(self.next_sweep)
    }
}
