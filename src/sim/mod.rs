//! Thousands of nodes in one process, on virtual time: the engine that serves the Internet, under
//! latency, loss, churn, partitions and attack, each run decided by its seed.
//!
//! [`Simulation`] drives the engines and the faults of their network. How a lookup went is traced
//! beside it, and what hostile nodes do stands in `hostile`.
//!
//! ```
//! use std::time::Duration;
//! use kadepy::sim::{Settings, Simulation};
//!
//! let mut sim = Simulation::new(Settings { nodes: 50, seed: 7, ..Settings::default() });
//! sim.build();
//! sim.look_up(10, Duration::from_secs(1));
//! sim.finish();
//! assert!(sim.lookups().iter().all(|lookup| lookup.success));
//! ```

mod hostile;
mod link;
mod nat;
mod queue;
mod trace;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use chacha20::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

pub use self::hostile::Conduct;
pub use self::link::{Duplication, Fault, Flight, Loss, Partition, Reordering};
use self::link::{Latency, share};
use self::nat::Nat;
use self::queue::{Happening, Letter, Queue};
use self::trace::Trace;
pub use self::trace::{Goal, Lookup, Named, Step};
use crate::config::Config;
use crate::dht::protocol::{Engine, Event, Outbox};
use crate::dht::requests::OpId;
use crate::id::NodeId;
use crate::time::Time;
use crate::wire::message::{Contact, Endpoint};

/// What decides a run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many nodes there are, hostile ones included.
    pub nodes: usize,
    /// Where every random number comes from.
    pub seed: u64,
    /// How long datagrams take one way, evenly spread over the pairs of nodes.
    pub latency: RangeInclusive<Duration>,
    /// The share of datagrams that are lost.
    pub loss: f64,
    /// The median time after which a node is switched off and a new one joins; `None` for never.
    pub churn: Option<Duration>,
    /// The share of nodes that are hostile.
    pub hostile: f64,
    /// What these do.
    pub conduct: Conduct,
    /// The share of nodes that are behind translators, which let only those in that the node behind has
    /// sent to.
    pub nat: f64,
    /// What each node is told about being read-only; see [`Engine::set_read_only`].
    pub read_only: Option<bool>,
    /// Whether the nodes have addresses of one local network, not public ones.
    pub is_local: bool,
    /// The limits of each node.
    pub config: Config,
}

/// A network on virtual time.
pub struct Simulation {
    now: Time,
    settings: Settings,
    config: Arc<Config>,
    rng: ChaCha20Rng,
    members: Vec<Member>,
    /// Who is to be found where.
    at: HashMap<Endpoint, u32>,
    /// The addresses of translators, those of former ones too.
    translators: HashSet<IpAddr>,
    /// Addresses given out so far.
    addresses: u32,
    /// Members that have started, whoever is in their places now.
    started: u32,
    queue: Queue,
    latency: Latency,
    faults: Vec<Box<dyn Fault>>,
    /// The hostile members.
    hostile: Vec<u32>,
    out: Outbox,
    traces: Vec<Trace>,
    lookups: Vec<Lookup>,
    lookups_begun: u64,
    lookups_left: usize,
    /// The number of the series that they are of.
    series: u32,
    lookup_interval: Duration,
    traffic: Traffic,
}

/// A place in the network, which one node after another may take.
struct Member {
    /// `None` before the start and after the end.
    engine: Option<Box<Engine>>,
    /// As others see it.
    endpoint: Endpoint,
    /// Its translator, where it has one.
    nat: Option<Box<Nat>>,
    wakes_at: Time,
    is_hostile: bool,
    /// Whether its next mischief is planned.
    is_scheming: bool,
    /// Whether its session does not end by itself.
    stays: bool,
    /// Lookups under way here that are traced.
    traced: u32,
}

/// What went over the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Datagrams sent.
    pub datagrams: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Copies that did not arrive: lost, cut off, or sent to where nobody is.
    pub lost: u64,
}

/// Between the starts of two nodes.
const START_INTERVAL: Duration = Duration::from_millis(20);
/// From the last start to the end of the build.
const SETTLE: Duration = Duration::from_secs(30);
/// The shortest session: without one no time would pass.
const SESSION_MIN: Duration = Duration::from_millis(1);
/// The number of no member.
const NOBODY: u32 = u32::MAX;
/// So many nodes a newcomer is told of.
const SEEDS: usize = 3;

