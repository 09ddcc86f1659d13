//! One iterative lookup: which contact to query next, and when it is done. It sends nothing.
//!
//! A query that is not answered within a short wait frees its place, so that a dead contact costs
//! no stall; it is repeated, and only then is its contact passed over. An answer counts however late
//! it comes.

use crate::config::Config;
use crate::id::{Distance, NodeId};
use crate::wire::message::{Contact, Endpoint, Token};

/// The state of one lookup.
pub struct Lookup {
    target: NodeId,
    /// The nearest contacts heard of, by distance and then address; at most `shortlist_max`. Each
    /// address stands there once, so that whoever names made-up ids aims no crowd of queries at it;
    /// an id may stand there with several, so that whoever names a wrong one does not hide the node.
    shortlist: Vec<Candidate>,
    /// Queries sent, repeated ones included.
    queries: usize,
    k: usize,
    alpha: usize,
    queries_max: usize,
    retries_max: usize,
    shortlist_max: usize,
}

struct Candidate {
    distance: Distance,
    contact: Contact,
    state: State,
    /// Another id that was named at the same address, for which it is asked if this one fails.
    other: Option<NodeId>,
}

impl Candidate {
    fn key(&self) -> (Distance, Endpoint) {
        (self.distance, self.contact.endpoint)
    }

    fn is_passed_over(&self) -> bool {
        matches!(self.state, State::Silent | State::Failed)
    }
}

enum State {
    /// Not asked yet.
    Fresh,
    /// Asked, and asked again so often; it holds one of the alpha places.
    Waiting { retries: usize },
    /// Silent for the short wait: to be asked once more when there is nobody new to ask.
    Late { retries: usize },
    /// Silent each time.
    Silent,
    /// It could not or would not answer.
    Failed,
    /// It answered, with this token if any.
    Answered { token: Option<Token> },
}

/// A query to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// Whom to ask.
    pub contact: Contact,
    /// Whether this repeats a query that was not answered.
    pub is_retry: bool,
}

impl Lookup {
    /// A lookup for `target` that knows nobody yet.
    pub fn new(target: NodeId, config: &Config) -> Self {
        Self {
            target,
            shortlist: Vec::new(),
            queries: 0,
            k: config.k,
            alpha: config.alpha,
            queries_max: config.lookup_queries,
            retries_max: config.lookup_retries,
            shortlist_max: config.shortlist,
        }
    }

    /// Has it look for so many nearest contacts instead of k. Where all are asked in any case, no
    /// answer says whom to ask next, so half of them are asked at once and dead ones cost little time.
    pub fn widen(&mut self, count: usize) {
        self.k = count;
        self.alpha = self.alpha.max(count / 2);
    }

    /// How many nearest contacts it looks for.
    pub fn count(&self) -> usize {
        self.k
    }

    /// The id that is looked for.
    pub fn target(&self) -> NodeId {
        self.target
    }

    /// Takes note of a contact that somebody named, or that the own table lists.
    pub fn add(&mut self, contact: Contact) {
        // Most that is named is known already, or too far away to matter.
        let is_useful = match self.find(&contact) {
            Ok(_) => false,
            Err(at) => at < self.shortlist_max,
        };
        if is_useful && self.answered_at(&contact.id).is_none() {
            self.insert(contact, State::Fresh);
        }
    }

    /// The next query to send, to be called until it gives `None`.
    #[must_use]
    pub fn next_query(&mut self) -> Option<Query> {
        if self.waiting() >= self.alpha || self.queries >= self.queries_max {
            return None;
        }
        // New contacts first: a repetition seldom finds what they do not.
        let at = self
            .position_in_window(|state| matches!(state, State::Fresh))
            .or_else(|| self.position_in_window(|state| matches!(state, State::Late { .. })))?;
        let candidate = &mut self.shortlist[at];
        let retries = match candidate.state {
            State::Late { retries } => retries + 1,
            _ => 0,
        };
        candidate.state = State::Waiting { retries };
        self.queries += 1;
        Some(Query { contact: candidate.contact, is_retry: retries > 0 })
    }

    /// Notes an answer of `contact`, whatever was thought of it before, and of who else was asked at
    /// its address. Whoever answered first under an id keeps it.
    pub fn answered(&mut self, contact: Contact, token: Option<Token>) {
        let Contact { id, endpoint } = contact;
        if self.answered_at(&id).is_some_and(|first| first != endpoint) {
            return self.refused(&endpoint);
        }
        self.shortlist.retain(|known| known.contact.id != id && known.contact.endpoint != endpoint);
        self.insert(contact, State::Answered { token });
    }

    /// Notes that the short wait for `contact` is over.
    pub fn late(&mut self, contact: &Contact) {
        let Ok(at) = self.find(contact) else {
            return;
        };
        match self.shortlist[at].state {
            State::Waiting { retries } if retries < self.retries_max => {
                self.shortlist[at].state = State::Late { retries };
            }
            State::Waiting { .. } => self.pass_over(contact, State::Silent),
            _ => {}
        }
    }

