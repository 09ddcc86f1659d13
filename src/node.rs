//! A running node: it owns the engine, the socket and the thread, and lets any thread use them. How
//! results and packets reach those who want them is the affair of `pending` and `notices`, what it logs
//! that of `lines` and `reasons`; its state file is kept by `saver`.

mod lines;
mod notices;
mod pending;
pub mod reasons;
mod saver;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, after, bounded, never, select};
use log::Level;
use parking_lot::{Mutex, MutexGuard};
use thiserror::Error;

pub use self::lines::Line;
pub use self::notices::Notice;
use self::notices::{Notices, Urgent};
use self::pending::Waiter;
pub use self::pending::{Pending, Reply};
use self::saver::StateFile;
pub use self::saver::{SAVE_INTERVAL, SaveError};
use crate::config::Config;
use crate::dht::protocol::{Busy, Engine, Event, Outbox, Refusal, Stats, TooLong, Warning};
use crate::dht::requests::{OpId, Question};
use crate::dht::routing::Entry;
use crate::id::NodeId;
use crate::net::channel::SocketNews;
use crate::net::socket::Socket;
use crate::net::udp_reactor::{Batch, Host, Link, Look, Reactor};
use crate::time::Time;
use crate::utils::random;
use crate::wire::message::{Contact, Endpoint, Want};
use crate::wire::seal::Network;

/// The longest that [`Node::close`] takes.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// A node on a UDP socket, served by a thread of its own until it is closed or dropped.
///
/// ```
/// use std::time::Duration;
/// use kadepy::{Config, Network};
/// use kadepy::node::{Node, Reply};
///
/// let start = || Node::start(([127, 0, 0, 1], 0).into(), None, &Network::Public, Config::default());
/// let (a, b) = (start()?, start()?);
/// let answer = a.ping(b.address().into(), Some(Duration::from_secs(2)))?;
/// assert!(matches!(answer.wait(Duration::from_secs(5)), Ok(Some(Reply::Done(_)))));
/// a.close();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Node {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    id: NodeId,
}

struct Shared {
    state: Mutex<State>,
    link: Arc<Link>,
    notices: OnceLock<Notices>,
    /// Held while the waiters are released: whoever finds none left may say that nothing comes.
    releasing: Mutex<()>,
    /// Where its log lines go.
    lines: OnceLock<Sender<Line>>,
    is_closed: AtomicBool,
    /// Whether this is the copy of a node in a forked child, where its thread does not exist and
    /// a lock may be held for ever.
    is_abandoned: AtomicBool,
    /// The process that made it.
    process: u32,
    /// Gets a token when contacts that the node was made with are silent.
    tells_alone: Sender<()>,
    was_alone: Receiver<()>,
    /// Nothing is ever sent: it is disconnected when the thread has ended.
    thread_lives: Mutex<Option<Sender<()>>>,
    thread_ended: Receiver<()>,
    file: OnceLock<StateFile>,
}

struct State {
    engine: Engine,
    waiters: BTreeMap<OpId, Waiter>,
    /// When the reactor wakes by itself.
    wakes_at: Option<Time>,
}

/// Why a command was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CommandError {
    /// The node is closed.
    #[error("the node is closed")]
    Closed,
    /// The node belongs to the parent of this process.
    #[error("the node belongs to the parent process: after a fork the child makes its own")]
    Forked,
    /// The operation is over, and all its replies are taken.
    #[error("the operation has ended")]
    Ended,
    /// Too much is under way.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// More than fits into a packet.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// The system's generator fails, without which nothing can be sealed.
    #[error("the system gives no random bytes")]
    NoRandomness,
}

