//! The thread that serves a node's sockets: it receives a batch, lets its [`Host`] work on it, and waits for
//! more or for the host's next deadline; until it is closed.

use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use arrayvec::ArrayVec;
use mio::{Events, Poll, Token, Waker};
use parking_lot::Mutex;

pub use super::batch::Batch;
use super::batch::{BATCH, Filled};
use super::channel::{self, Channel, Channels, Rebinding, SocketNews};
use super::clock::Clock;
use super::lan::Lan;
pub use super::lan::Look;
use super::socket::{Remedy, Socket, lacks_room, remedy};
use crate::dht::beacons::{GROUP_PORT, groups};
use crate::dht::protocol::Outbox;
use crate::time::Time;
use crate::wire::message::{Endpoint, Want};

/// The wait after the system has failed to wait, which would repeat itself at once.
const POLL_PAUSE: Duration = Duration::from_millis(100);

/// The first token of the sockets that hear the groups: after those of the channels.
const GROUPS: usize = 2;
/// None of theirs.
const WAKER: Token = Token(usize::MAX - 1);

/// The longest that the thread waits at once. The system's wait stands still in a suspend: what was
/// left of it is still left when the machine wakes.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// A thread that wakes so much later than it was to was not merely kept waiting by a busy machine: the
/// machine was suspended, or the process stopped.
const OVERSLEPT_MIN: Duration = Duration::from_secs(5);

/// What the reactor serves.
pub trait Host: Send + Sync + 'static {
    /// Works on a batch, which may be empty, and sends what comes of it, for which `out` is empty
    /// room; gives the next deadline.
    fn turn(&self, batch: &mut Batch, out: &mut Outbox) -> Option<Time>;

    /// The links were looked at, because the node looks for others there.
    fn looked(&self, look: Look);

    /// The machine was suspended, or the process stopped, and goes on.
    fn resumed(&self);

    /// A socket was lost, could not be bound again, or is there again.
    fn socket_changed(&self, news: SocketNews<'_>);

    /// The thread has ended, by itself only through a bug.
    fn ended(&self, panicked: bool);
}

/// What a running reactor shares with the threads that use it.
pub struct Link {
    channels: Channels,
    /// Whether the node looks for others on its links.
    seeks: AtomicBool,
    /// Those links, once it does; for the thread alone.
    lan: Mutex<Option<Lan>>,
    /// The descriptors of the sockets that hear the groups, or -1: for a forked child, in which the lock
    /// may be held for ever.
    heard_descriptors: [AtomicI32; 2],
    /// `None` after the end.
    waker: Mutex<Option<Arc<Waker>>>,
    clock: Clock,
    is_closing: AtomicBool,
    send_failures: AtomicU64,
    receive_failures: AtomicU64,
}

/// Sockets that are bound and not served yet.
pub struct Reactor {
    poll: Poll,
    link: Arc<Link>,
}

