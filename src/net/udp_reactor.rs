//! The thread that serves a socket: it receives a batch, lets its [`Host`] work on it, and waits for
//! more or for the host's next deadline; until it is closed.

use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use mio::{Events, Poll, Token, Waker};
use parking_lot::Mutex;

pub use super::batch::Batch;
use super::batch::Filled;
use super::clock::Clock;
use super::lan::Lan;
pub use super::lan::Look;
use super::socket::{Remedy, Socket, lacks_room, remedy};
use crate::dht::beacons::{GROUP_PORT, groups};
use crate::dht::protocol::Outbox;
use crate::time::Time;
use crate::wire::message::Endpoint;

/// The wait before a lost socket is bound again, which doubles with each failure.
const REBIND_MIN: Duration = Duration::from_millis(100);
const REBIND_MAX: Duration = Duration::from_secs(30);

const SOCKET: Token = Token(0);
const WAKER: Token = Token(1);
/// The first of those that hear the groups.
const GROUPS: usize = 2;

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

    /// The links were looked at, for the first time or because it was time to; something is new there.
    fn looked(&self, look: Look);

    /// The machine was suspended, or the process stopped, and goes on.
    fn resumed(&self);

    /// The socket was lost, could not be bound again, or is there again.
    fn socket_changed(&self, news: SocketNews<'_>);

    /// The thread has ended, by itself only through a bug.
    fn ended(&self, panicked: bool);
}

/// What happens to the socket of a running reactor.
pub enum SocketNews<'a> {
    /// It is gone.
    Lost,
    /// Binding it again failed; it is tried again after so long.
    RebindFailed(&'a io::Error, Duration),
    /// It is bound again.
    Rebound,
}

/// What a running reactor shares with the threads that use it.
pub struct Link {
    /// `None` while the socket is lost, and after the end.
    socket: Mutex<Option<Arc<Socket>>>,
    /// The descriptors of the socket and of those that hear the groups, or -1: for a forked child, in
    /// which a lock may be held for ever.
    descriptors: [AtomicI32; 3],
    /// Whether the node looks for others on its links.
    seeks: AtomicBool,
    /// Those links, once it does; for the thread alone.
    lan: Mutex<Option<Lan>>,
    /// `None` after the end.
    waker: Mutex<Option<Arc<Waker>>>,
    /// Where it is bound, with the port that the system chose.
    address: SocketAddr,
    receive_buffer: usize,
    receive_room: usize,
    clock: Clock,
    is_lost: AtomicBool,
    is_closing: AtomicBool,
    send_failures: AtomicU64,
    receive_failures: AtomicU64,
}

/// A socket that is bound and not served yet.
pub struct Reactor {
    poll: Poll,
    link: Arc<Link>,
}

impl Reactor {
    /// Binds a socket to `address`.
    ///
    /// # Errors
    ///
    /// The system's, see [`Socket::bind`].
    pub fn bind(address: SocketAddr, receive_buffer: usize) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let mut socket = Socket::bind(address, receive_buffer)?;
        socket.register(poll.registry(), SOCKET)?;
        let address = socket.local_address()?;
        let receive_room = socket.receive_room();
        let descriptors = [socket.descriptor(), -1, -1].map(AtomicI32::new);
        let link = Link {
            socket: Mutex::new(Some(Arc::new(socket))),
            descriptors,
            seeks: AtomicBool::new(false),
            lan: Mutex::new(None),
            address,
            receive_buffer,
            receive_room,
            waker: Mutex::new(Some(Arc::new(waker))),
            clock: Clock::start(),
            is_lost: AtomicBool::new(false),
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
        let name = format!("kadepy-{}", self.link.address.port());
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
        let mut rebinding: Option<Time> = None;
        let mut rebind_wait = REBIND_MIN;

        while !link.is_closing.load(Ordering::Acquire) {
            self.look(host);
            let is_full = self.receive(&mut batch);
            if !batch.is_empty() {
                rebind_wait = REBIND_MIN;
            }
            let deadline = host.turn(&mut batch, &mut out);
            out.clear();

            if link.is_lost.swap(false, Ordering::AcqRel) && rebinding.is_none() {
                host.socket_changed(SocketNews::Lost);
                drop(link.take_socket());
                rebinding = Some(link.now() + rebind_wait);
            }
            if rebinding.is_some_and(|at| link.now() >= at) {
                // A socket that is bound and lost again before anything came counts as a failure.
                rebind_wait = (rebind_wait * 2).min(REBIND_MAX);
                if self.rebind(host, rebind_wait) {
                    rebinding = None;
                    continue;
                }
                rebinding = Some(link.now() + rebind_wait);
            }
            let now = link.now();
            let longest = now + WAIT_MAX;
            // A full batch says that more is waiting, for which the poll would not wake again.
            let due = is_full.then_some(now);
            let wake_at = [due, deadline, rebinding].into_iter().flatten().fold(longest, Time::min);
            if let Err(error) = self.poll.poll(&mut events, Some(wake_at - now)) {
                // Interrupted; anything else would repeat itself at once.
                if error.kind() != io::ErrorKind::Interrupted {
                    std::thread::sleep(REBIND_MIN);
                }
            }
            if link.now() - wake_at > OVERSLEPT_MIN {
                link.lan.lock().iter_mut().for_each(Lan::hurry);
                host.resumed();
            }
        }
    }

