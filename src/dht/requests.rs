//! The requests that wait for an answer: which reply is whose, how long to wait, what round trips
//! take. What an answer means is the owner's affair.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use thiserror::Error;

use crate::config::Config;
use crate::id::NodeId;
use crate::time::Time;
use crate::wire::message::{Body, Contact, Endpoint, Message, Part, Token, TxId};

/// What was asked, as far as a reply must match it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// PING.
    Ping,
    /// FIND_NODE for the target.
    FindNode(NodeId),
    /// GET_PEERS of the topic, for this part of its peers.
    GetPeers(NodeId, Part),
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
            Question::FindNode(target) | Question::GetPeers(target, _) => Some(*target),
            Question::Ping | Question::Announce(_) => None,
        }
    }

    /// The part of a topic's peers that it asks for, where it does not ask for all.
    pub fn part(&self) -> Option<Part> {
        match self {
            Question::GetPeers(_, part) if *part != Part::WHOLE => Some(*part),
            _ => None,
        }
    }

    /// Whether `body` is of a type that answers this, about the same topic.
    fn is_answered_by(self, body: &Body<'_>) -> bool {
        match (self, body) {
            (Question::Ping, Body::Pong)
            | (
                Question::FindNode(_) | Question::GetPeers(..),
                Body::FoundNodes | Body::Error { .. },
            )
            | (Question::Announce(_), Body::Error { .. }) => true,
            (Question::GetPeers(asked, _), Body::Peers { topic }) => asked == *topic,
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
    /// The same of a node on the link that was heard in the group, or that answers a beacon.
    Neighbor,
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
    /// The least time after which it is late: repetitions that go on pause longer and longer.
    pub pause: Duration,
}

impl Request {
    /// A question to a contact, for the first time.
    pub fn to_contact(now: Time, contact: Contact, question: Question, purpose: Purpose) -> Self {
        let Contact { id, endpoint } = contact;
        Self { id: Some(id), ..Self::to_endpoint(now, endpoint, question, purpose) }
    }

    /// A question to an address of which the id is not known, for the first time.
    pub fn to_endpoint(now: Time, to: Endpoint, question: Question, purpose: Purpose) -> Self {
        let (is_retry, pause) = (false, Duration::ZERO);
        Self { to, id: None, question, purpose, sent: now, is_retry, pause }
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
    /// So late that it counts as silence. The answer is no longer accepted, but for that to a
    /// question of an operation, which is until [`Requests::end`].
    Expired(Request),
}

/// Of one operation, so many questions that have expired may still be answered: a link that is that
/// slow brings few at a time, and among hostile nodes a join leaves thousands.
const OVERDUE_MAX: usize = 32;

/// No network takes longer.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(60);

/// The open requests of one node.
pub struct Requests {
    open: BTreeMap<TxId, Open>,
    /// Those of `open` whose short wait runs, by its end.
    waiting: BTreeSet<(Time, TxId)>,
    /// Those of `open` that are late, by when they expire.
    late: BTreeSet<(Time, TxId)>,
    /// How many of `waiting` went to each endpoint, where any did.
    waiting_to: BTreeMap<Endpoint, usize>,
    /// Those of `open` that have expired, by the operation whose end they wait for and by when they
    /// expired.
    overdue: BTreeSet<(OpId, Time, TxId)>,
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
            waiting_to: BTreeMap::new(),
            overdue: BTreeSet::new(),
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
    /// where measured. At the cap, one that has expired is given up for it, or the oldest of those that
    /// are late.
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
        let mut given_up = None;
        if self.open.len() >= self.cap {
            match self.overdue.first() {
                // That it has expired is told already.
                Some(&(.., expired)) => drop(self.close(expired)),
                None => given_up = self.close(self.late.first().ok_or(Full)?.1),
            }
        }
        let wake = request.sent + self.wait(&request, known_rtt);
        self.waiting.insert((wake, txid));
        *self.waiting_to.entry(request.to).or_default() += 1;
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
            None if trusts_legacy && !self.echoed.contains(&from) => self.legacy(from, reply)?,
            None => return None,
        };
        let Request { to, id, question, sent, purpose, .. } = self.open.get(&txid)?.request;
        let round_trip = now - sent;
        // Its time may be over before anybody has looked, as after a suspend. An operation waits for
        // as long as it is under way.
        let is_awaited = matches!(purpose, Purpose::Op(_)) || round_trip < self.timeout;
        // Whoever repeats the transaction id is there, and the one who was asked for is not. On the
        // open Internet a PONG alone shows it: colluders would answer each lookup under an id that is
        // made for its target.
        let may_differ = reply.txid().is_some() && (question == Question::Ping || to.is_local());
        let matches = to == from
            && is_awaited
            && question.is_answered_by(&reply.body)
            && (may_differ || id.is_none_or(|id| id == reply.sender));
        if !matches {
            return None;
        }
        // Only where its absence would be accepted does it matter who is able to echo one.
        if trusts_legacy && reply.txid().is_some() {
            self.echoed.insert(from);
        }
        match &mut self.rtt {
            // That is no round trip but a suspend.
            _ if round_trip > ROUND_TRIP_MAX => {}
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
            let request = open.request;
            open.wake = wake.max(request.sent + self.timeout);
            self.late.insert((open.wake, txid));
            self.stop_waiting(wake, txid, request.to);
            return Some(Due::Late(request));
        }
        let (wake, txid) = is_due(self.late.first())?;
        let request = self.open[&txid].request;
        if let Purpose::Op(op) = request.purpose {
            self.late.remove(&(wake, txid));
            self.overdue.insert((op, wake, txid));
            let of_op = self.overdue_of(op);
            if let (true, Some(&oldest)) = (of_op.len() > OVERDUE_MAX, of_op.first()) {
                self.close(oldest);
            }
        } else {
            self.close(txid);
        }
        Some(Due::Expired(request))
    }

    /// Notes that an operation is over: its questions that have expired are closed.
    pub fn end(&mut self, op: OpId) {
        for expired in self.overdue_of(op) {
            self.close(expired);
        }
    }

    /// Closes the newest request to an endpoint, to which the system did not send it.
    pub fn unsent(&mut self, to: Endpoint) -> Option<Request> {
        let newest = self.oldest_to(to).last()?;
        self.close(newest).map(|open| open.request)
    }

    /// The open request with this transaction id.
    pub fn get(&self, txid: TxId) -> Option<Request> {
        self.open.get(&txid).map(|open| open.request)
    }

    /// Closes the request with this transaction id, whoever was asked.
    pub fn take(&mut self, txid: TxId) -> Option<Request> {
        self.close(txid).map(|open| open.request)
    }

    /// When [`Requests::due`] has something next.
    pub fn next_wake(&self) -> Option<Time> {
        [self.waiting.first(), self.late.first()].into_iter().flatten().map(|&(at, _)| at).min()
    }

    /// How many are within their short wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many to `endpoint` are within their short wait.
    pub fn waiting_to(&self, endpoint: &Endpoint) -> usize {
        self.waiting_to.get(endpoint).copied().unwrap_or(0)
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
    /// longer: an answer counts after that too, and a longer wait only holds the lookup up. The
    /// limits hold unless the round trips measured are longer themselves.
    fn wait(&self, request: &Request, known_rtt: Option<Duration>) -> Duration {
        // A seed may be far away, however near those are that were measured, and is waited for.
        let is_seed = request.id.is_none() && matches!(request.question, Question::FindNode(_));
        let within = |wait: Duration| wait.clamp(self.wait_min, self.wait_max);
        let wait = match (known_rtt, self.rtt) {
            (Some(known), _) if !is_seed => within(known * 3),
            (None, Some(rtt)) if !is_seed => within(rtt.smoothed + rtt.variation * 4),
            // The first contact may be the slowest, and nobody waits behind it.
            _ => self.wait_max * 2,
        };
        let measured = known_rtt.or(self.smoothed_rtt()).map(|rtt| rtt * 3 / 2);
        let slow = measured.filter(|slow| *slow > self.wait_max).unwrap_or_default();
        wait.min(self.timeout).max(slow).max(request.pause)
    }

    /// The request that a reply without a transaction id answers: the oldest that waits, or the newest
    /// that has expired.
    fn legacy(&self, from: Endpoint, reply: &Message<'_>) -> Option<TxId> {
        // It shows no more than the request that made a candidate of somebody: not that anything is
        // received there, so it makes a contact of a local one at the most.
        let is_answered = |txid: &TxId| {
            let Request { question, purpose, .. } = self.open[txid].request;
            let is_stranger = purpose == Purpose::Candidate && !from.is_local();
            question.is_answered_by(&reply.body) && !is_stranger
        };
        let is_overdue = |txid: &TxId| match self.open[txid].request.purpose {
            Purpose::Op(op) => self.overdue.contains(&(op, self.open[txid].wake, *txid)),
            _ => false,
        };
        let (expired, waiting): (Vec<TxId>, Vec<TxId>) =
            self.oldest_to(from).filter(is_answered).partition(is_overdue);
        waiting.first().or(expired.last()).copied()
    }

    /// The questions of an operation that have expired, the oldest first.
    fn overdue_of(&self, op: OpId) -> Vec<TxId> {
        let of_op = self.overdue.range((op, Time::ZERO, TxId([0; 8]))..);
        of_op.take_while(|(other, ..)| *other == op).map(|&(.., txid)| txid).collect()
    }

    fn oldest_to(&self, endpoint: Endpoint) -> impl Iterator<Item = TxId> {
        self.by_endpoint
            .range((endpoint, Time::ZERO, TxId([0; 8]))..)
            .take_while(move |(to, ..)| *to == endpoint)
            .map(|&(.., txid)| txid)
    }

    fn close(&mut self, txid: TxId) -> Option<Open> {
        let open = self.open.remove(&txid)?;
        self.stop_waiting(open.wake, txid, open.request.to);
        self.late.remove(&(open.wake, txid));
        if let Purpose::Op(op) = open.request.purpose {
            self.overdue.remove(&(op, open.wake, txid));
        }
        self.by_endpoint.remove(&(open.request.to, open.request.sent, txid));
        Some(open)
    }

    fn stop_waiting(&mut self, wake: Time, txid: TxId, to: Endpoint) {
        if !self.waiting.remove(&(wake, txid)) {
            return;
        }
        if let Entry::Occupied(mut count) = self.waiting_to.entry(to) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    /// Panics where the indexes disagree or the cap is passed.
    pub fn check_invariants(&self) {
        assert!(self.open.len() <= self.cap, "more open requests than allowed");
        let placed = self.waiting.len() + self.late.len() + self.overdue.len();
        assert_eq!(self.open.len(), placed);
        assert_eq!(self.open.len(), self.by_endpoint.len());
        assert_eq!(self.waiting.len(), self.waiting_to.values().sum::<usize>());
        assert!(self.waiting_to.values().all(|count| *count > 0));
        for (txid, open) in &self.open {
            let place = (open.wake, *txid);
            let is_overdue = matches!(open.request.purpose,
                Purpose::Op(op) if self.overdue.contains(&(op, open.wake, *txid)));
            assert!(is_overdue || self.waiting.contains(&place) || self.late.contains(&place));
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
