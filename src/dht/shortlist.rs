//! The contacts of one address family that a lookup has heard of: who of them is asked next, and who is
//! passed over. When the lookup is done is not decided here.

use crate::config::Config;
use crate::id::{Distance, NodeId};
use crate::wire::message::{Contact, Endpoint, Token};

/// Contacts of one host that is not local: it has as many ports as it likes, and an IPv6 one as many
/// addresses. So no host fills a lookup with itself, and no answer aims more at a host than these.
const HOST_MAX: usize = 2;

/// The nearest contacts of one family, by distance and then address.
pub struct Shortlist {
    target: NodeId,
    /// At most `max`. Each address stands there once, so that whoever names made-up ids aims no crowd of
    /// queries at it; an id may stand there with several, so that whoever names a wrong one does not
    /// hide the node.
    candidates: Vec<Candidate>,
    k: usize,
    alpha: usize,
    retries_max: usize,
    max: usize,
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

impl Shortlist {
    /// An empty one of a lookup for `target`.
    pub fn new(target: NodeId, config: &Config) -> Self {
        Self {
            target,
            candidates: Vec::new(),
            k: config.k,
            alpha: config.alpha,
            retries_max: config.lookup_retries,
            max: config.shortlist,
        }
    }

    /// See [`Lookup::widen`](super::lookup::Lookup::widen).
    pub fn widen(&mut self, count: usize) {
        self.k = count;
        self.alpha = self.alpha.max(count / 2);
    }

    /// See [`Lookup::add`](super::lookup::Lookup::add).
    pub fn add(&mut self, contact: Contact) {
        // Most that is named is known already, or too far away to matter.
        let is_useful = self.find(&contact).is_err_and(|at| at < self.max);
        if is_useful && self.answered_at(&contact.id).is_none() && self.takes(&contact.endpoint) {
            self.insert(contact, State::Fresh);
        }
    }

    /// The next query, where one of the alpha places is free.
    pub fn next_query(&mut self) -> Option<Query> {
        if self.waiting() >= self.alpha {
            return None;
        }
        // New contacts first: a repetition seldom finds what they do not.
        let is_fresh = |state: &State| matches!(state, State::Fresh);
        let is_late = |state: &State| matches!(state, State::Late { .. });
        let at = self.position_in_window(is_fresh).or_else(|| self.position_in_window(is_late))?;
        let candidate = &mut self.candidates[at];
        let retries = match candidate.state {
            State::Late { retries } => retries + 1,
            _ => 0,
        };
        candidate.state = State::Waiting { retries };
        Some(Query { contact: candidate.contact, is_retry: retries > 0 })
    }

    /// Notes an answer of `contact`. Whoever answered first under an id keeps it.
    pub fn answered(&mut self, contact: Contact, token: Option<Token>) {
        let Contact { id, endpoint } = contact;
        if self.answered_at(&id).is_some_and(|first| first != endpoint) {
            return self.refused(&endpoint);
        }
        self.candidates
            .retain(|known| known.contact.id != id && known.contact.endpoint != endpoint);
        self.insert(contact, State::Answered { token });
    }

    /// Notes that the short wait for `contact` is over.
    pub fn late(&mut self, contact: &Contact) {
        let Ok(at) = self.find(contact) else {
            return;
        };
        match self.candidates[at].state {
            State::Waiting { retries } if retries < self.retries_max => {
                self.candidates[at].state = State::Late { retries };
            }
            State::Waiting { .. } => self.pass_over(contact, State::Silent),
            _ => {}
        }
    }

    /// Notes that the node at this address, whichever it is, is of no use.
    pub fn refused(&mut self, endpoint: &Endpoint) {
        let mut known = self.candidates.iter().map(|known| known.contact);
        if let Some(contact) = known.find(|contact| contact.endpoint == *endpoint) {
            self.failed(&contact);
        }
    }

    /// Notes that `contact` could not be asked or did not answer.
    pub fn failed(&mut self, contact: &Contact) {
        self.pass_over(contact, State::Failed);
    }

