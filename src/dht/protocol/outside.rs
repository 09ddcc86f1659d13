//! How the node is seen from outside: at which address, and whether strangers reach it there. One that
//! they do not reach asks others not to list it.

use std::time::Duration;

use rand_core::Rng;

use super::engine::Engine;
use super::output::{Event, Outbox};
use crate::dht::own::voter;
use crate::dht::reachability::Outside;
use crate::dht::requests::{Purpose, Question, Request};
use crate::dht::tasks::Task;
use crate::time::Time;
use crate::wire::message::{Body, Contact, Endpoint, Message, Probe, Trailer, TxId};

/// So long packets of strangers may come by themselves before somebody is asked for one: to a node that
/// is most likely reached, and to another.
const PATIENCE: [Duration; 2] = [Duration::from_secs(1_200), Duration::from_secs(20)];
/// A node that lists fewer than this share of k is one of a network so small that it cannot do without any.
const NEEDED: usize = 2;

/// A PING with a transaction id, what a PROBE that names an address adds to it by family, and what
/// FLAGS add; not sealed.
pub(super) const PING_LEN: usize = 47;
const PASSED_LEN: [usize; 2] = [PING_LEN + 17, PING_LEN + 29];
pub(super) const FLAGS_LEN: usize = 4;

/// What is known, and what the owner says.
impl Engine {
    /// The public address at which other networks agree that they see this node: of IPv4, and of IPv6.
    ///
    /// Each network, a /24 of IPv4 or a /48 of IPv6, has one vote, and the last 40 votes count. An
    /// address wins with more than half of them, two at the least. While none does, the former one
    /// stays as long as anybody names it. What local nodes say does not count.
    pub fn external(&self) -> [Option<Endpoint>; 2] {
        self.own.external()
    }

    /// Whether packets of strangers reach this node; `None` while that is not known, or nothing that is
    /// public has answered.
    pub fn reachable(&self) -> Option<bool> {
        self.outside.reachability.status()
    }

    /// Whether it asks public nodes not to list it.
    pub fn is_read_only(&self) -> bool {
        let is_outside = self.outside.reachability.has_begun();
        self.outside.read_only.unwrap_or_else(|| is_outside && self.is_out_of_reach())
    }

    /// Has it ask others never, or always, not to list it; or, with `None`, as long as it is behind a
    /// translator and no stranger's packet has come through. Local nodes always list such a one, and a
    /// node that lists few others needs every one of them, and they it.
    pub fn set_read_only(&mut self, read_only: Option<bool>) {
        self.outside.read_only = read_only;
    }

    /// Tells it from which address of this host its socket sends to the Internet, if it is bound to all.
    pub fn set_host(&mut self, host: Endpoint) {
        self.outside.host = Some(host);
    }

    /// Whether a node there is asked not to list this one.
    pub(super) fn is_unlisted_at(&self, by: &Endpoint) -> bool {
        let decides = || !by.is_local() && self.is_out_of_reach();
        self.outside.read_only.unwrap_or_else(decides)
    }

    /// Whether strangers cannot reach it, or, as long as that is not known, are not likely to.
    fn is_out_of_reach(&self) -> bool {
        self.outside.is_needed != Some(true) && self.is_hard_to_reach()
    }

    fn is_hard_to_reach(&self) -> bool {
        self.reachable().map_or_else(|| self.is_translated(), |is_reachable| !is_reachable)
    }

    /// Whether others see it at another address than it has.
    fn is_translated(&self) -> bool {
        let has_one = !self.bound.ip().is_unspecified();
        let host = self.outside.host.map(|host| host.with_port(self.bound.port()));
        let own = if has_one { Some(self.bound) } else { host };
        own.is_some_and(|own| {
            let external = self.own.external()[usize::from(!own.is_ipv4())];
            external.map_or(own.is_local(), |external| external != own)
        })
    }

