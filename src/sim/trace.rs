//! How a lookup goes: what it asks, over whom it comes to its end, and whether what it found is the
//! truth, which only the simulation knows.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::{Happening, Letter, NOBODY, Simulation};
use crate::dht::protocol::{Engine, Event, Outbox, Outcome};
use crate::dht::requests::OpId;
use crate::id::NodeId;
use crate::time::Time;
use crate::wire::message::{Body, Contact, Endpoint, Kind, TxId};
use crate::wire::native::{self, Lists};

/// What a lookup was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// The nodes nearest to the target.
    Nodes,
    /// A record that the nodes nearest to the target store since the lookup began.
    Record,
    /// The peers that were announced for the target.
    Peers,
    /// The nodes nearest to the target, to store a peer with this port there.
    Announce(u16),
}

/// A lookup that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// Its number, in the order of their beginnings.
    pub number: u64,
    /// Who looked up.
    pub asker: u32,
    /// What it was for.
    pub goal: Goal,
    /// What was looked up.
    pub target: NodeId,
    /// When it began.
    pub started: Time,
    /// How long it took.
    pub latency: Duration,
    /// Whether it found exactly the k nearest nodes that live; or the record, or any peer; or was
    /// confirmed by any node.
    pub success: bool,
    /// The nodes that it found, the nearest first.
    pub nodes: Vec<Contact>,
    /// The peers that it found.
    pub peers: Vec<Endpoint>,
    /// How many nodes confirmed that they store an announce.
    pub confirmed: usize,
    /// Queries that it sent, repeated ones included.
    pub queries: u32,
    /// Queries and the answers that came.
    pub messages: u32,
    /// What the answers named.
    pub named: Named,
    /// The way to the nearest node that it found, or to the one that gave the record: whom the own
    /// table named, whom that one named, and so on. Its length is the number of hops.
    pub path: Vec<Step>,
}

/// The contacts that answers named, each as often as it was named, and those of them that the asker
/// could not have reached at that moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// How many they were.
    pub all: u32,
    /// Those at an address where nobody is any more.
    pub dead: u32,
    /// Those at a translator that does not let the asker in.
    pub barred: u32,
}

/// A node on the way of a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Who and where.
    pub contact: Contact,
    /// When its answer came.
    pub answered: Time,
}

/// A lookup under way.
pub(super) struct Trace {
    number: u64,
    /// Where it runs.
    pub(super) member: u32,
    op: OpId,
    goal: Goal,
    target: NodeId,
    started: Time,
    queries: u32,
    answers: u32,
    named: Named,
    open: BTreeSet<TxId>,
    /// Who named an address first; nobody where the own table did.
    named_by: HashMap<Endpoint, Option<Endpoint>>,
    answered: HashMap<Endpoint, Step>,
    peers: Vec<Endpoint>,
    /// Whose answer came last, and whose brought the record, or the first peer.
    last: Option<Endpoint>,
    giver: Option<Endpoint>,
}

/// The longest that a lookup may take, as for a user's `timeout`.
const TIMEOUT: Duration = Duration::from_secs(10);

impl Simulation {
    /// Begins a lookup of each kind, and plans the next two.
    pub(super) fn begin_lookups(&mut self, series: u32) {
        if series != self.series {
            return;
        }
        self.lookups_left -= 1;
        if self.lookups_left > 0 {
            self.queue.plan(self.now + self.lookup_interval, Happening::Lookup(series));
        }
        for goal in [Goal::Nodes, Goal::Record] {
            let target = NodeId(self.random());
            self.start_lookup(goal, target, None);
        }
    }

