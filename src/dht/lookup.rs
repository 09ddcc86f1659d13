//! One iterative lookup: which contact to query next, and when it is done. It sends nothing.
//!
//! A query that is not answered within a short wait frees its place, so that a dead contact costs
//! no stall; it is repeated, and only then is its contact passed over. An answer counts however late
//! it comes.
//!
//! IPv4 and IPv6 are two networks that share nodes: a lookup goes to the k nearest of each of which it
//! has heard, side by side.

use arrayvec::ArrayVec;

use crate::config::Config;
use crate::id::{Distance, NodeId};
use crate::wire::message::{Contact, Endpoint, Token};

/// The state of one lookup.
pub struct Lookup {
    target: NodeId,
    /// The nearest contacts heard of in each family, IPv4 first, by distance and then address; at most
    /// `shortlist_max`. Each address stands there once, so that whoever names made-up ids aims no crowd
    /// of queries at it; an id may stand there with several, so that whoever names a wrong one does not
    /// hide the node.
    shortlists: [Shortlist; 2],
    /// Queries sent, repeated ones included.
    queries: usize,
    k: usize,
    alpha: usize,
    queries_max: usize,
    retries_max: usize,
    shortlist_max: usize,
}

/// Contacts of one host that is not local: it has as many ports as it likes, and an IPv6 one as many
/// addresses. So no host fills a lookup with itself, and no answer aims more at a host than these.
const HOST_MAX: usize = 2;