    /// Notes that the node at this address, whichever it is, is of no use.
    pub fn refused(&mut self, endpoint: &Endpoint) {
        let known = self.shortlist.iter().find(|known| known.contact.endpoint == *endpoint);
        if let Some(contact) = known.map(|known| known.contact) {
            self.failed(&contact);
        }
    }

    /// Notes that `contact` could not be asked or did not answer.
    pub fn failed(&mut self, contact: &Contact) {
        self.pass_over(contact, State::Failed);
    }

    /// Where nobody has answered and queries are left, has all be asked once more that were silent;
    /// whether there are such.
    pub fn ask_silent_again(&mut self) -> bool {
        let has_answered =
            self.shortlist.iter().any(|known| matches!(known.state, State::Answered { .. }));
        if has_answered || self.queries >= self.queries_max {
            return false;
        }
        let is_silent = |known: &&mut Candidate| matches!(known.state, State::Silent);
        let silent = self.shortlist.iter_mut().filter(is_silent);
        let retries = self.retries_max;
        silent.map(|known| known.state = State::Late { retries }).count() > 0
    }

    fn pass_over(&mut self, contact: &Contact, state: State) {
        let Ok(at) = self.find(contact) else {
            return;
        };
        self.shortlist[at].state = state;
        if let Some(id) = self.shortlist[at].other.take() {
            self.add(Contact { id, ..*contact });
        }
    }

    /// Whether the k nearest that may still answer have answered, or no query is left to spend.
    pub fn is_done(&self) -> bool {
        let pending = |state: &State| match state {
            State::Waiting { .. } => true,
            State::Fresh | State::Late { .. } => self.queries < self.queries_max,
            State::Silent | State::Failed | State::Answered { .. } => false,
        };
        self.position_in_window(pending).is_none()
    }

    /// The nearest contacts that answered, at most k, the nearest first, each with its token.
    pub fn closest(&self) -> impl Iterator<Item = (Contact, Option<Token>)> {
        self.shortlist
            .iter()
            .filter_map(|candidate| match &candidate.state {
                State::Answered { token } => Some((candidate.contact, *token)),
                _ => None,
            })
            .take(self.k)
    }

    /// Queries sent so far.
    pub fn queries(&self) -> usize {
        self.queries
    }

    fn waiting(&self) -> usize {
        self.shortlist.iter().filter(|c| matches!(c.state, State::Waiting { .. })).count()
    }

    /// The first of the k nearest that did not fail for which `wanted` holds.
    fn position_in_window(&self, wanted: impl Fn(&State) -> bool) -> Option<usize> {
        self.shortlist
            .iter()
            .enumerate()
            .filter(|(_, candidate)| !candidate.is_passed_over())
            .take(self.k)
            .find(|(_, candidate)| wanted(&candidate.state))
            .map(|(at, _)| at)
    }

    fn find(&self, contact: &Contact) -> Result<usize, usize> {
        let key = (self.target.distance(&contact.id), contact.endpoint);
        self.shortlist.binary_search_by_key(&key, Candidate::key)
    }

    /// Where somebody answered under this id.
    fn answered_at(&self, id: &NodeId) -> Option<Endpoint> {
        let has_answered = |known: &&Candidate| {
            known.contact.id == *id && matches!(known.state, State::Answered { .. })
        };
        self.shortlist.iter().find(has_answered).map(|known| known.contact.endpoint)
    }

    fn insert(&mut self, contact: Contact, state: State) {
        let holder =
            self.shortlist.iter().position(|known| known.contact.endpoint == contact.endpoint);
        if let Some(at) = holder {
            let known = &mut self.shortlist[at];
            if known.contact == contact {
                return;
            }
            // Whoever names a made-up id at an address does not hide the node that is there.
            if !known.is_passed_over() {
                known.other.get_or_insert(contact.id);
                return;
            }
            self.shortlist.remove(at);
        }
        let Err(at) = self.find(&contact) else {
            return;
        };
        let distance = self.target.distance(&contact.id);
        self.shortlist.insert(at, Candidate { distance, contact, state, other: None });
        self.shortlist.truncate(self.shortlist_max);
    }

    /// Panics where the shortlist is out of order or a cap is passed.
    pub fn check_invariants(&self) {
        assert!(self.shortlist.is_sorted_by(|a, b| a.key() < b.key()));
        for (at, candidate) in self.shortlist.iter().enumerate() {
            let endpoint = candidate.contact.endpoint;
            assert!(self.shortlist[..at].iter().all(|other| other.contact.endpoint != endpoint));
        }
        assert!(self.shortlist.len() <= self.shortlist_max);
        assert!(self.queries <= self.queries_max);
        assert!(self.waiting() <= self.alpha);
    }
}
