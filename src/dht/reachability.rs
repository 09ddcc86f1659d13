//! Whether strangers reach this node: what proves it, and when to ask for a proof. Who is asked, and
//! what follows, is the engine's affair.

use std::collections::VecDeque;
use std::time::Duration;

use super::contacted::Contacted;
use crate::time::Time;
use crate::wire::message::{Endpoint, TxId};

/// A proof is good for so long; packets of strangers renew it in the meantime.
const PROOF_LIFE: Duration = Duration::from_secs(1_800);
/// A proof that is so old is worth asking for another: every bucket has been refreshed since, and no
/// stranger has come by.
const PROOF_RENEWAL: Duration = Duration::from_secs(1_200);
/// While a proof is this young, another changes nothing.
const PROOF_FRESH: Duration = Duration::from_secs(60);
/// So long a PING that a question is to bring may take: three ways, and a busy node.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// Questions in a row, and between two such series a pause that doubles.
const SERIES: u32 = 4;
const PAUSE_MIN: Duration = Duration::from_secs(60);
const PAUSE_MAX: Duration = Duration::from_secs(1_800);
/// So many questions in a row that were passed on and brought nothing say that nobody gets through.
/// Where a fifth of the datagrams is lost and a tenth of the nodes asked last is dead, eight fail by
/// chance once in a thousand times.
const FAILURES_MAX: u32 = 8;

/// What an engine keeps of how it is reached from outside.
pub struct Outside {
    pub contacted: Contacted,
    pub reachability: Reachability,
    /// PROBEs passed on for others, and PINGs sent because of those that others have passed on.
    pub passed: Quota,
    pub sent: Quota,
    /// Whether it asks others not to list it; `None` where that depends on whether they reach it.
    pub read_only: Option<bool>,
    /// The address of this host from which it sends to the Internet, of a node bound to all of them.
    pub host: Option<Endpoint>,
    /// Whether the network is too small to do without a node, reached or not; `None` before it has joined.
    pub is_needed: Option<bool>,
}

impl Outside {
    pub fn new(now: Time) -> Self {
        Self {
            contacted: Contacted::new(now),
            reachability: Reachability::default(),
            passed: Quota::default(),
            sent: Quota::default(),
            read_only: None,
            host: None,
            is_needed: None,
        }
    }

    /// Takes note that somebody there is asked something, or told unasked.
    pub fn mark(&mut self, to: &Endpoint) {
        if !to.is_local() {
            self.contacted.mark(to);
        }
    }

    /// Takes note that something is sent there.
    pub fn remark(&mut self, to: &Endpoint) {
        if !to.is_local() {
            self.contacted.remark(to);
        }
    }

    /// Panics where a cap is passed.
    pub fn check_invariants(&self) {
        self.contacted.check_invariants();
        self.passed.check_invariants();
        self.sent.check_invariants();
    }
}

/// What one node knows of it.
pub struct Reachability {
    /// `None` before anything is known.
    status: Option<bool>,
    /// When a packet last came in that nobody had been given leave to send.
    proved: Option<Time>,
    question: Option<Question>,
    /// Questions in a row that were passed on and brought nothing.
    failures: u32,
    /// Questions of this series.
    asked: u32,
    /// When the next question is due; none before a public node has answered.
    next: Option<Time>,
    pause: Duration,
}

/// A question under way.
struct Question {
    /// The transaction id of the PING that is to come.
    txid: TxId,
    /// Whether the node asked has passed it on.
    is_passed: bool,
    ends: Time,
}

impl Default for Reachability {
    fn default() -> Self {
        Self {
            status: None,
            proved: None,
            question: None,
            failures: 0,
            asked: 0,
            next: None,
            pause: PAUSE_MIN,
        }
    }
}

impl Reachability {
    /// Whether strangers reach this node, as far as is known.
    pub fn status(&self) -> Option<bool> {
        self.status
    }

    /// Has it look for a proof from `at` on, unless it does already.
    pub fn begin(&mut self, at: Time) {
        self.next.get_or_insert(at);
    }

    /// Whether it looks for a proof.
    pub fn has_begun(&self) -> bool {
        self.next.is_some()
    }