/// Contacts by distance and then address.
#[derive(Default)]
struct Shortlist(Vec<Candidate>);

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
            shortlists: [Shortlist::default(), Shortlist::default()],
            queries: 0,
            k: config.k,
            alpha: config.alpha,
            queries_max: config.lookup_queries,
            retries_max: config.lookup_retries,
            shortlist_max: config.shortlist,
        }
    }

    /// The id that is looked for.
    pub fn target(&self) -> NodeId {
        self.target
    }

    /// Takes note of a contact that somebody named, or that the own table lists.
    pub fn add(&mut self, contact: Contact) {
        let (target, max) = (self.target, self.shortlist_max);
        self.list_mut(&contact.endpoint).add(&target, contact, max);
    }

    /// The next query to send, to be called until it gives `None`.
    #[must_use]
    pub fn next_query(&mut self) -> Option<Query> {
        if self.queries >= self.queries_max {
            return None;
        }
        let (k, alpha) = (self.k, self.alpha);
        // Where queries run out, neither family has had more of them than it takes.
        let open = self.shortlists.iter_mut().filter(|list| list.waiting() < alpha);
        let mut fewest_first: ArrayVec<&mut Shortlist, 2> = open.collect();
        fewest_first.sort_by_key(|list| list.asked());
        let query = fewest_first.into_iter().find_map(|list| list.next_query(k))?;
        self.queries += 1;
        Some(query)
    }

    /// Notes an answer of `contact`, whatever was thought of it before, and of who else was asked at
    /// its address. Whoever answered first under an id keeps it.
    pub fn answered(&mut self, contact: Contact, token: Option<Token>) {
        let (target, max) = (self.target, self.shortlist_max);
        self.list_mut(&contact.endpoint).answered(&target, contact, token, max);
    }

    /// Notes that the short wait for `contact` is over.
    pub fn late(&mut self, contact: &Contact) {
        let (target, retries_max, max) = (self.target, self.retries_max, self.shortlist_max);
        self.list_mut(&contact.endpoint).late(&target, contact, retries_max, max);
    }

    /// Notes that the node at this address, whichever it is, is of no use.
    pub fn refused(&mut self, endpoint: &Endpoint) {
        if let Some(contact) = self.list(endpoint).at(endpoint) {
            self.failed(&contact);
        }
    }

    /// Notes that `contact` could not be asked or did not answer.
    pub fn failed(&mut self, contact: &Contact) {
        let (target, max) = (self.target, self.shortlist_max);
        self.list_mut(&contact.endpoint).pass_over(&target, contact, State::Failed, max);
    }

    /// Where nobody has answered and queries are left, has all be asked once more that were silent;
    /// whether there are such.
    pub fn ask_silent_again(&mut self) -> bool {
        let has_answered = self.shortlists.iter().any(|list| list.answers().next().is_some());
        if has_answered || self.queries >= self.queries_max {
            return false;
        }
        let all = self.shortlists.iter_mut().flat_map(|list| &mut list.0);
        let silent = all.filter(|known| matches!(known.state, State::Silent));
        let retries = self.retries_max;
        silent.map(|known| known.state = State::Late { retries }).count() > 0
    }

    /// Whether the k nearest that may still answer have answered, or no query is left to spend.
    pub fn is_done(&self) -> bool {
        let is_spent = self.queries >= self.queries_max;
        let pending = |state: &State| match state {
            State::Waiting { .. } => true,
            State::Fresh | State::Late { .. } => !is_spent,
            State::Silent | State::Failed | State::Answered { .. } => false,
        };
        self.shortlists.iter().all(|list| list.position_in_window(self.k, pending).is_none())
    }

    /// The nearest contacts of each family that answered, at most k of each, the nearest first, each
    /// with its token. Of a node that has both, IPv4 comes first.
    pub fn closest(&self) -> impl Iterator<Item = (Contact, Option<Token>)> {
        let answers = self.shortlists.iter().flat_map(|list| list.answers().take(self.k));
        let mut closest: Vec<(Contact, Option<Token>)> = answers.collect();
        closest.sort_by_key(|(contact, _)| self.target.distance(&contact.id));
        closest.into_iter()
    }

    /// The k nearest nodes that answered, each once, the nearest first.
    pub fn nodes(&self) -> Vec<Contact> {
        let mut nodes: Vec<Contact> = self.closest().map(|(contact, _)| contact).collect();
        nodes.dedup_by_key(|contact| contact.id);
        nodes.truncate(self.k);
        nodes
    }

    /// Queries sent so far.
    pub fn queries(&self) -> usize {
        self.queries
    }

    fn list(&self, endpoint: &Endpoint) -> &Shortlist {
        &self.shortlists[usize::from(!endpoint.is_ipv4())]
    }

    fn list_mut(&mut self, endpoint: &Endpoint) -> &mut Shortlist {
        &mut self.shortlists[usize::from(!endpoint.is_ipv4())]
    }

    /// Panics where a shortlist is out of order or a cap is passed.
    pub fn check_invariants(&self) {
        for (list, ipv4) in self.shortlists.iter().zip([true, false]) {
            assert!(list.0.is_sorted_by(|a, b| a.key() < b.key()));
            for (at, candidate) in list.0.iter().enumerate() {
                let endpoint = candidate.contact.endpoint;
                assert_eq!(endpoint.is_ipv4(), ipv4, "a contact in the other family's list");
                assert!(list.0[..at].iter().all(|other| other.contact.endpoint != endpoint));
            }
            assert!(list.0.len() <= self.shortlist_max);
            assert!(list.waiting() <= self.alpha);
        }
        assert!(self.queries <= self.queries_max);
    }
}

impl Shortlist {
    fn add(&mut self, target: &NodeId, contact: Contact, max: usize) {
        // Most that is named is known already, or too far away to matter.
        let is_useful = self.find(target, &contact).is_err_and(|at| at < max);
        if is_useful && self.answered_at(&contact.id).is_none() && self.takes(&contact.endpoint) {
            self.insert(target, contact, State::Fresh, max);
        }
    }

    fn next_query(&mut self, k: usize) -> Option<Query> {
        // New contacts first: a repetition seldom finds what they do not.
        let is_fresh = |state: &State| matches!(state, State::Fresh);
        let is_late = |state: &State| matches!(state, State::Late { .. });
        let at =
            self.position_in_window(k, is_fresh).or_else(|| self.position_in_window(k, is_late))?;
        let candidate = &mut self.0[at];
        let retries = match candidate.state {
            State::Late { retries } => retries + 1,
            _ => 0,
        };
        candidate.state = State::Waiting { retries };
        Some(Query { contact: candidate.contact, is_retry: retries > 0 })
    }

