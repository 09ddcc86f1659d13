//! Senders of requests that wait to be asked whether they are there. Who is one, and what an answer
//! means, is decided elsewhere.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rand_core::Rng;

use crate::config::Config;
use crate::time::Time;
use crate::wire::message::{Contact, Endpoint};

/// So many candidates are of one network: an IPv4 /24 or an IPv6 /48.
const NETWORK_MAX: usize = 2;
/// A host that has proved its address is asked at once, but not again in this time, and so many hosts
/// in it.
const PROOF_PAUSE: Duration = Duration::from_secs(60);
const PROVED_MAX: usize = 256;

/// The candidates of one node: they are asked, a few a second, and listed once they answer.
///
/// Who has the first place in line is asked first. Where there is no place for another, it takes that
/// of one chosen at random, so that nobody keeps others out by being early, and a flood gets no more
/// than its share of the packets:
///
/// 1. Of a host, which is an IPv4 address or an IPv6 /64, there is one candidate.
/// 2. Of an IPv4 /24 or an IPv6 /48 there are two.
/// 3. In all there are `Config.candidates`.
pub struct Candidates {
    /// The hosts of `waiting`, each once: the first is asked first.
    line: VecDeque<Endpoint>,
    /// By [`Endpoint::same_host`].
    waiting: BTreeMap<Endpoint, Contact>,
    /// When the last ones were asked, the oldest first; never more than `pings_per_second`.
    asked: VecDeque<Time>,
    /// The hosts that were asked at once lately, the oldest first.
    proved: VecDeque<(Time, Endpoint)>,
    line_max: usize,
    pings_per_second: usize,
}

impl Candidates {
    const PING_WINDOW: Duration = Duration::from_secs(1);

    pub(super) fn new(config: &Config) -> Self {
        Self {
            line: VecDeque::new(),
            waiting: BTreeMap::new(),
            asked: VecDeque::new(),
            proved: VecDeque::new(),
            line_max: config.candidates,
            pings_per_second: config.candidate_pings,
        }
    }

    /// Takes a sender in; `false` where another candidate loses its place to it.
    pub fn push(&mut self, contact: Contact, rng: &mut impl Rng) -> bool {
        let host = *contact.endpoint.same_host().start();
        if let Some(waiting) = self.waiting.get_mut(&host) {
            return std::mem::replace(waiting, contact).endpoint == contact.endpoint;
        }
        let place = self.crowded(&contact.endpoint, rng).or_else(|| {
            let is_full = self.line.len() >= self.line_max;
            is_full.then(|| random(rng, self.line.len()))
        });
        self.take_place(place, host, contact);
        place.is_none()
    }

    /// The same for a sender whose id nobody else can write: of such an id there is one candidate.
    pub fn push_known(&mut self, contact: Contact, rng: &mut impl Rng) -> bool {
        let is_same = |other: &Contact| other.id == contact.id;
        let known = self.waiting.iter().find(|(_, other)| is_same(other)).map(|(host, _)| *host);
        let host = *contact.endpoint.same_host().start();
        match known.filter(|known| *known != host && !self.waiting.contains_key(&host)) {
            Some(known) => {
                self.take_place(self.place_of(&known), host, contact);
                false
            }
            None => self.push(contact, rng),
        }
    }

    /// Whether a sender that has proved its address may be asked at once; it then counts as asked.
    #[must_use]
    pub fn may_skip(&mut self, now: Time, endpoint: &Endpoint) -> bool {
        while self.proved.front().is_some_and(|(at, _)| now - *at >= PROOF_PAUSE) {
            self.proved.pop_front();
        }
        let host = *endpoint.same_host().start();
        let may =
            self.proved.len() < PROVED_MAX && self.proved.iter().all(|(_, known)| *known != host);
        if may {
            self.proved.push_back((now, host));
        }
        may
    }

    /// The next one to ask at `now`, to be called until it gives `None`.
    #[must_use]
    pub fn next(&mut self, now: Time) -> Option<Contact> {
        if self.next_at()? > now {
            return None;
        }
        self.waiting.remove(&self.line.pop_front()?)
    }

    /// Notes that a candidate is asked at `now`: it counts against the rate.
    pub fn asked(&mut self, now: Time) {
        if self.asked.len() >= self.pings_per_second {
            self.asked.pop_front();
        }
        self.asked.push_back(now);
    }

    /// When [`Candidates::next`] gives one.
    pub fn next_at(&self) -> Option<Time> {
        if self.line.is_empty() {
            return None;
        }
        let oldest = self.asked.front().filter(|_| self.asked.len() >= self.pings_per_second);
        Some(oldest.map_or(Time::ZERO, |&at| at + Self::PING_WINDOW))
    }

    /// The place in line of a random candidate of its network, where that has all that it may have.
    fn crowded(&self, endpoint: &Endpoint, rng: &mut impl Rng) -> Option<usize> {
        let mut hosts = self.waiting.range(endpoint.same_network()).map(|(host, _)| *host);
        let first = hosts.next()?;
        let others: [Endpoint; NETWORK_MAX] = [first, hosts.next()?];
        self.place_of(&others[random(rng, NETWORK_MAX)])
    }

    fn place_of(&self, host: &Endpoint) -> Option<usize> {
        self.line.iter().position(|other| other == host)
    }

    /// Puts a candidate into a place in line, or at its end.
    fn take_place(&mut self, place: Option<usize>, host: Endpoint, contact: Contact) {
        match place {
            Some(place) => {
                let former = std::mem::replace(&mut self.line[place], host);
                self.waiting.remove(&former);
            }
            None => self.line.push_back(host),
        }
        self.waiting.insert(host, contact);
    }

    /// Panics where a cap is passed or the line is not of those who wait.
    pub(super) fn check_invariants(&self) {
        assert!(self.line.len() <= self.line_max, "more candidates than allowed");
        assert_eq!(self.line.len(), self.waiting.len());
        for (host, contact) in &self.waiting {
            assert!(self.line.contains(host) && host == contact.endpoint.same_host().start());
            let of_network = self.waiting.range(contact.endpoint.same_network()).count();
            assert!(of_network <= NETWORK_MAX, "{of_network} candidates of a network");
        }
        assert!(self.asked.len() <= self.pings_per_second);
        assert!(self.asked.iter().is_sorted());
        assert!(self.proved.len() <= PROVED_MAX);
    }
}

fn random(rng: &mut impl Rng, below: usize) -> usize {
    (rng.next_u64() % below as u64) as usize
}