impl Default for Settings {
    fn default() -> Self {
        Self {
            nodes: 1_000,
            seed: 0,
            latency: Duration::from_millis(20)..=Duration::from_millis(200),
            loss: 0.0,
            churn: None,
            hostile: 0.0,
            conduct: Conduct::Collude,
            nat: 0.0,
            read_only: None,
            is_local: false,
            config: Config::default(),
        }
    }
}

/// Making a network and letting time pass.
impl Simulation {
    /// A network whose nodes start one after another as time passes.
    pub fn new(settings: Settings) -> Self {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&settings.seed.to_be_bytes());
        let mut rng = ChaCha20Rng::from_seed(seed);
        let latency = Latency { range: settings.latency.clone(), seed: rng.next_u64() };
        let mut sim = Self {
            now: Time::ZERO,
            config: Arc::new(settings.config.clone()),
            rng,
            members: Vec::with_capacity(settings.nodes),
            at: HashMap::with_capacity(settings.nodes),
            translators: HashSet::new(),
            addresses: 0,
            started: 0,
            queue: Queue::default(),
            latency,
            faults: Vec::new(),
            hostile: Vec::new(),
            out: Outbox::default(),
            traces: Vec::new(),
            lookups: Vec::new(),
            lookups_begun: 0,
            lookups_left: 0,
            series: 0,
            lookup_interval: Duration::ZERO,
            traffic: Traffic::default(),
            settings,
        };
        if sim.settings.loss > 0.0 {
            sim.add_fault(Loss(sim.settings.loss));
        }
        for index in 0..sim.settings.nodes as u32 {
            // However many are hostile, somebody has to be there to join through.
            let is_hostile = index >= SEEDS as u32 && share(&mut sim.rng) < sim.settings.hostile;
            if is_hostile {
                sim.hostile.push(index);
            }
            let endpoint = sim.new_address();
            let is_behind = index >= SEEDS as u32
                && sim.settings.nat > 0.0
                && share(&mut sim.rng) < sim.settings.nat;
            let nat = is_behind.then(|| sim.new_nat(&endpoint));
            let member = Member {
                engine: None,
                endpoint,
                nat,
                wakes_at: Time::MAX,
                is_hostile,
                is_scheming: false,
                stays: false,
                traced: 0,
            };
            sim.members.push(member);
            sim.queue.plan(Time::ZERO + START_INTERVAL * index, Happening::Start(index));
        }
        sim
    }

    /// When the network is built: all have started, and had time to join.
    pub fn built_at(&self) -> Time {
        Time::ZERO + START_INTERVAL * self.settings.nodes as u32 + SETTLE
    }

    /// Lets time pass until the network is built.
    pub fn build(&mut self) {
        self.run_until(self.built_at(), usize::MAX);
    }

    /// Lets time pass until `end`, or until so much has happened; whether it is `end`.
    pub fn run_until(&mut self, end: Time, happenings: usize) -> bool {
        for _ in 0..happenings {
            if self.queue.next_at().is_none_or(|at| at > end) {
                self.now = end.max(self.now);
                return true;
            }
            let Some((at, happening)) = self.queue.next() else {
                continue;
            };
            self.now = at;
            self.happen(happening);
        }
        false
    }

    /// Lets time pass for `span`.
    pub fn run(&mut self, span: Duration) {
        self.run_until(self.now + span, usize::MAX);
    }

    /// Lets time pass until every lookup that was asked for is over.
    pub fn finish(&mut self) {
        while self.is_looking_up() {
            self.run(Duration::from_secs(1));
        }
    }

    /// Whether any lookup that was asked for is not over.
    pub fn is_looking_up(&self) -> bool {
        self.lookups_left > 0 || !self.traces.is_empty()
    }

    /// The virtual time.
    pub fn now(&self) -> Time {
        self.now
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrival(place) => {
                let mut letter = self.queue.take(place);
                self.arrive(&mut letter);
                self.queue.recycle(place, letter);
            }
            Happening::Wake(index) => {
                if self.members[index as usize].wakes_at == self.now {
                    self.settle(index);
                }
            }
            Happening::Start(index) => self.start(index),
            Happening::Leave(index) if self.members[index as usize].stays => {}
            Happening::Leave(index) => self.replace(index),
            Happening::Mischief(index) => self.make_mischief(index),
            Happening::Lookup(series) => self.begin_lookups(series),
        }
    }

    fn start(&mut self, index: u32) {
        let (id, seed) = (NodeId(self.random()), self.random());
        // Honest ones that can be reached: who joins through others is lost from the start.
        let is_seed =
            |at: u32, member: &Member| at != index && !member.is_hostile && member.nat.is_none();
        let seeds: Vec<Endpoint> = (0..SEEDS)
            .filter_map(|_| self.random_member(is_seed).map(|at| self.endpoint(at)))
            .collect();
        self.started = self.started.max(index + 1);
        let endpoint = self.endpoint(index);
        let is_behind = self.members[index as usize].nat.is_some();
        let bound = if is_behind { Nat::inside() } else { endpoint };
        let mut engine = Engine::new(self.now, id, bound, Arc::clone(&self.config), seed);
        engine.set_read_only(self.settings.read_only);
        if !seeds.is_empty() {
            engine.stay_joined(self.now, seeds, false, &mut Outbox::default());
        }
        let member = &mut self.members[index as usize];
        member.engine = Some(Box::new(engine));
        let is_up_to_something = member.is_hostile && self.settings.conduct.is_active();
        let schemes = is_up_to_something && !std::mem::replace(&mut member.is_scheming, true);
        self.at.insert(endpoint, index);
        if let Some(median) = self.settings.churn {
            // Sessions end as radioactive atoms do. The first nodes stay until all have started.
            let lives = median.mul_f64(-(1.0 - share(&mut self.rng)).log2()).max(SESSION_MIN);
            self.queue.plan(self.now.max(self.built_at()) + lives, Happening::Leave(index));
        }
        if schemes {
            self.queue.plan(self.now, Happening::Mischief(index));
        }
        self.settle(index);
    }

    /// Switches a node off, and a new one on in its place.
    fn replace(&mut self, index: u32) {
        if self.members[index as usize].engine.is_some() {
            self.switch_off(index);
            self.move_away(index);
            self.start(index);
        }
    }

    fn switch_off(&mut self, index: u32) {
        let member = &mut self.members[index as usize];
        member.engine = None;
        member.wakes_at = Time::MAX;
        member.traced = 0;
        self.at.remove(&member.endpoint);
        self.traces.retain(|trace| trace.member != index);
    }

    fn arrive(&mut self, letter: &mut Letter) {
        let index = letter.receiver;
        let member = &self.members[index as usize];
        if !self.is_reached(member, &letter.to, &letter.from) {
            self.traffic.lost += 1;
            return;
        }
        let (is_traced, is_hostile) = (member.traced > 0, member.is_hostile);
        if is_hostile && self.lie(index, letter) {
            return;
        }
        if is_traced {
            self.trace_arrival(index, letter);
        }
        if let Some(engine) = &mut self.members[index as usize].engine {
            engine.receive(self.now, letter.from, &mut letter.bytes, &mut self.out);
            self.settle(index);
        }
    }

    /// Takes out what a node has to send and to tell, and plans its next deadline.
    fn settle(&mut self, index: u32) {
        let member = &mut self.members[index as usize];
        let Some(engine) = &mut member.engine else {
            return;
        };
        engine.tick(self.now, &mut self.out);
        let mut events = Vec::new();
        while let Some(event) = engine.poll_event() {
            events.push(event);
        }
        // Work that is due at once, such as lookups let go by a join, takes a moment too.
        let deadline = engine.next_deadline().map(|at| at.max(self.now + Duration::from_micros(1)));
        if deadline.is_some_and(|at| at < member.wakes_at || member.wakes_at <= self.now) {
            member.wakes_at = deadline.unwrap_or(Time::MAX);
            self.queue.plan(member.wakes_at, Happening::Wake(index));
        }
        self.dispatch(index);
        for event in events {
            self.note(index, event);
        }
    }

    fn note(&mut self, index: u32, event: Event) {
        if self.members[index as usize].traced > 0 {
            self.trace_event(index, event);
        }
    }

    /// Sends what stands in the outbox from a node's address.
    fn dispatch(&mut self, index: u32) {
        if self.out.is_empty() {
            return;
        }
        let mut out = std::mem::take(&mut self.out);
        let is_traced = self.members[index as usize].traced > 0;
        for (to, datagram) in out.iter() {
            if is_traced {
                self.trace_departure(index, to, datagram);
            }
            let from = self.leave(index, &to);
            self.send(index, from, to, datagram);
        }
        out.clear();
        self.out = out;
    }

    /// The source of a datagram that leaves a node, which a translator may give another port.
    fn leave(&mut self, index: u32, to: &Endpoint) -> Endpoint {
        let now = self.now;
        let member = &mut self.members[index as usize];
        if member.nat.as_mut().is_some_and(|nat| nat.let_out(now, to)) {
            let endpoint =
                member.endpoint.with_port(member.endpoint.port().wrapping_add(1).max(1_024));
            self.move_to(index, endpoint);
            self.at.insert(endpoint, index);
        }
        self.endpoint(index)
    }

    /// Whether a datagram to an address of a member gets to its node.
    fn is_reached(&self, member: &Member, to: &Endpoint, from: &Endpoint) -> bool {
        member.engine.is_some()
            && member.endpoint == *to
            && member.nat.as_ref().is_none_or(|nat| nat.lets_in(self.now, from))
    }

    /// Gives a place in the network another address, and another translator if it has one.
    fn move_away(&mut self, index: u32) {
        let endpoint = self.new_address();
        let is_behind = self.members[index as usize].nat.is_some();
        let nat = is_behind.then(|| self.new_nat(&endpoint));
        self.members[index as usize].nat = nat;
        self.move_to(index, endpoint);
    }

    fn move_to(&mut self, index: u32, endpoint: Endpoint) {
        let former = std::mem::replace(&mut self.members[index as usize].endpoint, endpoint);
        self.at.remove(&former);
    }

    fn new_nat(&mut self, endpoint: &Endpoint) -> Box<Nat> {
        self.translators.insert(endpoint.ip());
        Box::new(Nat::new(share(&mut self.rng)))
    }

    /// Whether an address is, or was, that of a translator.
    fn is_translators(&self, endpoint: &Endpoint) -> bool {
        self.translators.contains(&endpoint.ip())
    }

    /// Sends one datagram, whose source may be a lie.
    fn send(&mut self, sender: u32, from: Endpoint, to: Endpoint, datagram: &[u8]) {
        self.traffic.datagrams += 1;
        self.traffic.bytes += datagram.len() as u64;
        let Some(&receiver) = self.at.get(&to) else {
            self.traffic.lost += 1;
            return;
        };
        let ends = (sender, receiver);
        let mut flight = Flight { now: self.now, ends, copies: Default::default() };
        flight.copies.push(self.latency.of(ends, &mut self.rng));
        for fault in &mut self.faults {
            fault.strike(&mut flight, &mut self.rng);
        }
        if flight.copies.is_empty() {
            self.traffic.lost += 1;
        }
        for delay in flight.copies {
            self.queue.post(self.now + delay, from, (to, receiver), datagram);
        }
    }
}

