//! One iterative lookup: which contact to query next, and when it is done. It sends nothing.
//!
//! A query that is not answered within a short wait frees its place, so that a dead contact costs
//! no stall; it is repeated, and only then is its contact passed over. An answer counts however late
//! it comes.
//!
//! IPv4 and IPv6 are two networks that share nodes: a lookup goes to the k nearest of each of which it
//! has heard, side by side.

pub use super::shortlist::Query;
use super::shortlist::Shortlist;
use crate::config::Config;
use crate::id::NodeId;
use crate::wire::message::{Contact, Endpoint, Token};

/// The state of one lookup.
pub struct Lookup {
    target: NodeId,
    /// IPv4, IPv6.
    shortlists: [Shortlist; 2],
    /// Queries sent, repeated ones included.
    queries: usize,
    k: usize,
    queries_max: usize,
}

impl Lookup {
    /// A lookup for `target` that knows nobody yet.
    pub fn new(target: NodeId, config: &Config) -> Self {
        Self {
            target,
            shortlists: [Shortlist::new(target, config), Shortlist::new(target, config)],
            queries: 0,
            k: config.k,
            queries_max: config.lookup_queries,
        }
    }

    /// Has it look for so many nearest contacts instead of k. Where all are asked in any case, no
    /// answer says whom to ask next, so half of them are asked at once and dead ones cost little time.
    pub fn widen(&mut self, count: usize) {
        self.k = count;
        self.shortlists.iter_mut().for_each(|list| list.widen(count));
    }

    /// How many nearest contacts it looks for, in each family.
    pub fn count(&self) -> usize {
        self.k
    }

    /// The id that is looked for.
    pub fn target(&self) -> NodeId {
        self.target
    }

    /// Takes note of a contact that somebody named, or that the own table lists.
    pub fn add(&mut self, contact: Contact) {
        self.list(&contact.endpoint).add(contact);
    }

    /// The next query to send, to be called until it gives `None`.
    #[must_use]
    pub fn next_query(&mut self) -> Option<Query> {
        if self.queries >= self.queries_max {
            return None;
        }
        let [v4, v6] = &mut self.shortlists;
        // In turn: neither family is to use up the queries.
        let query = if v4.asked() <= v6.asked() {
            v4.next_query().or_else(|| v6.next_query())
        } else {
            v6.next_query().or_else(|| v4.next_query())
        }?;
        self.queries += 1;
        Some(query)
    }

    /// Notes an answer of `contact`, whatever was thought of it before, and of who else was asked at
    /// its address. Whoever answered first under an id keeps it.
    pub fn answered(&mut self, contact: Contact, token: Option<Token>) {
        self.list(&contact.endpoint).answered(contact, token);
    }

    /// Notes that the short wait for `contact` is over.
    pub fn late(&mut self, contact: &Contact) {
        self.list(&contact.endpoint).late(contact);
    }

    /// Notes that the node at this address, whichever it is, is of no use.
    pub fn refused(&mut self, endpoint: &Endpoint) {
        self.list(endpoint).refused(endpoint);
    }

    /// Notes that `contact` could not be asked or did not answer.
    pub fn failed(&mut self, contact: &Contact) {
        self.list(&contact.endpoint).failed(contact);
    }

    /// Where nobody has answered and queries are left, has all be asked once more that were silent;
    /// whether there are such.
    pub fn ask_silent_again(&mut self) -> bool {
        let has_answered = self.shortlists.iter().any(|list| list.answers().next().is_some());
        if has_answered || self.queries >= self.queries_max {
            return false;
        }
        let [v4, v6] = self.shortlists.each_mut().map(Shortlist::ask_silent_again);
        v4 || v6
    }

    /// Whether the k nearest that may still answer have answered, or no query is left to spend.
    pub fn is_done(&self) -> bool {
        let may_ask = self.queries < self.queries_max;
        !self.shortlists.iter().any(|list| list.is_pending(may_ask))
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

    fn list(&mut self, endpoint: &Endpoint) -> &mut Shortlist {
        &mut self.shortlists[usize::from(!endpoint.is_ipv4())]
    }

    /// Panics where a shortlist is out of order or a cap is passed.
    pub fn check_invariants(&self) {
        self.shortlists.iter().for_each(Shortlist::check_invariants);
        assert!(self.queries <= self.queries_max);
    }
}
