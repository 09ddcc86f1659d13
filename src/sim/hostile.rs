//! What hostile nodes do. They take part like the others, so that they are listed; they differ in
//! how they answer lookups and in what they send unasked.

use std::time::Duration;

use rand_core::Rng;

use super::link::mix;
use super::{Happening, Letter, Simulation};
use crate::id::NodeId;
use crate::wire::message::{Body, Contact, Endpoint, Message, Trailer, TxId};
use crate::wire::native::{self, Lists, MAX_SENT};

/// How hostile nodes behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduct {
    /// They leave lookups unanswered.
    Silence,
    /// They name made-up ids next to the target, at addresses where nobody is.
    Lie,
    /// They name each other, under made-up ids next to the target, and answer under these.
    Collude,
    /// They send forged answers in the name of other nodes.
    Forge,
    /// They send requests without end.
    Flood,
}

/// Nodes that one lie names.
const NAMED: usize = 20;
/// Between two turns of those who act unasked, and what each sends in one.
const TURN: Duration = Duration::from_millis(100);
const FORGERIES: usize = 10;
const FLOOD: usize = 100;

impl Conduct {
    /// Whether they do anything unasked.
    pub(super) fn is_active(self) -> bool {
        matches!(self, Conduct::Forge | Conduct::Flood)
    }
}

impl Simulation {
    /// Has a hostile node deal with a datagram; `false` where it does as an honest one would.
    pub(super) fn lie(&mut self, index: u32, letter: &Letter) -> bool {
        let mut lists = Lists::default();
        let Ok(request) = native::decode(&letter.bytes, &mut lists) else {
            return false;
        };
        let (Body::FindNode { target } | Body::GetPeers { topic: target }) = request.body else {
            return false;
        };
        let Some(txid) = request.txid() else {
            return false;
        };
        let named: Vec<Contact> = match self.settings.conduct {
            Conduct::Silence => return true,
            Conduct::Forge | Conduct::Flood => return false,
            Conduct::Lie => (0..NAMED)
                .map(|_| {
                    let [a, b, c, d] = self.random();
                    let endpoint = Endpoint::new([11 + a % 80, b, c, d], 4_000);
                    Contact { id: beside(&target, &endpoint), endpoint }
                })
                .collect(),
            Conduct::Collude => (0..NAMED)
                .map(|_| {
                    let at = self.rng.next_u64() % self.hostile.len() as u64;
                    let endpoint = self.endpoint(self.hostile[at as usize]);
                    Contact { id: beside(&target, &endpoint), endpoint }
                })
                .collect(),
        };
        let endpoint = self.endpoint(index);
        let own = self.members[index as usize].engine.as_ref().map(|engine| engine.id());
        // The asker believes the one of its names under which it heard of it.
        let made_up =
            (self.settings.conduct == Conduct::Collude).then(|| beside(&target, &endpoint));
        for sender in made_up.into_iter().chain(own) {
            let token = [7; 16];
            let trailer = Trailer { txid: Some(txid), token: Some(&token), ..Trailer::default() };
            let reply =
                Message { nodes: &named, ..Message::new(sender, Body::FoundNodes, Some(trailer)) };
            self.send_as(index, endpoint, letter.from, &reply);
        }
        true
    }

    /// Has a hostile node do what it does unasked.
    pub(super) fn make_mischief(&mut self, index: u32) {
        if self.members[index as usize].engine.is_none() {
            self.members[index as usize].is_scheming = false;
            return;
        }
        self.queue.plan(self.now + TURN, Happening::Mischief(index));
        let own = self.endpoint(index);
        let count = if self.settings.conduct == Conduct::Flood { FLOOD } else { FORGERIES };
        let Some(victim) = self.random_member(|other, _| other != index) else {
            return;
        };
        for _ in 0..count {
            let to = self.endpoint(victim);
            let (sender, target) = (NodeId(self.random()), NodeId(self.random()));
            let trailer = Some(Trailer { txid: Some(TxId(self.random())), ..Trailer::default() });
            if self.settings.conduct == Conduct::Flood {
                let request = Message::new(sender, Body::FindNode { target }, trailer);
                self.send_as(index, own, to, &request);
            } else if let Some(other) = self.random_member(|other, _| other != victim) {
                let named = [Contact { id: beside(&target, &own), endpoint: own }];
                let id = self.members[other as usize].engine.as_ref().map(|engine| engine.id());
                let body = Body::FoundNodes;
                let forged =
                    Message { nodes: &named, ..Message::new(id.unwrap_or(sender), body, trailer) };
                self.send_as(index, self.endpoint(other), to, &forged);
            }
        }
    }

    fn send_as(&mut self, index: u32, from: Endpoint, to: Endpoint, message: &Message<'_>) {
        let mut datagram = Vec::with_capacity(MAX_SENT);
        if native::encode(message, MAX_SENT, 0, &mut datagram).is_some() {
            self.send(index, from, to, &datagram);
        }
    }
}

/// The id next to `target` that a node at `endpoint` takes.
fn beside(target: &NodeId, endpoint: &Endpoint) -> NodeId {
    let mut id = *target;
    let bits = endpoint.ip_bytes()[12..].iter().fold(0, |bits, &byte| bits << 8 | u64::from(byte));
    id.0[28..].copy_from_slice(&mix(bits).to_be_bytes()[..4]);
    id
}