    /// Begins a lookup at a member, else at some honest one; gives its number, where one lives that
    /// can take it up. Its end is among [`Simulation::lookups`].
    pub fn start_lookup(&mut self, goal: Goal, target: NodeId, member: Option<u32>) -> Option<u64> {
        let record = self.record(self.lookups_begun + 1);
        let member = member.or_else(|| self.random_honest(NOBODY))?;
        if goal == Goal::Record {
            for index in self.nearest(&target, member) {
                let now = self.now;
                if let Some(engine) = &mut self.members[index as usize].engine {
                    engine.plant(now, target, record);
                }
            }
        }
        let now = self.now;
        let engine = self.members.get_mut(member as usize)?.engine.as_mut()?;
        let mut out = Outbox::default();
        let timeout = Some(TIMEOUT);
        let op = match goal {
            Goal::Nodes => engine.find_node(now, target, timeout, &mut out),
            Goal::Record | Goal::Peers => engine.get_peers(now, target, timeout, &mut out),
            Goal::Announce(port) => {
                engine.announce_peer(now, target, Some(port), timeout, &mut out)
            }
        };
        let op = op.ok()?;
        self.members[member as usize].traced += 1;
        self.lookups_begun += 1;
        let number = self.lookups_begun;
        self.traces.push(Trace {
            number,
            member,
            op,
            goal,
            target,
            started: now,
            queries: 0,
            answers: 0,
            named: Named::default(),
            open: BTreeSet::new(),
            named_by: HashMap::new(),
            answered: HashMap::new(),
            peers: Vec::new(),
            last: None,
            giver: None,
        });
        // What began just now is traced from its first query on.
        self.out = out;
        self.settle(member);
        Some(number)
    }

    /// Notes a query of a traced lookup.
    pub(super) fn trace_departure(&mut self, index: u32, to: Endpoint, datagram: &[u8]) {
        let mut lists = Lists::default();
        let Ok(message) = native::decode(datagram, &mut lists) else {
            return;
        };
        let (Body::FindNode { target } | Body::GetPeers { topic: target }) = message.body else {
            return;
        };
        let mut traces = self.traces.iter_mut();
        if let Some(trace) = traces.find(|trace| trace.member == index && trace.target == target) {
            trace.queries += 1;
            trace.open.extend(message.txid());
            trace.named_by.entry(to).or_insert(None);
        }
    }

    /// Notes an answer to a query of a traced lookup.
    pub(super) fn trace_arrival(&mut self, index: u32, letter: &Letter) {
        let mut lists = Lists::default();
        let Ok(message) = native::decode(&letter.bytes, &mut lists) else {
            return;
        };
        let Some(txid) = message.txid() else {
            return;
        };
        let now = self.now;
        let named = self.count_named(index, message.nodes);
        let mut traces = self.traces.iter_mut().filter(|trace| trace.member == index);
        let Some(trace) = traces.find(|trace| trace.open.contains(&txid)) else {
            return;
        };
        let is_answer = matches!(message.body.kind(), Kind::FoundNodes | Kind::Peers);
        if !is_answer || !trace.named_by.contains_key(&letter.from) {
            return;
        }
        trace.open.remove(&txid);
        trace.answers += 1;
        trace.named.all += named.all;
        trace.named.dead += named.dead;
        trace.named.barred += named.barred;
        trace.last = Some(letter.from);
        let contact = Contact { id: message.sender, endpoint: letter.from };
        trace.answered.entry(letter.from).or_insert(Step { contact, answered: now });
        for node in message.nodes {
            trace.named_by.entry(node.endpoint).or_insert(Some(letter.from));
        }
    }

    /// Notes what a traced lookup found, and how it ended.
    pub(super) fn trace_event(&mut self, index: u32, event: Event) {
        match event {
            Event::Peers { op, peers } => {
                let mut traces = self.traces.iter_mut();
                let trace = traces.find(|trace| trace.member == index && trace.op == op);
                if let Some(trace) = trace {
                    trace.giver = trace.giver.or(trace.last);
                    trace.peers.extend(peers);
                }
            }
            Event::Done { op, outcome } => {
                let mut traces = self.traces.iter();
                let is_it = |trace: &Trace| trace.member == index && trace.op == op;
                if let Some(at) = traces.position(is_it) {
                    let trace = self.traces.swap_remove(at);
                    self.members[index as usize].traced -= 1;
                    self.conclude(trace, outcome);
                }
            }
            _ => {}
        }
    }