    /// Takes note of where a node that has answered sees this one.
    pub(super) fn seen_at(&mut self, now: Time, by: Endpoint, seen_at: Endpoint) {
        if !self.guard.believes(&seen_at, &by, true) {
            return;
        }
        let network = voter(&by);
        let is_no_other = self.table.len() <= 1
            || self.table.entries().all(|entry| voter(&entry.contact.endpoint) == network);
        let former = self.own.external();
        self.own.told(now, by, seen_at, is_no_other);
        for (former, address) in former.into_iter().zip(self.own.external()) {
            if former != address {
                self.events.push_back(Event::External { former, address });
                self.announce_anew(now, former, address);
            }
            if let (Some(former), Some(address)) = (former, address)
                && former.ip() != address.ip()
            {
                self.outside.reachability.moved(now);
            }
        }
    }
}

/// The proof.
impl Engine {
    /// Takes note of a packet that decodes. One of a stranger, whom nobody has given leave to send,
    /// proves that others can be heard too. Returns whether that is all that it is for.
    pub(super) fn proves(&mut self, now: Time, from: &Endpoint, packet: &Message<'_>) -> bool {
        if from.is_local() {
            return false;
        }
        let Outside { reachability, contacted, .. } = &mut self.outside;
        let is_expected = matches!(packet.body, Body::Ping)
            && packet.txid().is_some_and(|txid| reachability.expects(txid));
        if !is_expected && !reachability.wants_proof(now) {
            return false;
        }
        let is_same_host =
            self.own.external().iter().flatten().any(|external| external.ip() == from.ip());
        contacted.turn(now);
        if !is_same_host && !contacted.contains(from) {
            reachability.prove(now);
        } else if is_expected {
            reachability.came_by_leave(now);
        }
        // A public node has been heard.
        if self.outside.read_only.is_none() && !self.outside.reachability.has_begun() {
            let patience = PATIENCE[usize::from(self.is_translated())];
            self.outside.reachability.begin(now + patience);
        }
        is_expected
    }

    /// Notices that the network is so small that this node is needed in it, and has its contacts list it
    /// then; or that it is not any more.
    fn see_size(&mut self, now: Time, out: &mut Outbox) {
        let known = self.table.len();
        let was_needed = self.outside.is_needed == Some(true);
        let is_needed = known < if was_needed { self.config.k } else { self.config.k / NEEDED };
        self.outside.is_needed = Some(is_needed);
        if is_needed && !was_needed && self.outside.read_only.is_none() && self.is_hard_to_reach() {
            let listed: Vec<Contact> = self.table.entries().map(|entry| entry.contact).collect();
            for contact in listed.into_iter().filter(|contact| !contact.endpoint.is_local()) {
                self.greet(now, contact, Purpose::Nothing, out);
            }
        }
    }

    /// Lets time pass; asks a contact to have the node proved reachable where that is due.
    pub(super) fn look_outside(&mut self, now: Time, out: &mut Outbox) {
        self.outside.contacted.turn(now);
        let is_due = self.outside.reachability.tick(now);
        let may_have_changed = match self.outside.is_needed {
            Some(is_needed) => is_due || is_needed,
            // As soon as it has joined.
            None => {
                let is_join = |(_, task): (_, &Task)| matches!(task, Task::Join(_));
                let knows_any = self.outside.reachability.has_begun() && !self.table.is_empty();
                knows_any && !self.operations.iter().any(is_join)
            }
        };
        if may_have_changed {
            self.see_size(now, out);
        }
        if !is_due {
            return;
        }
        let helper = self.random_contact(|contact| !contact.endpoint.is_local());
        let txid = helper.map(|_| self.random_txid());
        self.outside.reachability.ask(now, txid);
        if let (Some(helper), Some(txid)) = (helper, txid) {
            let question = Question::Probe(Probe { txid, to: None });
            self.ask(Request::to_contact(now, helper, question, Purpose::Nothing), out);
        }
    }