/// What happens to the network.
impl Simulation {
    /// Adds a fault to every way.
    pub fn add_fault(&mut self, fault: impl Fault + 'static) {
        let now = self.now;
        self.faults.retain(|fault| !fault.is_over(now));
        self.faults.push(Box::new(fault));
    }

    /// Switches off a share of the nodes that live; gives how many.
    pub fn kill(&mut self, part: f64) -> usize {
        let mut killed = 0;
        for index in 0..self.members.len() as u32 {
            if self.members[index as usize].engine.is_some() && share(&mut self.rng) < part {
                self.switch_off(index);
                killed += 1;
            }
        }
        killed
    }

    /// Cuts a share of the nodes off from the others for `span`.
    pub fn partition(&mut self, part: f64, span: Duration) {
        let seed = self.rng.next_u64();
        self.add_fault(Partition { share: part, until: self.now + span, seed });
    }

    /// Gives a share of the nodes new addresses, as a NAT does that forgets its mappings.
    pub fn rebind(&mut self, part: f64) -> usize {
        let mut rebound = 0;
        for index in 0..self.members.len() as u32 {
            if self.members[index as usize].engine.is_some() && share(&mut self.rng) < part {
                self.move_away(index);
                self.at.insert(self.endpoint(index), index);
                rebound += 1;
            }
        }
        rebound
    }

