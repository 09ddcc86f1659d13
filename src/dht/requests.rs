//! The requests that wait for an answer: which reply is whose, how long to wait, what round trips
//! take. What an answer means is the owner's affair.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use thiserror::Error;

use crate::config::Config;
use crate::id::NodeId;
use crate::time::Time;
use crate::wire::message::{Body, Contact, Endpoint, Message, Token, TxId};

/// What was asked, as far as a reply must match it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// PING.
    Ping,
    /// FIND_NODE for the target.
    FindNode(NodeId),
    /// GET_PEERS of the topic.
    GetPeers(NodeId),
    /// ANNOUNCE_PEER.
    Announce(Announcement),
}

/// What an ANNOUNCE_PEER says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The topic.
    pub topic: NodeId,
    /// The peer's port; without one, the port that the packet comes from.
    pub port: Option<u16>,
    /// What the node asked gave for it.
    pub token: Option<Token>,
}

impl Question {
    /// The id that it looks for, where it does.
    pub fn target(&self) -> Option<NodeId> {
        match self {
            Question::FindNode(target) | Question::GetPeers(target) => Some(*target),
            Question::Ping | Question::Announce(_) => None,
        }
    }

    /// Whether `body` is of a type that answers this, about the same topic.
    fn is_answered_by(self, body: &Body<'_>) -> bool {
        match (self, body) {
            (Question::Ping, Body::Pong)
            | (
                Question::FindNode(_) | Question::GetPeers(_),
                Body::FoundNodes | Body::Error { .. },
            )
            | (Question::Announce(_), Body::Error { .. }) => true,
            (Question::GetPeers(asked), Body::Peers { topic }) => asked == *topic,
            (Question::Announce(announcement), Body::Announced { topic }) => {
                announcement.topic == *topic
            }
            _ => false,
        }
    }
}

/// Names an operation that a caller waits for.
pub type OpId = u64;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A query, announce, ping or greeting of this operation.
    Op(OpId),
    /// To learn whether a sender of requests is there, before it is listed.
    Candidate,
    /// To learn whether a listed contact is still there, before another takes its place.
    Check,
    /// Fire and forget.
    Nothing,
}

/// A request that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Where it went.
    pub to: Endpoint,
    /// Whose answer it waits for, where that is known.
    pub id: Option<NodeId>,
    /// What it asked.
    pub question: Question,
    /// What it is for.
    pub purpose: Purpose,
    /// When it went.
    pub sent: Time,
    /// Whether it repeats an unanswered one.
    pub is_retry: bool,
}

impl Request {
    /// A question to a contact, for the first time.
    pub fn to_contact(now: Time, contact: Contact, question: Question, purpose: Purpose) -> Self {
        let Contact { id, endpoint } = contact;
        Self { to: endpoint, id: Some(id), question, purpose, sent: now, is_retry: false }
    }

    /// A question to an address of which the id is not known, for the first time.
    pub fn to_endpoint(now: Time, to: Endpoint, question: Question, purpose: Purpose) -> Self {
        Self { to, id: None, question, purpose, sent: now, is_retry: false }
    }

    /// Who was asked, where the id was known.
    pub fn contact(&self) -> Option<Contact> {
        self.id.map(|id| Contact { id, endpoint: self.to })
    }

    /// The same question once more, for it was not answered.
    #[must_use]
    pub fn repeated(self, now: Time) -> Self {
        Self { sent: now, is_retry: true, ..self }
    }
}

/// As many requests are open as the configuration allows, and none of them is late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("too many requests wait for an answer")]
pub struct Full;

/// Something that time has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// The short wait is over: go on without the answer, which still counts if it comes. Every
    /// request that expires was late before.
    Late(Request),
    /// The answer is no longer accepted.
    Expired(Request),
}

/// The open requests of one node.
pub struct Requests {
    open: BTreeMap<TxId, Open>,
    /// Those of `open` whose short wait runs, by its end.
    waiting: BTreeSet<(Time, TxId)>,
    /// The others of `open`, by when their answer is no longer accepted.
    late: BTreeSet<(Time, TxId)>,
    /// One entry for each of `open`, the oldest of each endpoint first.
    by_endpoint: BTreeSet<(Endpoint, Time, TxId)>,
    echoed: RecentSet,
    rtt: Option<Rtt>,
    cap: usize,
    timeout: Duration,
    wait_min: Duration,
    wait_max: Duration,
}