    /// Has all be asked once more that were silent; whether there are such.
    pub fn ask_silent_again(&mut self) -> bool {
        let retries = self.retries_max;
        let silent =
            self.candidates.iter_mut().filter(|known| matches!(known.state, State::Silent));
        silent.map(|known| known.state = State::Late { retries }).count() > 0
    }

    /// Whether any of the k nearest that may still answer has not, or is to be asked where there
    /// `may_ask`.
    pub fn is_pending(&self, may_ask: bool) -> bool {
        let pending = |state: &State| match state {
            State::Waiting { .. } => true,
            State::Fresh | State::Late { .. } => may_ask,
            State::Silent | State::Failed | State::Answered { .. } => false,
        };
        self.position_in_window(pending).is_some()
    }

    fn pass_over(&mut self, contact: &Contact, state: State) {
        let Ok(at) = self.find(contact) else {
            return;
        };
        self.candidates[at].state = state;
        if let Some(id) = self.candidates[at].other.take() {
            self.add(Contact { id, ..*contact });
        }
    }

    /// Those that answered, the nearest first.
    pub fn answers(&self) -> impl Iterator<Item = (Contact, Option<Token>)> {
        self.candidates.iter().filter_map(|candidate| match &candidate.state {
            State::Answered { token } => Some((candidate.contact, *token)),
            _ => None,
        })
    }

    /// How many hold one of the alpha places.
    fn waiting(&self) -> usize {
        self.candidates.iter().filter(|c| matches!(c.state, State::Waiting { .. })).count()
    }

    /// How many have been asked.
    pub fn asked(&self) -> usize {
        self.candidates.iter().filter(|c| !matches!(c.state, State::Fresh)).count()
    }

    /// The first of the k nearest that did not fail for which `wanted` holds.
    fn position_in_window(&self, wanted: impl Fn(&State) -> bool) -> Option<usize> {
        self.candidates
            .iter()
            .enumerate()
            .filter(|(_, candidate)| !candidate.is_passed_over())
            .take(self.k)
            .find(|(_, candidate)| wanted(&candidate.state))
            .map(|(at, _)| at)
    }

    fn find(&self, contact: &Contact) -> Result<usize, usize> {
        let key = (self.target.distance(&contact.id), contact.endpoint);
        self.candidates.binary_search_by_key(&key, Candidate::key)
    }

    /// Whether one more contact of its host may stand there; one that was silent or of no use does not
    /// count.
    fn takes(&self, endpoint: &Endpoint) -> bool {
        let host = endpoint.same_host();
        let is_of_host = |known: &&Candidate| {
            host.contains(&known.contact.endpoint)
                && known.contact.endpoint != *endpoint
                && !known.is_passed_over()
        };
        endpoint.is_local() || self.candidates.iter().filter(is_of_host).count() < HOST_MAX
    }

    /// Where somebody answered under this id.
    fn answered_at(&self, id: &NodeId) -> Option<Endpoint> {
        let mut answers = self.answers().map(|(contact, _)| contact);
        answers.find(|contact| contact.id == *id).map(|contact| contact.endpoint)
    }

    fn insert(&mut self, contact: Contact, state: State) {
        let holder =
            self.candidates.iter().position(|known| known.contact.endpoint == contact.endpoint);
        if let Some(at) = holder {
            let known = &mut self.candidates[at];
            if known.contact == contact {
                return;
            }
            // Whoever names a made-up id at an address does not hide the node that is there.
            if !known.is_passed_over() {
                known.other.get_or_insert(contact.id);
                return;
            }
            self.candidates.remove(at);
        }
        let Err(at) = self.find(&contact) else {
            return;
        };
        let distance = self.target.distance(&contact.id);
        self.candidates.insert(at, Candidate { distance, contact, state, other: None });
        self.candidates.truncate(self.max);
    }

    /// Panics where it is out of order or a cap is passed.
    pub fn check_invariants(&self) {
        assert!(self.candidates.is_sorted_by(|a, b| a.key() < b.key()));
        for (at, candidate) in self.candidates.iter().enumerate() {
            let endpoint = candidate.contact.endpoint;
            assert!(self.candidates[..at].iter().all(|other| other.contact.endpoint != endpoint));
        }
        assert!(self.candidates.len() <= self.max);
        assert!(self.waiting() <= self.alpha);
    }
}
