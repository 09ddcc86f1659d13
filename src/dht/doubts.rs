//! Contacts that a packet has given a reason to ask whether they are there: who was asked lately, so
//! that nobody can have a contact asked at will, and who claims to be one of them now.

use std::collections::VecDeque;
use std::time::Duration;

use crate::id::NodeId;
use crate::time::Time;
use crate::wire::message::Contact;

/// A contact is asked once in this time, whatever packets come. Longer than it takes to ask twice.
const PAUSE: Duration = Duration::from_secs(5);
/// So many contacts are asked in that time, and so many of them for a packet that may come from
/// anywhere: who sends from a local address cannot have written another's into it.
const MAX: usize = 64;
const STRANGERS_MAX: usize = 16;
/// Of those that have answered, so many are remembered for lookups.
const PROVEN_MAX: usize = 16;

/// The doubts of the last seconds.
#[derive(Default)]
pub struct Doubts {
    /// The oldest first: which id, and from where a packet came in its name.
    raised: VecDeque<(Time, Contact)>,
    /// Contacts that have answered while they are listed at another address, the oldest first.
    proven: VecDeque<(Time, Contact)>,
}

impl Doubts {
    /// Notes a packet in the name of a listed contact that does not fit what is known of it; returns
    /// whether it is a reason to ask.
    pub fn raise(&mut self, now: Time, claimant: Contact) -> bool {
        while self.raised.front().is_some_and(|(at, _)| now - *at >= PAUSE) {
            self.raised.pop_front();
        }
        let max = if claimant.endpoint.is_local() { MAX } else { STRANGERS_MAX };
        let is_reason = self.raised.len() < max && self.claimant(now, &claimant.id).is_none();
        if is_reason {
            self.raised.push_back((now, claimant));
        }
        is_reason
    }

    /// Notes a claimant that has answered.
    pub fn prove(&mut self, now: Time, claimant: Contact) {
        self.proven.retain(|(at, known)| now - *at < PAUSE && known.id != claimant.id);
        if self.proven.len() >= PROVEN_MAX {
            self.proven.pop_front();
        }
        self.proven.push_back((now, claimant));
    }

    /// Notes an answer of a contact at the address where it is listed.
    pub fn settle(&mut self, id: &NodeId) {
        self.proven.retain(|(_, claimant)| claimant.id != *id);
    }

    /// Claimants that have answered lately: it is not known yet whether those listed still do.
    pub fn proven(&self, now: Time) -> impl Iterator<Item = Contact> {
        let lately = self.proven.iter().filter(move |(at, _)| now - *at < PAUSE);
        lately.map(|(_, claimant)| *claimant)
    }

    /// Who claimed lately to have this id.
    pub fn claimant(&self, now: Time, id: &NodeId) -> Option<Contact> {
        let mut lately = self.raised.iter().filter(|(at, _)| now - *at < PAUSE);
        lately.find(|(_, claimant)| claimant.id == *id).map(|(_, claimant)| *claimant)
    }

    /// Panics where the cap is passed or an id stands twice.
    pub fn check_invariants(&self) {
        assert!(self.raised.len() <= MAX && self.proven.len() <= PROVEN_MAX);
        for (at, (_, claimant)) in self.raised.iter().enumerate() {
            let mut earlier = self.raised.iter().take(at);
            assert!(earlier.all(|(_, other)| other.id != claimant.id), "an id in doubt twice");
        }
    }
}