impl Node {
    /// Binds to `address` and starts as a node of `network`; without an `id`, with a random one.
    ///
    /// # Errors
    ///
    /// The system's, where it gives no such address, no thread or no randomness; `InvalidInput` where
    /// [`Config::check`] fails.
    pub fn start(
        address: SocketAddr,
        id: Option<NodeId>,
        network: &Network,
        config: Config,
    ) -> io::Result<Self> {
        config.check().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let id = match id {
            Some(id) => id,
            None => NodeId(random::bytes()?),
        };
        let (seed, nonce_start) = (random::bytes()?, random::bytes()?);
        let reactor = Reactor::bind(address, config.receive_buffer)?;
        let link = Arc::clone(reactor.link());
        let mut engine = Engine::new(Time::ZERO, id, link.address().into(), Arc::new(config), seed);
        engine.set_families(link.families());
        engine.set_buffer(link.receive_room());
        engine.enter(Time::ZERO, network, nonce_start);
        let (thread_lives, thread_ended) = bounded(0);
        let (tells_alone, was_alone) = bounded(1);
        let shared = Arc::new(Shared {
            state: Mutex::new(State { engine, waiters: BTreeMap::new(), wakes_at: None }),
            link,
            notices: OnceLock::new(),
            releasing: Mutex::new(()),
            lines: OnceLock::new(),
            is_closed: AtomicBool::new(false),
            is_abandoned: AtomicBool::new(false),
            process: std::process::id(),
            tells_alone,
            was_alone,
            thread_lives: Mutex::new(Some(thread_lives)),
            thread_ended,
            file: OnceLock::new(),
        });
        let thread = reactor.spawn(Arc::clone(&shared))?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)), id })
    }

    /// The node's id.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Where its sockets are bound; at `::`, where there is one for each family.
    pub fn address(&self) -> SocketAddr {
        self.shared.link.address()
    }

    /// Whether the node was closed, or left behind by a fork.
    pub fn is_closed(&self) -> bool {
        self.check_open().is_err()
    }

    /// Whether the node can take commands.
    ///
    /// # Errors
    ///
    /// [`CommandError::Closed`] or [`CommandError::Forked`].
    pub fn check_open(&self) -> Result<(), CommandError> {
        self.shared.check_open()
    }

    /// See [`Engine::ping`].
    ///
    /// # Errors
    ///
    /// [`CommandError`]; likewise for every command.
    pub fn ping(&self, to: Endpoint, timeout: Option<Duration>) -> Result<Pending, CommandError> {
        self.operation(|engine, now, out| engine.ping(now, to, timeout, out))
    }

    /// See [`Engine::find_node`].
    ///
    /// # Errors
    ///
    /// See [`Node::ping`].
    pub fn find_node(
        &self,
        target: NodeId,
        timeout: Option<Duration>,
    ) -> Result<Pending, CommandError> {
        self.operation(|engine, now, out| engine.find_node(now, target, timeout, out))
    }

    /// See [`Engine::get_peers`].
    ///
    /// # Errors
    ///
    /// See [`Node::ping`].
    pub fn get_peers(
        &self,
        topic: NodeId,
        timeout: Option<Duration>,
    ) -> Result<Pending, CommandError> {
        self.operation(|engine, now, out| engine.get_peers(now, topic, timeout, out))
    }

    /// See [`Engine::announce_peer`].
    ///
    /// # Errors
    ///
    /// See [`Node::ping`].
    pub fn announce_peer(
        &self,
        topic: NodeId,
        port: Option<u16>,
        timeout: Option<Duration>,
    ) -> Result<Pending, CommandError> {
        self.operation(|engine, now, out| engine.announce_peer(now, topic, port, timeout, out))
    }

    /// See [`Engine::join_topic`]; the membership ends when the [`Pending`] is dropped.
    ///
    /// # Errors
    ///
    /// See [`Node::ping`].
    pub fn join_topic(&self, topic: NodeId, port: Option<u16>) -> Result<Pending, CommandError> {
        self.operation(|engine, now, _| engine.join_topic(now, topic, port))
    }

    /// See [`Engine::join`].
    ///
    /// # Errors
    ///
    /// See [`Node::ping`].
    pub fn join(
        &self,
        seeds: Vec<Endpoint>,
        expects_more: bool,
        timeout: Option<Duration>,
    ) -> Result<Pending, CommandError> {
        self.operation(|engine, now, out| engine.join(now, seeds, expects_more, timeout, out))
    }

    /// See [`Engine::add_seeds`].
    ///
    /// # Errors
    ///
    /// See [`Node::ping`].
    pub fn add_seeds(
        &self,
        join: OpId,
        seeds: Vec<Endpoint>,
        expects_more: bool,
    ) -> Result<(), CommandError> {
        self.shared.command(|state, now, out| {
            state.engine.add_seeds(now, join, seeds, expects_more, out);
        })
    }

    /// See [`Engine::stay_joined`].
    ///
    /// # Errors
    ///
    /// See [`Node::ping`].
    pub fn stay_joined(
        &self,
        seeds: Vec<Endpoint>,
        expects_more: bool,
    ) -> Result<(), CommandError> {
        self.shared.command(|state, now, out| {
            state.engine.stay_joined(now, seeds, expects_more, out);
        })
    }

    /// Waits until contacts that the node was made with are silent, at most for `patience`; an
    /// error where it is closed. For one thread.
    ///
    /// # Errors
    ///
    /// See [`Node::ping`].
    pub fn wait_alone(&self, patience: Option<Duration>) -> Result<(), CommandError> {
        let Shared { was_alone, thread_ended, .. } = &*self.shared;
        let patience = patience.map_or_else(never, after);
        select! {
            recv(was_alone) -> _ => Ok(()),
            recv(patience) -> _ => Ok(()),
            recv(thread_ended) -> _ => Err(CommandError::Closed),
        }
    }

    /// Looks for other nodes of the network on the links of this host, by multicast, from now on; see
    /// [`Engine::seek`]. What stands in the way of that is logged.
    ///
    /// # Errors
    ///
    /// See [`Node::ping`].
    pub fn seek(&self) -> Result<(), CommandError> {
        self.shared.link.seek();
        self.shared.command(|state, now, _| state.engine.seek(now))
    }

    /// See [`Engine::recall`].
    ///
    /// # Errors
    ///
    /// See [`Node::ping`].
    pub fn recall(&self, contacts: Vec<Contact>) -> Result<(), CommandError> {
        self.shared.command(|state, now, _| state.engine.recall(now, contacts))
    }

    /// See [`Engine::fire`].
    ///
    /// # Errors
    ///
    /// See [`Node::ping`].
    pub fn fire(&self, to: Endpoint, question: Question) -> Result<(), CommandError> {
        self.shared.command(|state, now, out| state.engine.fire(now, to, question, out))
    }

    /// See [`Engine::announce_to`].
    ///
    /// # Errors
    ///
    /// See [`Node::ping`].
    pub fn announce_to(
        &self,
        to: Endpoint,
        topic: NodeId,
        port: Option<u16>,
    ) -> Result<(), CommandError> {
        self.shared.command(|state, now, out| state.engine.announce_to(now, to, topic, port, out))
    }

    /// Makes it a node of another network, from the next packet on.
    ///
    /// # Errors
    ///
    /// See [`Node::ping`].
    pub fn enter(&self, network: &Network) -> Result<(), CommandError> {
        let start = random::bytes().map_err(|_| CommandError::NoRandomness)?;
        self.shared.command(|state, now, _| state.engine.enter(now, network, start))
    }

    /// See [`Engine::send`].
    ///
    /// # Errors
    ///
    /// See [`Node::ping`].
    pub fn send(&self, to: Endpoint, kind: u8, payload: &[u8]) -> Result<(), CommandError> {
        Ok(self.shared.command(|state, _, out| state.engine.send(to, kind, payload, out))??)
    }

    /// See [`Engine::clean_storage`].
    ///
    /// # Errors
    ///
    /// See [`Node::ping`].
    pub fn clean_storage(&self, age: Duration) -> Result<(), CommandError> {
        self.shared.command(|state, now, _| state.engine.clean_storage(now, age))
    }

    /// The address families that it speaks.
    pub fn families(&self) -> Want {
        self.shared.link.families()
    }

    /// The contacts in the routing table, the farthest buckets first.
    ///
    /// # Errors
    ///
    /// See [`Node::ping`].
    pub fn entries(&self) -> Result<Vec<Entry>, CommandError> {
        self.check_open()?;
        Ok(self.shared.state.lock().engine.table().entries().copied().collect())
    }

    /// What the node did so far and holds now; also of a closed node.
    ///
    /// # Errors
    ///
    /// [`CommandError::Forked`].
    pub fn stats(&self) -> Result<Stats, CommandError> {
        let mut stats = self.shared.to_read()?.engine.stats(self.shared.link.now());
        let (sending, receiving) = self.shared.link.failures();
        stats.counters.refused[Refusal::Send as usize] += sending;
        stats.counters.refused[Refusal::Receive as usize] += receiving;
        Ok(stats)
    }

    /// Ends the threads, frees the port, releases every caller that waits and saves the state,
    /// within two seconds.
    ///
    /// Any thread may call it, any number of times; each call returns when all that is done. (A
    /// thread that is sending at that moment holds the port until its datagram is sent.)
    pub fn close(&self) {
        Self::close_all(std::iter::once(self));
    }

    /// Closes any number of nodes within the same two seconds.
    pub fn close_all<'a>(nodes: impl Iterator<Item = &'a Node> + Clone) {
        let nodes = nodes.filter(|node| node.check_open() != Err(CommandError::Forked));
        nodes.clone().for_each(Self::begin_close);
        let deadline = close_deadline();
        nodes.for_each(|node| node.finish_close(deadline));
    }

    fn begin_close(&self) {
        self.shared.is_closed.store(true, Ordering::SeqCst);
        self.shared.release_waiters();
        self.shared.link.close();
    }

    fn finish_close(&self, deadline: Instant) {
        let ended = self.shared.thread_ended.recv_deadline(deadline);
        let thread = self.thread.lock().take();
        if let Some(thread) = thread.filter(|_| ended != Err(RecvTimeoutError::Timeout)) {
            // It has nothing left to do but to end, and has caught its own panic.
            let _ = thread.join();
        }
        self.shared.wait_saved(deadline);
    }

    /// Is disconnected when the node is closed; nothing ever comes.
    pub fn ended(&self) -> Receiver<()> {
        self.shared.thread_ended.clone()
    }

    /// Waits until the node is closed, at most for `patience`; whether it is.
    pub fn wait_closed(&self, patience: Duration) -> bool {
        !matches!(self.shared.thread_ended.recv_timeout(patience), Err(RecvTimeoutError::Timeout))
    }

    /// Marks this as the copy of a node in a forked child: from now on nothing is touched.
    pub fn abandon(&self) {
        self.shared.is_abandoned.store(true, Ordering::Release);
    }

    /// The file descriptors of the sockets and of the lock on the state file, on systems where a fork
    /// copies them. It takes no lock.
    pub fn descriptors(&self) -> impl Iterator<Item = i32> {
        self.shared.link.descriptors().chain(self.shared.lock_descriptor())
    }
}