struct Open {
    request: Request,
    /// When it is next due: its place in `waiting` or `late`.
    wake: Time,
}

impl Requests {
    /// No requests yet, with the limits of `config`.
    pub fn new(config: &Config) -> Self {
        Self {
            open: BTreeMap::new(),
            waiting: BTreeSet::new(),
            late: BTreeSet::new(),
            by_endpoint: BTreeSet::new(),
            echoed: RecentSet::default(),
            rtt: None,
            cap: config.open_requests,
            timeout: config.request_timeout,
            wait_min: config.short_wait_min,
            wait_max: config.short_wait_max,
        }
    }

    /// Notes that `request` goes out under `txid`, which is fresh; `known_rtt` is its contact's,
    /// where measured. At the cap, the oldest of those that are late is given up for it.
    ///
    /// # Errors
    ///
    /// [`Full`] at the cap where none is late.
    pub fn open(
        &mut self,
        txid: TxId,
        request: Request,
        known_rtt: Option<Duration>,
    ) -> Result<Option<Request>, Full> {
        let given_up = if self.open.len() >= self.cap {
            let &(_, longest) = self.late.first().ok_or(Full)?;
            self.close(longest)
        } else {
            self.close(txid)
        };
        // A seed may be far away, however near those are that were measured, and is waited for.
        let is_seed = request.id.is_none() && matches!(request.question, Question::FindNode(_));
        let wait = if is_seed { self.longest_wait() } else { self.short_wait(known_rtt) };
        let wake = request.sent + wait.min(self.timeout);
        self.waiting.insert((wake, txid));
        self.by_endpoint.insert((request.to, request.sent, txid));
        self.open.insert(txid, Open { request, wake });
        Ok(given_up.map(|open| open.request))
    }

    /// Whether a request to `endpoint` is open.
    pub fn is_asking(&self, endpoint: Endpoint) -> bool {
        self.oldest_to(endpoint).next().is_some()
    }

    /// The request that `reply` from `from` answers, which is closed thereby, and its round trip.
    ///
    /// `trusts_legacy` says whether an answer without a transaction id is acceptable from there. A
    /// reply that does not match leaves everything as it was.
    #[must_use]
    pub fn answer(
        &mut self,
        now: Time,
        from: Endpoint,
        reply: &Message<'_>,
        trusts_legacy: bool,
    ) -> Option<(Request, Duration)> {
        let txid = match reply.txid() {
            Some(txid) => txid,
            None if trusts_legacy && !self.echoed.contains(&from) => self
                .oldest_to(from)
                .find(|txid| self.open[txid].request.question.is_answered_by(&reply.body))?,
            None => return None,
        };
        let Request { to, id, question, sent, .. } = self.open.get(&txid)?.request;
        // Whoever repeats the transaction id is there, and the one who was asked for is not.
        let matches = to == from
            && question.is_answered_by(&reply.body)
            && (reply.txid().is_some() || id.is_none_or(|id| id == reply.sender));
        if !matches {
            return None;
        }
        // Only where its absence would be accepted does it matter who is able to echo one.
        if trusts_legacy && reply.txid().is_some() {
            self.echoed.insert(from);
        }
        let round_trip = now - sent;
        match &mut self.rtt {
            Some(rtt) => rtt.update(round_trip),
            None => self.rtt = Some(Rtt::first(round_trip)),
        }
        self.close(txid).map(|open| (open.request, round_trip))
    }

    /// The next request that time has overtaken at `now`, to be called until it gives `None`.
    #[must_use]
    pub fn due(&mut self, now: Time) -> Option<Due> {
        let is_due = |first: Option<&(Time, TxId)>| first.filter(|(at, _)| *at <= now).copied();
        if let Some((wake, txid)) = is_due(self.waiting.first()) {
            let open = self.open.get_mut(&txid).expect("whatever waits is open");
            open.wake = open.request.sent + self.timeout;
            self.waiting.remove(&(wake, txid));
            self.late.insert((open.wake, txid));
            return Some(Due::Late(open.request));
        }
        let (_, txid) = is_due(self.late.first())?;
        self.close(txid).map(|open| Due::Expired(open.request))
    }