    fn conclude(&mut self, trace: Trace, outcome: Outcome) {
        let (nodes, confirmed) = match outcome {
            Outcome::Nodes(nodes) => (nodes, 0),
            Outcome::Announced(confirmed) => (Vec::new(), confirmed),
            _ => (Vec::new(), 0),
        };
        let success = match trace.goal {
            Goal::Nodes => {
                let truth = self.nearest(&trace.target, trace.member).into_iter();
                let found = nodes.iter().map(|node| node.id);
                found.eq(truth.filter_map(|index| self.id(index)))
            }
            Goal::Record => trace.peers.contains(&self.record(trace.number)),
            Goal::Peers => !trace.peers.is_empty(),
            Goal::Announce(_) => confirmed > 0,
        };
        let end = match trace.goal {
            Goal::Nodes => nodes.first().map(|node| node.endpoint),
            Goal::Record | Goal::Peers => trace.giver,
            Goal::Announce(_) => None,
        };
        self.lookups.push(Lookup {
            number: trace.number,
            asker: trace.member,
            goal: trace.goal,
            target: trace.target,
            started: trace.started,
            latency: self.now - trace.started,
            success,
            queries: trace.queries,
            named: trace.named,
            messages: trace.queries + trace.answers,
            path: end.map_or_else(Vec::new, |end| trace.path_to(end)),
            nodes,
            peers: trace.peers,
            confirmed,
        });
    }

    /// Counts contacts that are named to a member, and those of them that it cannot reach now.
    fn count_named(&self, member: u32, nodes: &[Contact]) -> Named {
        let own = self.endpoint(member);
        let is_lost = |node: &&Contact| {
            let there = self.at.get(&node.endpoint).map(|&at| &self.members[at as usize]);
            there.is_none_or(|there| !self.is_reached(there, &node.endpoint, &own))
        };
        let lost = nodes.iter().filter(is_lost).map(|node| self.is_translators(&node.endpoint));
        let [mut dead, mut barred] = [0, 0];
        lost.for_each(|is_behind| *(if is_behind { &mut barred } else { &mut dead }) += 1);
        Named { all: nodes.len() as u32, dead, barred }
    }

    /// The k nodes nearest to `target` that live and that anybody can reach, but `asker`, the nearest
    /// first.
    pub(super) fn nearest(&self, target: &NodeId, asker: u32) -> Vec<u32> {
        let k = self.config.k;
        let mut nearest: Vec<_> = (0..self.members.len() as u32)
            .filter(|&index| index != asker && self.members[index as usize].nat.is_none())
            .filter_map(|index| Some((self.id(index)?.distance(target), index)))
            .collect();
        if nearest.len() > k {
            nearest.select_nth_unstable(k);
            nearest.truncate(k);
        }
        nearest.sort_unstable();
        nearest.into_iter().map(|(_, index)| index).collect()
    }

    fn id(&self, index: u32) -> Option<NodeId> {
        self.members[index as usize].engine.as_deref().map(Engine::id)
    }

    /// What the nodes nearest to a target store for the lookup with this number: each from another
    /// address, so that no node's limit for one address is met.
    fn record(&self, number: u64) -> Endpoint {
        let [.., b, c, d] = number.to_be_bytes();
        let ip = if self.settings.is_local { [172, 16 + b % 16, c, d] } else { [9, b, c, d] };
        Endpoint::new(ip, 999)
    }
}

impl Trace {
    fn path_to(&self, end: Endpoint) -> Vec<Step> {
        let mut path = Vec::new();
        let mut at = Some(end);
        while let Some(step) = at.and_then(|at| self.answered.get(&at)) {
            path.push(*step);
            at = self.named_by.get(&step.contact.endpoint).copied().flatten();
        }
        path.reverse();
        path
    }
}
