//! Engines on virtual time: a network that delivers, delays and loses datagrams as its seed says.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use chacha20::ChaCha20Rng;
use kadepy::dht::beacons::groups;
use kadepy::dht::protocol::{Engine, Event, Outbox, Outcome};
use kadepy::dht::requests::OpId;
use kadepy::wire::seal;
use kadepy::{Config, Endpoint, NodeId, Time};
use rand_core::{Rng, SeedableRng};

/// The seed of a run: `KADEPY_SEED` where it is set, else `default`. It is printed, so that a
/// failure shows it.
pub fn seed(default: u64) -> u64 {
    let seed =
        std::env::var("KADEPY_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    println!("KADEPY_SEED={seed}");
    seed
}

/// The address of node `index` on the open Internet, each in a network of its own.
pub fn public(index: u32) -> Endpoint {
    let [_, a, b, c] = (index * 257).to_be_bytes();
    Endpoint::new([50 + a, b, c, 1], 4_000)
}

/// The address of node `index` on a LAN.
pub fn local(index: u8) -> Endpoint {
    Endpoint::new([192, 168, 0, index], 4_000)
}

/// When it arrives, its serial number, from where, to where, whether as one of a group, and its bytes.
type Datagram = (Time, u64, Endpoint, Endpoint, bool, Vec<u8>);

/// Any number of engines, and the datagrams between them.
pub struct Network {
    pub now: Time,
    pub nodes: BTreeMap<Endpoint, Engine>,
    pub events: BTreeMap<Endpoint, Vec<Event>>,
    /// The other address of nodes that have one in each family, by the one that they stand under in
    /// `nodes`.
    pub others: BTreeMap<Endpoint, Endpoint>,
    /// The share of datagrams that are lost.
    pub loss: f64,
    /// The nodes of one link that look for each other, see [`Network::seek`].
    pub link: Vec<Endpoint>,
    /// Nodes that neither send nor receive.
    pub dead: Vec<Endpoint>,
    /// How many datagrams to one node may be under way before more are lost, as in a receive buffer
    /// that the node empties only when all are there.
    pub buffer: usize,
    /// The datagrams lost so.
    pub overflowed: usize,
    /// Everything that was sent, where `records` asks for it.
    pub sent: Vec<(Endpoint, Endpoint, Vec<u8>)>,
    pub records: bool,
    flying_to: BTreeMap<Endpoint, usize>,
    /// How long every datagram takes; else some 10 to 90 ms.
    pub latency: Option<Duration>,
    flying: BinaryHeap<Reverse<Datagram>>,
    serial: u64,
    rng: ChaCha20Rng,
}

impl Network {
    pub fn new(seed: u64) -> Self {
        Self {
            now: Time::ZERO,
            nodes: BTreeMap::new(),
            events: BTreeMap::new(),
            others: BTreeMap::new(),
            loss: 0.0,
            link: Vec::new(),
            dead: Vec::new(),
            buffer: usize::MAX,
            overflowed: 0,
            sent: Vec::new(),
            records: false,
            flying_to: BTreeMap::new(),
            latency: None,
            flying: BinaryHeap::new(),
            serial: 0,
            rng: ChaCha20Rng::seed_from_u64(seed),
        }
    }

    /// Random bytes of the run.
    pub fn random<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.rng.fill_bytes(&mut bytes);
        bytes
    }

    /// A node with a random id at `endpoint`.
    pub fn add(&mut self, endpoint: Endpoint, config: &Arc<Config>) -> NodeId {
        let id = NodeId(self.random());
        self.put(endpoint, id, config);
        id
    }

    /// A node with this id at `endpoint`, in the place of one that may be there.
    pub fn put(&mut self, endpoint: Endpoint, id: NodeId, config: &Arc<Config>) {
        let seed = self.random();
        let engine = Engine::new(self.now, id, endpoint, Arc::clone(config), seed);
        self.nodes.insert(endpoint, engine);
        self.events.remove(&endpoint);
    }

    /// Makes a node one of a private network, or a public one again.
    pub fn enter(&mut self, at: Endpoint, network: &seal::Network) {
        let start = self.random();
        self.command(at, |engine, now, _| engine.enter(now, network, start));
    }

    /// Has a node look for others on the one link that there is.
    pub fn seek(&mut self, at: Endpoint) {
        self.link.push(at);
        self.command(at, |engine, now, _| engine.seek(now));
    }

    /// Runs a command on a node.
    pub fn command<T>(
        &mut self,
        at: Endpoint,
        run: impl FnOnce(&mut Engine, Time, &mut Outbox) -> T,
    ) -> T {
        let mut out = Outbox::default();
        let now = self.now;
        let engine = self.nodes.get_mut(&at).expect("a node of this network");
        let result = run(engine, now, &mut out);
        self.settle(at, out);
        result
    }

    /// Lets a datagram arrive now, from anywhere; gives what the node sends at once.
    pub fn inject(
        &mut self,
        from: Endpoint,
        to: Endpoint,
        datagram: &[u8],
    ) -> Vec<(Endpoint, Vec<u8>)> {
        let mut out = Outbox::default();
        let engine = self.nodes.get_mut(&to).expect("a node of this network");
        engine.receive(self.now, from, &mut datagram.to_vec(), &mut out);
        engine.tick(self.now, &mut out);
        engine.check_invariants();
        let sent = out.iter().map(|(to, datagram)| (to, datagram.to_vec())).collect();
        self.settle(to, out);
        sent
    }

    /// Runs until `end` gives something, or for `limit` of virtual time.
    pub fn run_until<T>(
        &mut self,
        limit: Duration,
        mut end: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<T> {
        let stop = self.now + limit;
        loop {
            if let Some(result) = end(self) {
                return Some(result);
            }
            let arrival = self.flying.peek().map(|Reverse((at, ..))| *at);
            let dead = &self.dead;
            let deadline = self
                .nodes
                .iter_mut()
                .filter(|(endpoint, _)| !dead.contains(endpoint))
                .filter_map(|(endpoint, engine)| Some((engine.next_deadline()?, *endpoint)))
                .min();
            let next = [arrival, deadline.map(|(at, _)| at)].into_iter().flatten().min()?;
            if next > stop {
                self.now = stop;
                return None;
            }
            self.now = self.now.max(next);
            if arrival == Some(next) {
                let Reverse((_, _, from, to, is_heard, mut datagram)) =
                    self.flying.pop().expect("one was peeked at");
                *self.flying_to.entry(to).or_default() -= 1;
                let is_other = |&(_, other): &(&Endpoint, &Endpoint)| *other == to;
                let to = self.others.iter().find(is_other).map_or(to, |(at, _)| *at);
                if !self.dead.contains(&to) && self.nodes.contains_key(&to) {
                    let now = self.now;
                    self.command(to, |engine, _, out| match is_heard {
                        true => engine.hear(now, from, &mut datagram, out),
                        false => engine.receive(now, from, &mut datagram, out),
                    });
                }
            } else if let Some((_, endpoint)) = deadline {
                self.command(endpoint, |_, _, _| ());
            }
        }
    }

    /// Runs for `span` of virtual time.
    pub fn run(&mut self, span: Duration) {
        let stop = self.now + span;
        self.run_until(span, |_| None::<()>);
        self.now = stop;
    }

    /// Runs an operation of a node to its end; gives the outcome.
    pub fn finish(&mut self, at: Endpoint, op: OpId) -> Outcome {
        self.run_until(Duration::from_secs(600), |network| network.take_outcome(at, op))
            .expect("every operation ends")
    }

    /// The outcome of an operation that has ended.
    pub fn take_outcome(&mut self, at: Endpoint, op: OpId) -> Option<Outcome> {
        self.events.entry(at).or_default().iter().find_map(|event| match event {
            Event::Done { op: done, outcome } if *done == op => Some(outcome.clone()),
            _ => None,
        })
    }

    /// The peers that an operation has found so far.
    pub fn peers(&self, at: Endpoint, op: OpId) -> Vec<Endpoint> {
        let events = self.events.get(&at).into_iter().flatten();
        events
            .filter_map(|event| match event {
                Event::Peers { op: of, peers } if *of == op => Some(peers.clone()),
                _ => None,
            })
            .flatten()
            .collect()
    }

    /// The `count` live nodes nearest to `target` but `asker`, the nearest first.
    pub fn truth(&self, target: &NodeId, asker: Endpoint, count: usize) -> Vec<NodeId> {
        let alive = self.nodes.iter().filter(|(at, _)| **at != asker && !self.dead.contains(at));
        let mut ids: Vec<NodeId> = alive.map(|(_, engine)| engine.id()).collect();
        ids.sort_by_key(|id| id.distance(target));
        ids.truncate(count);
        ids
    }

    /// Takes out what a node has to send and to tell.
    fn settle(&mut self, at: Endpoint, mut out: Outbox) {
        let engine = self.nodes.get_mut(&at).expect("a node of this network");
        engine.tick(self.now, &mut out);
        while let Some(event) = engine.poll_event() {
            self.events.entry(at).or_default().push(event);
        }
        for (to, datagram) in out.iter() {
            let other = self.others.get(&at).filter(|other| other.is_ipv4() == to.is_ipv4());
            let from = other.copied().unwrap_or(at);
            assert!(datagram.len() <= 1_200, "a node sent {} bytes", datagram.len());
            if self.records {
                self.sent.push((from, to, datagram.to_vec()));
            }
            if self.dead.contains(&at) {
                continue;
            }
            if groups().contains(&to) {
                // It comes back to its sender's host too.
                self.link.clone().into_iter().for_each(|to| self.post(from, to, true, datagram));
            } else {
                self.post(from, to, false, datagram);
            }
        }
    }

    /// Puts a datagram on its way.
    fn post(&mut self, from: Endpoint, to: Endpoint, is_heard: bool, datagram: &[u8]) {
        if self.chance() < self.loss {
            return;
        }
        let in_buffer = self.flying_to.entry(to).or_default();
        if *in_buffer >= self.buffer {
            self.overflowed += 1;
            return;
        }
        *in_buffer += 1;
        let near = Duration::from_micros(10_000 + (self.chance() * 80_000.0) as u64);
        let arrival = self.now + self.latency.unwrap_or(near);
        self.serial += 1;
        let letter = (arrival, self.serial, from, to, is_heard, datagram.to_vec());
        self.flying.push(Reverse(letter));
    }

    fn chance(&mut self) -> f64 {
        (self.rng.next_u32() as f64) / (u32::MAX as f64 + 1.0)
    }
}