    /// When [`Requests::due`] has something next.
    pub fn next_wake(&self) -> Option<Time> {
        [self.waiting.first(), self.late.first()].into_iter().flatten().map(|&(at, _)| at).min()
    }

    /// Whether one more may be opened.
    pub fn has_room(&self) -> bool {
        self.open.len() < self.cap || !self.late.is_empty()
    }

    /// How many requests wait.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// The smoothed round trip over all contacts, where one was measured.
    pub fn smoothed_rtt(&self) -> Option<Duration> {
        self.rtt.map(|rtt| rtt.smoothed)
    }

    /// How long a lookup holds a place for an answer: a few round trips of the contact asked where
    /// they are known, else as long as nearly all answers take (RFC 6298). For a repetition no
    /// longer: an answer counts after that too, and a longer wait only holds the lookup up.
    fn short_wait(&self, known_rtt: Option<Duration>) -> Duration {
        let wait = match (known_rtt, self.rtt) {
            (Some(known), _) => known * 3,
            (None, Some(rtt)) => rtt.smoothed + rtt.variation * 4,
            // The first contact may be the slowest, and nobody waits behind it.
            (None, None) => return self.longest_wait(),
        };
        wait.clamp(self.wait_min, self.wait_max)
    }

    fn longest_wait(&self) -> Duration {
        self.wait_max * 2
    }

    fn oldest_to(&self, endpoint: Endpoint) -> impl Iterator<Item = TxId> {
        self.by_endpoint
            .range((endpoint, Time::ZERO, TxId([0; 8]))..)
            .take_while(move |(to, ..)| *to == endpoint)
            .map(|&(.., txid)| txid)
    }

    fn close(&mut self, txid: TxId) -> Option<Open> {
        let open = self.open.remove(&txid)?;
        self.waiting.remove(&(open.wake, txid));
        self.late.remove(&(open.wake, txid));
        self.by_endpoint.remove(&(open.request.to, open.request.sent, txid));
        Some(open)
    }

    /// Panics where the three indexes disagree or the cap is passed.
    pub fn check_invariants(&self) {
        assert!(self.open.len() <= self.cap, "more open requests than allowed");
        assert_eq!(self.open.len(), self.waiting.len() + self.late.len());
        assert_eq!(self.open.len(), self.by_endpoint.len());
        for (txid, open) in &self.open {
            let place = (open.wake, *txid);
            assert!(self.waiting.contains(&place) || self.late.contains(&place));
            assert!(self.by_endpoint.contains(&(open.request.to, open.request.sent, *txid)));
        }
        assert!(self.echoed.len() <= 2 * RecentSet::GENERATION);
    }
}

/// Round trips, smoothed as in RFC 6298.
#[derive(Clone, Copy)]
struct Rtt {
    smoothed: Duration,
    variation: Duration,
}

impl Rtt {
    fn first(round_trip: Duration) -> Self {
        Self { smoothed: round_trip, variation: round_trip / 2 }
    }

    fn update(&mut self, round_trip: Duration) {
        self.variation = (self.variation * 3 + self.smoothed.abs_diff(round_trip)) / 4;
        self.smoothed = (self.smoothed * 7 + round_trip) / 8;
    }
}

/// Endpoints seen lately: at least the last [`RecentSet::GENERATION`], at most twice as many.
#[derive(Default)]
struct RecentSet {
    young: BTreeSet<Endpoint>,
    old: BTreeSet<Endpoint>,
}

impl RecentSet {
    /// More than a routing table and a few lookups name.
    const GENERATION: usize = 2_048;

    fn insert(&mut self, endpoint: Endpoint) {
        if self.young.insert(endpoint) && self.young.len() == Self::GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
    }

    fn contains(&self, endpoint: &Endpoint) -> bool {
        self.young.contains(endpoint) || self.old.contains(endpoint)
    }

    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}