    /// Receives until there is nothing more or the batch is full; whether it is full.
    fn receive(&self, batch: &mut Batch) -> bool {
        let Self { link, .. } = self;
        batch.clear();
        let Some(socket) = link.socket() else {
            return false;
        };
        let filled = batch.fill(&socket, false, &link.receive_failures);
        if let Filled::Lost(_) = filled {
            link.is_lost.store(true, Ordering::Release);
        }
        let mut is_full = matches!(filled, Filled::Full);
        if !link.seeks.load(Ordering::Acquire) {
            return is_full;
        }
        if let Some(lan) = &mut *link.lan.lock() {
            lan.hear(|socket| {
                let filled = batch.fill(socket, true, &link.receive_failures);
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
        let Some(socket) = link.socket() else {
            return;
        };
        let mut lan = link.lan.lock();
        let links = lan.get_or_insert_with(|| Lan::new(&socket, link.address, GROUPS));
        let now = link.now();
        if !links.is_due(now) {
            return;
        }
        // It may close some, and a fork must not take a number for theirs that is another's by then.
        link.forget_groups();
        let look = links.look(now, poll.registry());
        let open = links.descriptors().chain(std::iter::repeat(-1));
        for (place, descriptor) in link.descriptors[1..].iter().zip(open) {
            place.store(descriptor, Ordering::Release);
        }
        drop(lan);
        host.looked(look);
    }

    /// Binds a new socket; where that fails, it is to be tried again after `wait`.
    fn rebind(&self, host: &impl Host, wait: Duration) -> bool {
        let bound =
            Socket::bind(self.link.address, self.link.receive_buffer).and_then(|mut socket| {
                socket.register(self.poll.registry(), SOCKET)?;
                Ok(socket)
            });
        match bound {
            Ok(socket) => {
                self.link.descriptors[0].store(socket.descriptor(), Ordering::Release);
                *self.link.socket.lock() = Some(Arc::new(socket));
                host.socket_changed(SocketNews::Rebound);
                true
            }
            Err(error) => {
                host.socket_changed(SocketNews::RebindFailed(&error, wait));
                false
            }
        }
    }
}

impl Link {
    /// Where the socket is bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many of the longest datagrams the socket's receive buffer holds.
    pub fn receive_room(&self) -> usize {
        self.receive_room
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
        let Some(socket) = self.socket() else {
            self.send_failures.fetch_add(out.len() as u64, Ordering::Relaxed);
            return refused;
        };
        for ((to, datagram), local) in out.iter().zip(batch.locals(out)) {
            if is_group(&to) && self.seeks.load(Ordering::Acquire) {
                self.send_beacon(&socket, to.into(), datagram);
                continue;
            }
            while let Err(error) = socket.send(datagram, to.into(), local) {
                match remedy(&error) {
                    Remedy::Retry => continue,
                    Remedy::Rebind => self.report_lost(&socket),
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

    /// The file descriptors of the sockets, where a fork copies them and while there are any. It takes no
    /// lock.
    pub fn descriptors(&self) -> impl Iterator<Item = i32> {
        let open = self.descriptors.iter().map(|place| place.load(Ordering::Acquire));
        open.filter(|&descriptor| descriptor >= 0)
    }

    /// Sends a beacon by each link. Where that fails the next look tells of it, and the socket is none
    /// the worse.
    fn send_beacon(&self, socket: &Socket, group: SocketAddr, datagram: &[u8]) {
        if let Some(lan) = &mut *self.lan.lock() {
            lan.send(socket, group, datagram);
        }
    }

    /// Has the socket bound again, unless it is another one by now.
    fn report_lost(&self, socket: &Arc<Socket>) {
        if self.socket().is_some_and(|current| Arc::ptr_eq(&current, socket)) {
            self.is_lost.store(true, Ordering::Release);
            self.wake();
        }
    }

    /// Gives the system back what the thread had of it.
    fn release(&self) {
        drop(self.take_socket());
        self.forget_groups();
        drop(self.lan.lock().take());
        let waker = self.waker.lock().take();
        drop(waker);
    }

    fn forget_groups(&self) {
        self.descriptors[1..].iter().for_each(|place| place.store(-1, Ordering::Release));
    }

    fn take_socket(&self) -> Option<Arc<Socket>> {
        self.descriptors[0].store(-1, Ordering::Release);
        self.socket.lock().take()
    }

    fn socket(&self) -> Option<Arc<Socket>> {
        self.socket.lock().clone()
    }
}

fn is_group(to: &Endpoint) -> bool {
    to.port() == GROUP_PORT && groups().contains(to)
}
