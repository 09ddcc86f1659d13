//! How the node is seen from outside: at which address.

use super::engine::Engine;
use super::output::Event;
use crate::dht::own::voter;
use crate::time::Time;
use crate::wire::message::Endpoint;

impl Engine {
    /// The public address at which other networks agree that they see this node: of IPv4, and of IPv6.
    ///
    /// Each network, a /24 of IPv4 or a /48 of IPv6, has one vote, and the last 40 votes count. An
    /// address wins with more than half of them, two at the least. While none does, the former one
    /// stays as long as anybody names it. What local nodes say does not count.
    pub fn external(&self) -> [Option<Endpoint>; 2] {
        self.own.external()
    }

    /// Takes note of where a node that has answered sees this one.
    pub(super) fn seen_at(&mut self, now: Time, by: Endpoint, seen_at: Endpoint) {
        if !self.guard.believes(&seen_at, &by, true) {
            return;
        }
        let former = self.own.external();
        let network = voter(&by);
        let is_no_other = self.table.len() <= 1
            || self.table.entries().all(|entry| voter(&entry.contact.endpoint) == network);
        self.own.told(now, by, seen_at, is_no_other);
        for (former, address) in former.into_iter().zip(self.own.external()) {
            if former != address {
                self.events.push_back(Event::External { former, address });
                self.announce_anew(now, former, address);
            }
        }
    }
}