    /// When there is something to do about it next.
    pub(super) fn next_look_outside(&self) -> Option<Time> {
        self.outside.reachability.next_wake()
    }

    /// Takes note of an answer that may say that a question for a proof is passed on.
    pub(super) fn probe_answered(&mut self, request: &Request, trailer: &Trailer<'_>) {
        if let (Question::Probe(asked), Some(told)) = (request.question, trailer.probe)
            && (asked.to, asked.txid) == (None, told.txid)
        {
            self.outside.reachability.passed_on(told.txid);
        }
    }

    /// Serves a PING with a PROBE of `len` bytes; gives how many bytes that took in all.
    ///
    /// Nobody gains by forging one: what is sent on because of it is no longer than it is, and bounded
    /// in number.
    pub(super) fn serve_probe(
        &mut self,
        now: Time,
        from: Endpoint,
        request: &Message<'_>,
        (Probe { txid, to }, len): (Probe, usize),
        out: &mut Outbox,
    ) -> usize {
        let before = self.counters.bytes_out;
        let third = if to.is_none() { self.third(now, &from, len) } else { None };
        let mut trailer = self.answer_trailer(request, &from);
        trailer.probe = third.map(|_| Probe { txid, to: None });
        let limit = self.guard.allowance(&from, len);
        let answer = Message::new(self.id, Body::Pong, Some(trailer));
        self.transmit(from, &answer, limit, 0, out);
        if let Some(third) = third {
            let question = Question::Probe(Probe { txid, to: Some(from) });
            self.ask(Request::to_contact(now, third, question, Purpose::Nothing), out);
        }
        if let Some(to) = to.filter(|to| self.may_probe(now, to)) {
            let read_only = self.is_unlisted_at(&to);
            let trailer = Trailer { txid: Some(txid), read_only, ..Trailer::default() };
            let ping = Message::new(self.id, Body::Ping, Some(trailer));
            self.outside.mark(&to);
            self.transmit(to, &ping, len, 0, out);
        }
        (self.counters.bytes_out - before) as usize
    }

    /// The contact that is to send a PING to `from`, which asks for that in `len` bytes: one of another
    /// network, that this node chooses.
    fn third(&mut self, now: Time, from: &Endpoint, len: usize) -> Option<Contact> {
        let passed_len = PASSED_LEN[usize::from(!from.is_ipv4())] + FLAGS_LEN;
        if len < passed_len + self.seal.overhead() {
            return None;
        }
        let third = self.random_contact(|third| {
            let at = &third.endpoint;
            !at.is_local() && at.is_ipv4() == from.is_ipv4() && voter(at) != voter(from)
        });
        third.filter(|_| self.outside.passed.take(now, from))
    }

    /// Whether a PING may go there because somebody asks for it.
    fn may_probe(&mut self, now: Time, to: &Endpoint) -> bool {
        let is_somebody = to.is_sendable() && !to.is_local() && !self.is_own(to);
        is_somebody && self.reaches(to) && self.outside.sent.take(now, to)
    }

    /// A contact that answered its last question, drawn at random: of two, the one that answered later,
    /// for it is likelier to be there still.
    fn random_contact(&mut self, wanted: impl Fn(&Contact) -> bool) -> Option<Contact> {
        let listed = self.table.entries().filter(|entry| entry.is_reliable());
        let listed: Vec<_> = listed.filter(|entry| wanted(&entry.contact)).collect();
        let mut draw = || listed.get(self.rng.next_u64() as usize % listed.len().max(1));
        [draw(), draw()].into_iter().flatten().max_by_key(|entry| entry.seen()).map(|e| e.contact)
    }

    /// A transaction id.
    pub(super) fn random_txid(&mut self) -> TxId {
        let mut txid = TxId([0; 8]);
        self.rng.fill_bytes(&mut txid.0);
        txid
    }
}