#[expect(clippy::disallowed_methods, reason = "how long a caller waits is the clock's business")]
fn close_deadline() -> Instant {
    Instant::now() + CLOSE_MAX
}

impl Drop for Node {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn check_open(&self) -> Result<(), CommandError> {
        // The process also where a fork came without the hook that says so.
        if self.is_abandoned.load(Ordering::Acquire) || std::process::id() != self.process {
            return Err(CommandError::Forked);
        }
        if self.is_closed.load(Ordering::Acquire) {
            return Err(CommandError::Closed);
        }
        Ok(())
    }

    /// The state of a node that may be closed.
    fn to_read(&self) -> Result<MutexGuard<'_, State>, CommandError> {
        match self.check_open() {
            Err(CommandError::Forked) => Err(CommandError::Forked),
            _ => Ok(self.state.lock()),
        }
    }

    /// Runs `run` on the state under the lock, then sends what comes of it.
    ///
    /// What there is to tell, the reactor's thread tells: one thread alone, so that no waiter
    /// learns of an end before what came before it.
    fn command<T>(
        &self,
        run: impl FnOnce(&mut State, Time, &mut Outbox) -> T,
    ) -> Result<T, CommandError> {
        self.check_open()?;
        // A fork copies the nonces too, and with them the next one. The copy's reactor does not
        // exist; its commands, which nothing else tells from the original's, begin anew.
        let nonce_start = random::bytes().map_err(|_| CommandError::NoRandomness)?;
        let mut out = Outbox::default();
        let mut state = self.state.lock();
        // A close that came in between has released the waiters; a new one would wait for ever.
        self.check_open()?;
        state.engine.restart_nonces(nonce_start);
        let result = run(&mut state, self.link.now(), &mut out);
        let deadline = state.engine.next_deadline();
        let is_earlier = deadline.is_some_and(|at| state.wakes_at.is_none_or(|wakes| at < wakes));
        if is_earlier {
            state.wakes_at = deadline;
        }
        let must_wake = is_earlier || state.engine.has_events();
        drop(state);
        let is_refused = self.send(&mut out, &Batch::default());
        if must_wake || is_refused {
            self.link.wake();
        }
        Ok(result)
    }

    /// Sends what is in `out`, and tells the engine of what the system refuses, until nothing more
    /// comes of it; whether it refused any.
    fn send(&self, out: &mut Outbox, batch: &Batch) -> bool {
        let mut refused = self.link.send(out, batch);
        let is_refused = !refused.is_empty();
        let is_address_lost = is_refused && Socket::is_address_lost(self.link.address());
        while !refused.is_empty() {
            out.clear();
            let mut state = self.state.lock();
            let now = self.link.now();
            if is_address_lost {
                state.engine.warn(now, Warning::AddressLost);
            }
            for (to, code) in refused {
                state.engine.unsent(now, to, code, out);
            }
            drop(state);
            refused = self.link.send(out, &Batch::default());
        }
        is_refused
    }

    /// Lets every caller that waits know that nothing comes any more.
    fn release_waiters(&self) {
        let _to_the_end = self.releasing.lock();
        let waiters = std::mem::take(&mut self.state.lock().waiters);
        for Waiter { replies, signal } in waiters.into_values() {
            // First, for who is told looks whether anything can come.
            drop(replies);
            self.announce_ready(signal);
        }
    }

    fn tell(&self, news: News) {
        for (waiter, reply) in news.replies {
            // Whoever waited may have given up.
            let _ = waiter.replies.send(reply);
            self.announce_ready(waiter.signal);
        }
        for (from, packet) in news.packets {
            self.notify(from, packet);
        }
        for (level, text) in news.lines {
            self.log(level, &text);
        }
        if news.is_alone {
            // Where a token waits already, nobody has looked since.
            let _ = self.tells_alone.try_send(());
        }
    }
}