    /// Has a member join a topic as a peer with this port, and stay, for whatever time its session was
    /// to have; gives the membership, where the member lives and has room for it.
    pub fn join_topic(&mut self, member: u32, topic: NodeId, port: u16) -> Option<OpId> {
        let now = self.now;
        let joining = self.members.get_mut(member as usize)?;
        let op = joining.engine.as_mut()?.join_topic(now, topic, Some(port)).ok()?;
        joining.stays = true;
        self.settle(member);
        Some(op)
    }

    /// Plans `count` lookups for records and as many for nodes, evenly over `span`, each from some
    /// node and for some id.
    pub fn look_up(&mut self, count: usize, span: Duration) {
        let is_idle = self.lookups_left == 0;
        self.lookups_left += count;
        self.lookup_interval = span / u32::try_from(count.max(1)).unwrap_or(u32::MAX);
        if is_idle && count > 0 {
            self.series += 1;
            self.queue.plan(self.now, Happening::Lookup(self.series));
        }
    }

    /// Gives up the lookups that were asked for and are not over.
    pub fn forget_lookups(&mut self) {
        self.lookups_left = 0;
        self.series += 1;
        for trace in self.traces.drain(..) {
            self.members[trace.member as usize].traced = 0;
        }
    }
}

/// What is to be known of the network.
impl Simulation {
    /// The lookups that are over, in the order of their ends.
    pub fn lookups(&self) -> &[Lookup] {
        &self.lookups
    }

