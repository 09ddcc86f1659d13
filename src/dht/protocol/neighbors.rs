//! How nodes of one link find each other: beacons go out to a multicast group, and whoever hears one
//! or answers it is a candidate like any other. On which links that is the driver's affair.

use rand_core::Rng;

use super::engine::Engine;
use super::output::{Event, Outbox};
use crate::dht::beacons::groups;
use crate::dht::requests::{OpId, Purpose, Request};
use crate::dht::tasks::{Join, Task};
use crate::time::Time;
use crate::wire::message::{Body, Endpoint, Message, Trailer, TxId};
use crate::wire::native;

impl Engine {
    /// From now on looks for other nodes on its links: sends a beacon, which is a PING, to each of the
    /// [`groups`] that it reaches, now and then for ever. To be called again when there are other
    /// links: it begins anew.
    ///
    /// A node that knows nobody has its lookups wait for a second after each call.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use kadepy::dht::beacons::groups;
    /// use kadepy::dht::protocol::{Engine, Outbox};
    /// use kadepy::{Config, Endpoint, NodeId, Time};
    ///
    /// let at = Endpoint::new([0, 0, 0, 0], 4000);
    /// let mut engine = Engine::new(Time::ZERO, NodeId([1; 32]), at, Arc::new(Config::default()), [0; 32]);
    /// engine.seek(Time::ZERO);
    /// let due = engine.next_deadline().expect("a beacon is to come");
    /// let mut outbox = Outbox::default();
    /// engine.tick(due, &mut outbox);
    /// assert_eq!(outbox.iter().next().expect("a beacon").0, groups()[0]);
    /// ```
    pub fn seek(&mut self, now: Time) {
        self.beacons.get_or_insert_default().begin(now, &mut self.rng);
    }

    /// Begins anew to look for other nodes on its links, where it does so.
    pub(super) fn seek_again(&mut self, now: Time) {
        if self.beacons.is_some() {
            self.seek(now);
        }
    }

    /// Whether a node that knows nobody may hear of somebody soon.
    pub(super) fn is_searching(&self) -> bool {
        self.beacons.as_ref().is_some_and(|beacons| beacons.is_searching())
    }

    /// Sends a beacon when one is due.
    pub(super) fn send_beacons(&mut self, now: Time, out: &mut Outbox) {
        let Some(beacons) = &mut self.beacons else {
            return;
        };
        beacons.end_search(now);
        if !beacons.is_due(now) {
            return;
        }
        let mut txid = TxId([0; 8]);
        self.rng.fill_bytes(&mut txid.0);
        beacons.sent(now, txid, &mut self.rng);
        let trailer = Trailer { txid: Some(txid), ..Trailer::default() };
        let beacon = Message::new(self.id, Body::Ping, Some(trailer));
        for group in groups() {
            if self.reaches(&group) {
                self.transmit(group, &beacon, native::MAX_SENT, 0, out);
            }
        }
    }

    /// When there is something to do about beacons.
    pub(super) fn next_beacon(&self) -> Option<Time> {
        self.beacons.as_ref().map(|beacons| beacons.next_at())
    }

    /// Whether a message heard is this node's own beacon, which comes back to its host.
    pub(super) fn is_own_beacon(&self, message: &Message<'_>) -> bool {
        message.sender == self.id
            && self.beacons.as_ref().is_some_and(|beacons| beacons.is_echo(message))
    }

    /// Whether it is the answer of a neighbor to a beacon. That tells no more than a request would: all
    /// on the link know what to write into it.
    pub(super) fn answers_beacon(&self, from: &Endpoint, reply: &Message<'_>) -> bool {
        from.is_local() && self.beacons.as_ref().is_some_and(|beacons| beacons.is_answer(reply))
    }

    /// Takes note that a node which was heard of on its own account, not by another one, is listed now.
    /// Through the first one the node joins: that one may know more than it.
    pub(super) fn welcome(&mut self, now: Time, request: &Request, was_alone: bool) {
        let Some(beacons) = &mut self.beacons else {
            return;
        };
        let is_neighbor = request.purpose == Purpose::Neighbor;
        if is_neighbor && (was_alone || !beacons.is_found) {
            beacons.is_found = true;
            self.events.push_back(Event::Neighbor(request.to));
        }
        let came_by_itself = is_neighbor || request.purpose == Purpose::Candidate;
        if was_alone && came_by_itself && beacons.join.is_none() {
            let join = Join::new(self.id, vec![request.to], Vec::new(), false, &self.config);
            self.table.touch(now, &self.id);
            let op = self.begin(now, Task::Join(Box::new(join)), None);
            self.beacons.iter_mut().for_each(|beacons| beacons.join = Some(op));
        }
    }

    /// Takes note of the end of an operation, if it is the join through a neighbor; whether it is.
    pub(super) fn met_neighbors(&mut self, op: OpId) -> bool {
        let Some(beacons) = self.beacons.as_mut().filter(|beacons| beacons.join == Some(op)) else {
            return false;
        };
        beacons.join = None;
        self.events.push_back(Event::Joined(self.table.len()));
        true
    }
}