impl Host for Shared {
    fn turn(&self, batch: &mut Batch, out: &mut Outbox) -> Option<Time> {
        let mut state = self.state.lock();
        // Read under the lock, so that the engine's time never goes back.
        let now = self.link.now();
        for _ in 0..batch.oversize {
            state.engine.refuse(Refusal::Oversize);
        }
        batch.work(out, |from, is_heard, datagram, out| {
            let engine = &mut state.engine;
            match is_heard {
                true => engine.hear(now, from, datagram, out),
                false => engine.receive(now, from, datagram, out),
            }
        });
        state.engine.tick(now, out);
        let (mut deadline, news) = state.end_turn();
        drop(state);
        let is_refused = self.send(out, batch);
        self.tell(news);
        if is_refused {
            let (earlier, news) = self.state.lock().end_turn();
            deadline = earlier;
            self.tell(news);
        }
        deadline
    }

    fn looked(&self, look: Look) {
        for trouble in look.troubles {
            let level = if trouble.is_grave { Level::Warn } else { Level::Info };
            self.log(level, &lines::no_neighbors_by(&trouble.what, &trouble.error));
        }
        if !look.new.is_empty() {
            self.log(Level::Debug, &lines::seeks_by(&look.new));
            // Of a node that is closed meanwhile nothing more is wanted.
            let _ = self.command(|state, now, _| state.engine.seek(now));
        }
    }