impl Reactor {
    /// Binds the sockets of a node at `address`.
    ///
    /// # Errors
    ///
    /// The system's, see [`channel::bind`].
    pub fn bind(address: SocketAddr, receive_buffer: usize) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let link = Link {
            channels: channel::bind(address, receive_buffer, poll.registry())?,
            seeks: AtomicBool::new(false),
            lan: Mutex::new(None),
            heard_descriptors: [-1, -1].map(AtomicI32::new),
            waker: Mutex::new(Some(Arc::new(waker))),
            clock: Clock::start(),
            is_closing: AtomicBool::new(false),
            send_failures: AtomicU64::new(0),
            receive_failures: AtomicU64::new(0),
        };
        Ok(Self { poll, link: Arc::new(link) })
    }

    /// What other threads need of it.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Serves `host` on a thread of its own until [`Link::close`].
    ///
    /// # Errors
    ///
    /// The system's, where it gives no thread.
    pub fn spawn(self, host: Arc<impl Host>) -> io::Result<JoinHandle<()>> {
        let name = format!("kadepy-{}", self.link.address().port());
        std::thread::Builder::new().name(name).spawn(move || {
            let link = Arc::clone(&self.link);
            let run = AssertUnwindSafe(|| self.run(&*host));
            let panicked = catch_unwind(run).is_err();
            link.release();
            host.ended(panicked);
        })
    }

    fn run(mut self, host: &impl Host) {
        let link = Arc::clone(&self.link);
        let mut events = Events::with_capacity(4);
        let mut out = Outbox::default();
        let mut batch = Batch::default();
        let mut rebindings: ArrayVec<Rebinding, 2> =
            link.channels.iter().map(|_| Rebinding::default()).collect();

        while !link.is_closing.load(Ordering::Acquire) {
            self.look(host);
            let is_full = self.receive(&mut batch, &mut rebindings);
            let deadline = host.turn(&mut batch, &mut out);
            out.clear();

            let mut is_mended = false;
            for (channel, rebinding) in link.channels.iter().zip(&mut rebindings) {
                let news = |news: SocketNews<'_>| host.socket_changed(news);
                is_mended |= channel.mend(link.now(), rebinding, self.poll.registry(), news);
            }
            if is_mended {
                continue;
            }
            let rebinding = rebindings.iter().filter_map(Rebinding::at).min();
            let now = link.now();
            let longest = now + WAIT_MAX;
            // A full batch says that more is waiting, for which the poll would not wake again.
            let due = is_full.then_some(now);
            let wake_at = [due, deadline, rebinding].into_iter().flatten().fold(longest, Time::min);
            if let Err(error) = self.poll.poll(&mut events, Some(wake_at - now)) {
                // Interrupted; anything else would repeat itself at once.
                if error.kind() != io::ErrorKind::Interrupted {
                    std::thread::sleep(POLL_PAUSE);
                }
            }
            if link.now() - wake_at > OVERSLEPT_MIN {
                link.lan.lock().iter_mut().for_each(Lan::hurry);
                host.resumed();
            }
        }
    }

    /// Receives until there is nothing more or the batch is full; whether it is full.
    fn receive(&self, batch: &mut Batch, rebindings: &mut [Rebinding]) -> bool {
        let Self { link, .. } = self;
        batch.clear();
        let share = BATCH / link.channels.len();
        let mut is_full = false;
        for (channel, rebinding) in link.channels.iter().zip(rebindings) {
            let Some(socket) = channel.socket() else {
                continue;
            };
            let before = batch.count();
            match batch.fill(&socket, false, share, &link.receive_failures) {
                Filled::Empty => {}
                Filled::Full => is_full = true,
                // One that was bound again meanwhile may have something.
                Filled::Lost(_) => is_full |= !channel.report_lost(&socket),
            }
            if batch.count() > before {
                rebinding.works();
            }
        }
        if !link.seeks.load(Ordering::Acquire) {
            return is_full;
        }
        if let Some(lan) = &mut *link.lan.lock() {
            lan.hear(|socket| {
                let room = BATCH - batch.count();
                let filled = batch.fill(socket, true, room, &link.receive_failures);
                is_full |= matches!(filled, Filled::Full);
                filled
            });
        }
        is_full
    }

    /// Looks at the links, if the node looks for others there and it is time to.
    fn look(&self, host: &impl Host) {
        let Self { link, poll } = self;
        if !link.seeks.load(Ordering::Acquire) {
            return;
        }
        let mut lan = link.lan.lock();
        let links = lan.get_or_insert_with(|| Lan::new(&link.channels, GROUPS));
        let now = link.now();
        if !links.is_due(now) {
            return;
        }
        // It may close some, and a fork must not take a number for theirs that is another's by then.
        link.forget_groups();
        let look = links.look(now, poll.registry());
        let open = links.descriptors().chain(std::iter::repeat(-1));
        for (place, descriptor) in link.heard_descriptors.iter().zip(open) {
            place.store(descriptor, Ordering::Release);
        }
        drop(lan);
        host.looked(look);
    }
}

impl Link {
    /// Where the sockets are bound: at `::`, where there is one for each family.
    pub fn address(&self) -> SocketAddr {
        self.channels[0].address()
    }