    fn answered(&mut self, target: &NodeId, contact: Contact, token: Option<Token>, max: usize) {
        let Contact { id, endpoint } = contact;
        if self.answered_at(&id).is_some_and(|first| first != endpoint) {
            let refused = self.at(&endpoint);
            return refused.into_iter().for_each(|refused| {
                self.pass_over(target, &refused, State::Failed, max);
            });
        }
        self.0.retain(|known| known.contact.id != id && known.contact.endpoint != endpoint);
        self.insert(target, contact, State::Answered { token }, max);
    }

    fn late(&mut self, target: &NodeId, contact: &Contact, retries_max: usize, max: usize) {
        let Ok(at) = self.find(target, contact) else {
            return;
        };
        match self.0[at].state {
            State::Waiting { retries } if retries < retries_max => {
                self.0[at].state = State::Late { retries };
            }
            State::Waiting { .. } => self.pass_over(target, contact, State::Silent, max),
            _ => {}
        }
    }

    fn pass_over(&mut self, target: &NodeId, contact: &Contact, state: State, max: usize) {
        let Ok(at) = self.find(target, contact) else {
            return;
        };
        self.0[at].state = state;
        if let Some(id) = self.0[at].other.take() {
            self.add(target, Contact { id, ..*contact }, max);
        }
    }

    /// Those that answered, the nearest first.
    fn answers(&self) -> impl Iterator<Item = (Contact, Option<Token>)> {
        self.0.iter().filter_map(|candidate| match &candidate.state {
            State::Answered { token } => Some((candidate.contact, *token)),
            _ => None,
        })
    }

    fn waiting(&self) -> usize {
        self.0.iter().filter(|c| matches!(c.state, State::Waiting { .. })).count()
    }

    /// How many have been asked.
    fn asked(&self) -> usize {
        self.0.iter().filter(|c| !matches!(c.state, State::Fresh)).count()
    }

    /// The first of the k nearest that did not fail for which `wanted` holds.
    fn position_in_window(&self, k: usize, wanted: impl Fn(&State) -> bool) -> Option<usize> {
        self.0
            .iter()
            .enumerate()
            .filter(|(_, candidate)| !candidate.is_passed_over())
            .take(k)
            .find(|(_, candidate)| wanted(&candidate.state))
            .map(|(at, _)| at)
    }

    fn find(&self, target: &NodeId, contact: &Contact) -> Result<usize, usize> {
        let key = (target.distance(&contact.id), contact.endpoint);
        self.0.binary_search_by_key(&key, Candidate::key)
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
        endpoint.is_local() || self.0.iter().filter(is_of_host).count() < HOST_MAX
    }

    /// Who stands there at this address.
    fn at(&self, endpoint: &Endpoint) -> Option<Contact> {
        self.0.iter().map(|known| known.contact).find(|contact| contact.endpoint == *endpoint)
    }

    /// Where somebody answered under this id.
    fn answered_at(&self, id: &NodeId) -> Option<Endpoint> {
        let mut answers = self.answers().map(|(contact, _)| contact);
        answers.find(|contact| contact.id == *id).map(|contact| contact.endpoint)
    }

    fn insert(&mut self, target: &NodeId, contact: Contact, state: State, max: usize) {
        let holder = self.0.iter().position(|known| known.contact.endpoint == contact.endpoint);
        if let Some(at) = holder {
            let known = &mut self.0[at];
            if known.contact == contact {
                return;
            }
            // Whoever names a made-up id at an address does not hide the node that is there.
            if !known.is_passed_over() {
                known.other.get_or_insert(contact.id);
                return;
            }
            self.0.remove(at);
        }
        let Err(at) = self.find(target, &contact) else {
            return;
        };
        let distance = target.distance(&contact.id);
        self.0.insert(at, Candidate { distance, contact, state, other: None });
        self.0.truncate(max);
    }
}