    fn resumed(&self) {
        self.log(Level::Info, "back from a suspend; joining and announcing again");
        // Of a node that is closed meanwhile nothing more is wanted.
        let _ = self.command(|state, now, out| state.engine.resumed(now, out));
    }

    fn socket_changed(&self, news: SocketNews<'_>) {
        match news {
            SocketNews::Lost => self.log(Level::Warn, "a socket is lost; binding it again"),
            SocketNews::RebindFailed(error, wait) => {
                self.log(
                    Level::Warn,
                    &format!("cannot bind the lost socket again: {error}; next try in {wait:?}"),
                );
            }
            SocketNews::Rebound => self.log(Level::Info, "the socket is bound again"),
        }
    }

    fn ended(&self, panicked: bool) {
        if panicked {
            self.log(Level::Error, "the node stopped by a bug in KadePy; please report it");
            self.is_closed.store(true, Ordering::SeqCst);
        }
        self.release_waiters();
        let lives = self.thread_lives.lock().take();
        drop(lives);
        // This thread alone tells of replies, so none comes after this.
        self.hurry(Urgent::Closed);
    }
}

/// What is to be told after the lock is let go.
#[derive(Default)]
struct News {
    replies: Vec<(Waiter, Reply)>,
    packets: Vec<(Endpoint, Box<[u8]>)>,
    lines: Vec<(Level, String)>,
    is_alone: bool,
}