    /// Begins anew, for the node is elsewhere.
    pub fn moved(&mut self, now: Time) {
        *self = Self { next: self.next.map(|_| now), ..Self::default() };
    }

    /// Whether a packet from a stranger would be news.
    pub fn wants_proof(&self, now: Time) -> bool {
        self.proved.is_none_or(|proved| now - proved >= PROOF_FRESH)
    }

    /// Takes note that a stranger's packet has come in.
    pub fn prove(&mut self, now: Time) {
        let next = self.next.map(|_| now + PROOF_RENEWAL);
        *self = Self { status: Some(true), proved: Some(now), next, ..Self::default() };
    }

    /// Whether this is the transaction id of the PING that a question is to bring.
    pub fn expects(&self, txid: TxId) -> bool {
        self.question.as_ref().is_some_and(|question| question.txid == txid)
    }

    /// Takes note that this PING has come from an address that would have got in anyway: no proof, but a
    /// sign against none. Where every node knows every other, nothing else comes.
    pub fn came_by_leave(&mut self, now: Time) {
        if self.proved.is_some() {
            return self.prove(now);
        }
        self.question = None;
        self.failures = 0;
        self.status = None;
    }

    /// Takes note that the node asked has passed the question on.
    pub fn passed_on(&mut self, txid: TxId) {
        let question = self.question.as_mut().filter(|question| question.txid == txid);
        question.into_iter().for_each(|question| question.is_passed = true);
    }

    /// Lets time pass; returns whether somebody is to be asked now, by [`Reachability::ask`].
    #[must_use]
    pub fn tick(&mut self, now: Time) -> bool {
        if let Some(question) = self.question.take_if(|question| question.ends <= now) {
            self.failures += u32::from(question.is_passed);
            if self.failures >= FAILURES_MAX {
                self.status = Some(false);
                self.proved = None;
            }
        }
        if self.proved.is_some_and(|proved| now - proved >= PROOF_LIFE) {
            self.proved = None;
            self.status = None;
        }
        self.next.is_some_and(|next| next <= now)
    }

    /// Takes note that somebody is asked, under this transaction id; none where there is nobody to ask.
    pub fn ask(&mut self, now: Time, txid: Option<TxId>) {
        self.question =
            txid.map(|txid| Question { txid, is_passed: false, ends: now + ANSWER_WAIT });
        self.asked += 1;
        let wait = if txid.is_some() && self.asked < SERIES {
            ANSWER_WAIT
        } else {
            self.asked = 0;
            let pause = self.pause;
            self.pause = (pause * 2).min(PAUSE_MAX);
            pause
        };
        self.next = Some(now + wait);
    }

    /// When [`Reachability::tick`] has something to do next.
    pub fn next_wake(&self) -> Option<Time> {
        let ends = self.question.as_ref().map(|question| question.ends);
        let old = self.proved.map(|proved| proved + PROOF_LIFE);
        [ends, old, self.next].into_iter().flatten().min()
    }
}

/// What a node does for strangers at addresses that they name: so much in any minute, and so much of
/// that for one address.
#[derive(Default)]
pub struct Quota(VecDeque<(Time, [u8; 16])>);

impl Quota {
    const WINDOW: Duration = Duration::from_secs(60);
    const MAX: usize = 60;
    const MAX_OF_ADDRESS: usize = 2;

    /// Whether something may be done for this address; then it counts.
    #[must_use]
    pub fn take(&mut self, now: Time, endpoint: &Endpoint) -> bool {
        while self.0.front().is_some_and(|(at, _)| now - *at >= Self::WINDOW) {
            self.0.pop_front();
        }
        let of_address = self.0.iter().filter(|(_, ip)| ip == endpoint.ip_bytes()).count();
        let is_free = self.0.len() < Self::MAX && of_address < Self::MAX_OF_ADDRESS;
        if is_free {
            self.0.push_back((now, *endpoint.ip_bytes()));
        }
        is_free
    }

    /// Panics where the cap is passed.
    pub fn check_invariants(&self) {
        assert!(self.0.len() <= Self::MAX);
    }
}