    /// What went over the network.
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// How many members live.
    pub fn alive(&self) -> usize {
        self.engines().count()
    }

    /// The id and address of a member, where it lives.
    pub fn contact(&self, member: u32) -> Option<Contact> {
        let member = self.members.get(member as usize)?;
        let id = member.engine.as_ref()?.id();
        Some(Contact { id, endpoint: member.endpoint })
    }

    /// The engines that live.
    pub fn engines(&self) -> impl Iterator<Item = &Engine> {
        self.members.iter().filter_map(|member| member.engine.as_deref())
    }

    /// Panics where an invariant of any engine is broken.
    pub fn check_invariants(&self) {
        self.engines().for_each(Engine::check_invariants);
        for (index, member) in self.members.iter().enumerate() {
            if member.engine.is_some() {
                assert_eq!(self.at.get(&member.endpoint), Some(&(index as u32)));
            }
        }
    }

    fn endpoint(&self, index: u32) -> Endpoint {
        self.members[index as usize].endpoint
    }

    /// A node that lives and for which `wanted` holds, drawn at random; where such are few, the first.
    fn random_member(&mut self, wanted: impl Fn(u32, &Member) -> bool) -> Option<u32> {
        const DRAWS: usize = 64;
        let count = self.started;
        let is_one = |index: u32, members: &[Member]| {
            let member = &members[index as usize];
            member.engine.is_some() && wanted(index, member)
        };
        let draws = if count == 0 { 0 } else { DRAWS };
        for _ in 0..draws {
            let index = (self.rng.next_u64() % u64::from(count)) as u32;
            if is_one(index, &self.members) {
                return Some(index);
            }
        }
        (0..count).find(|&index| is_one(index, &self.members))
    }

    /// An honest node that lives, but `other`.
    fn random_honest(&mut self, other: u32) -> Option<u32> {
        self.random_member(|index, member| index != other && !member.is_hostile)
    }

    /// An address that nobody had: on the open Internet each in a /24 of its own.
    fn new_address(&mut self) -> Endpoint {
        loop {
            self.addresses += 1;
            let bits = self.addresses;
            let ip = if self.settings.is_local {
                let [_, b, c, d] = bits.to_be_bytes();
                [10, b, c, d]
            } else {
                // Multiplying by an odd number gives each /24 once before any comes again.
                let [_, a, b, c] = (bits.wrapping_mul(0x9e_37_79) & 0xff_ff_ff).to_be_bytes();
                [a, b, c, 1 + (bits >> 24) as u8]
            };
            let endpoint = Endpoint::new(ip, 4_000);
            // What lies above is sendable only in clouds that number machines out of it.
            let is_assigned = ip[0] < 240;
            if is_assigned
                && endpoint.is_sendable()
                && endpoint.is_local() == self.settings.is_local
            {
                return endpoint;
            }
        }
    }

    fn random<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.rng.fill_bytes(&mut bytes);
        bytes
    }
}