impl State {
    /// When the reactor is to wake by itself, and what there is to tell until then.
    fn end_turn(&mut self) -> (Option<Time>, News) {
        self.wakes_at = self.engine.next_deadline();
        (self.wakes_at, self.take_news())
    }

    fn take_news(&mut self) -> News {
        let mut news = News::default();
        while let Some(event) = self.engine.poll_event() {
            match event {
                Event::Peers { op, peers } => {
                    let waiter = self.waiters.get(&op).cloned();
                    news.replies.extend(waiter.map(|waiter| (waiter, Reply::Peers(peers))));
                }
                Event::Members { op } => {
                    let idle = self.waiters.get(&op).filter(|waiter| waiter.replies.is_empty());
                    news.replies.extend(idle.map(|waiter| (waiter.clone(), Reply::Members)));
                }
                Event::Done { op, outcome } => {
                    let waiter = self.waiters.remove(&op);
                    news.replies.extend(waiter.map(|waiter| (waiter, Reply::Done(outcome))));
                }
                Event::Packet { from, packet } => news.packets.push((from, packet)),
                Event::Joined(contacts) => {
                    news.lines.push((Level::Info, format!("joined; contacts: {contacts}")));
                }
                Event::Neighbor(at) => {
                    news.lines.push((Level::Info, format!("found {at} on the local network")));
                }
                Event::Full { topic, max } => {
                    let text = format!(
                        "stopped at {max} peers of topic {topic:?}; raise Config.lookup_peers for more"
                    );
                    news.lines.push((Level::Warn, text));
                }
                Event::Alone { seeds, wait } => {
                    news.lines
                        .push((Level::Warn, lines::alone(&seeds, wait, self.engine.bound().ip())));
                    news.is_alone = true;
                }
                Event::Missing => news.is_alone = true,
                Event::Warning(warning) => {
                    news.lines.push((Level::Warn, lines::warning(warning)));
                }
            }
        }
        news
    }
}