    /// The families that it speaks.
    pub fn families(&self) -> Want {
        channel::families(&self.channels)
    }

    /// How many of the longest datagrams each socket's receive buffer holds.
    pub fn receive_room(&self) -> usize {
        self.channels.iter().map(Channel::receive_room).min().unwrap_or(0)
    }

    /// The time since the socket was bound, suspends of the machine included.
    pub fn now(&self) -> Time {
        self.clock.now()
    }

    /// Sends datagrams from the calling thread; those that answer one of `batch` leave from the
    /// address that was asked. What cannot be sent is counted and lost; returns where the system
    /// refuses to send to, and with which code.
    pub fn send(&self, out: &Outbox, batch: &Batch) -> Vec<(Endpoint, i32)> {
        let mut refused = Vec::new();
        if out.is_empty() {
            return refused;
        }
        let sockets: ArrayVec<Option<Arc<Socket>>, 2> =
            self.channels.iter().map(Channel::socket).collect();
        for ((to, datagram), local) in out.iter().zip(batch.locals(out)) {
            let index = self.channels.iter().position(|channel| channel.reaches(&to));
            let Some((index, socket)) = index.and_then(|at| Some((at, sockets[at].as_ref()?)))
            else {
                self.send_failures.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            if is_group(&to) && self.seeks.load(Ordering::Acquire) {
                self.send_beacon(socket, to.into(), datagram);
                continue;
            }
            while let Err(error) = socket.send(datagram, to.into(), local) {
                match remedy(&error) {
                    Remedy::Retry => continue,
                    Remedy::Rebind => {
                        if self.channels[index].report_lost(socket) {
                            self.wake();
                        }
                    }
                    Remedy::Wait | Remedy::Ignore | Remedy::Oversize => {}
                    Remedy::Count if lacks_room(&error) => {}
                    Remedy::Count => refused.extend(error.raw_os_error().map(|code| (to, code))),
                }
                self.send_failures.fetch_add(1, Ordering::Relaxed);
                break;
            }
        }
        refused
    }

    /// Has the thread look at the links from its next turn on, and send by each of them what goes to a
    /// group.
    pub fn seek(&self) {
        self.seeks.store(true, Ordering::Release);
    }

    /// Makes the thread take its next turn now.
    pub fn wake(&self) {
        let waker = self.waker.lock().clone();
        // It fails only where the thread is awake anyway.
        let _ = waker.map(|waker| waker.wake());
    }

    /// Makes the thread end.
    pub fn close(&self) {
        self.is_closing.store(true, Ordering::Release);
        self.wake();
    }

    /// Datagrams that the system refused to send and errors while receiving, so far.
    pub fn failures(&self) -> (u64, u64) {
        (self.send_failures.load(Ordering::Relaxed), self.receive_failures.load(Ordering::Relaxed))
    }

    /// The sockets' file descriptors, where a fork copies them and while there are such. It takes no
    /// lock.
    pub fn descriptors(&self) -> impl Iterator<Item = i32> {
        let heard = self.heard_descriptors.iter().map(|place| place.load(Ordering::Acquire));
        let heard = heard.filter(|&descriptor| descriptor >= 0);
        self.channels.iter().filter_map(Channel::descriptor).chain(heard)
    }

    /// Sends a beacon by each link. Where that fails the next look tells of it, and the socket is none
    /// the worse.
    fn send_beacon(&self, socket: &Socket, group: SocketAddr, datagram: &[u8]) {
        if let Some(lan) = &mut *self.lan.lock() {
            lan.send(socket, group, datagram);
        }
    }

    /// Gives the system back what the thread had of it.
    fn release(&self) {
        self.channels.iter().for_each(Channel::release);
        self.forget_groups();
        drop(self.lan.lock().take());
        let waker = self.waker.lock().take();
        drop(waker);
    }

    fn forget_groups(&self) {
        self.heard_descriptors.iter().for_each(|place| place.store(-1, Ordering::Release));
    }
}

fn is_group(to: &Endpoint) -> bool {
    to.port() == GROUP_PORT && groups().contains(to)
}
