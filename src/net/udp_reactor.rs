//! The thread that serves a node's sockets: it receives a batch, lets its [`Host`] work on it, and waits for
//! more or for the host's next deadline; until it is closed.

use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use arrayvec::ArrayVec;
use mio::{Events, Poll, Token, Waker};
use parking_lot::Mutex;

use super::channel::{self, Channel, Channels, Rebinding, SocketNews};
use super::clock::Clock;
use super::socket::{Local, Remedy, Socket, lacks_room, remedy};
use crate::dht::protocol::Outbox;
use crate::time::Time;
use crate::wire::message::{Endpoint, Want};
use crate::wire::native::MAX_READ;

/// Datagrams taken from the socket before the host gets them: enough to share one lock among many,
/// few enough that an answer does not wait for them.
const BATCH: usize = 32;
/// One byte more than is read, so that a longer datagram is known to be one.
const BUFFER_LEN: usize = MAX_READ + 1;
/// The wait after the system has failed to wait, which would repeat itself at once.
const POLL_PAUSE: Duration = Duration::from_millis(100);

/// No channel's token.
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

    /// The machine was suspended, or the process stopped, and goes on.
    fn resumed(&self);

    /// A socket was lost, could not be bound again, or is there again.
    fn socket_changed(&self, news: SocketNews<'_>);

    /// The thread has ended, by itself only through a bug.
    fn ended(&self, panicked: bool);
}

/// Datagrams as received, and what of an outbox answers them.
#[derive(Default)]
pub struct Batch {
    /// At most twice as many as were ever needed at once: few for an idle node.
    buffers: Vec<[u8; BUFFER_LEN]>,
    received: Vec<Received>,
    /// Datagrams too long for the buffer, where the system does not deliver them cut.
    pub oversize: usize,
}

struct Received {
    from: Endpoint,
    len: usize,
    /// Where it came to, on a socket on which the kernel might answer from elsewhere.
    local: Option<Local>,
    /// How many datagrams the outbox held once this one had been worked on.
    out_len: usize,
}

impl Batch {
    /// Has `take` work on each datagram, and notes what it puts into `out`.
    pub fn work(
        &mut self,
        out: &mut Outbox,
        mut take: impl FnMut(Endpoint, &mut [u8], &mut Outbox),
    ) {
        for (received, buffer) in self.received.iter_mut().zip(&mut self.buffers) {
            take(received.from, &mut buffer[..received.len], out);
            received.out_len = out.len();
        }
    }

    /// For each datagram in `out`, in order: where it leaves from, if the kernel is not to choose.
    ///
    /// That is so for what a received datagram causes at once to be sent back to its source. A peer
    /// takes an answer only from the address that it asked, and a firewall on the way lets no other
    /// one in.
    fn locals(&self, out: &Outbox) -> impl Iterator<Item = Option<Local>> {
        let mut causes = self.received.iter().peekable();
        out.iter().enumerate().map(move |(i, (to, _))| {
            while causes.next_if(|cause| cause.out_len <= i).is_some() {}
            causes.peek().filter(|cause| cause.from == to).and_then(|cause| cause.local)
        })
    }
}

/// What a running reactor shares with the threads that use it.
pub struct Link {
    channels: Channels,
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
                host.resumed();
            }
        }
    }

    /// Receives until there is nothing more or the batch is full; whether it is full.
    fn receive(&self, batch: &mut Batch, rebindings: &mut [Rebinding]) -> bool {
        batch.received.clear();
        batch.oversize = 0;
        let channels = &self.link.channels;
        let mut is_full = false;
        for (channel, rebinding) in channels.iter().zip(rebindings) {
            let before = batch.received.len();
            is_full |= self.receive_from(channel, batch, BATCH / channels.len());
            if batch.received.len() > before {
                rebinding.works();
            }
        }
        is_full
    }

    /// Receives at most `max` datagrams of one channel; whether there may be more.
    fn receive_from(&self, channel: &Channel, batch: &mut Batch, max: usize) -> bool {
        let Some(socket) = channel.socket() else {
            return false;
        };
        let mut errors = 0;
        // Errors come out of the same budget, so that no storm of them keeps us here.
        let mut left = max;
        while left > 0 {
            let Batch { buffers, received, .. } = batch;
            let start = received.len();
            if buffers.len() == start {
                buffers.resize((2 * start).clamp(1, BATCH), [0; BUFFER_LEN]);
            }
            let end = buffers.len().min(start + left);
            let result = socket.receive(&mut buffers[start..end], |len, from, local| {
                received.push(Received { from: from.into(), len, local, out_len: 0 });
            });
            left -= (received.len() - start).max(1);
            match result {
                Ok(()) => {}
                Err(error) => match remedy(&error) {
                    Remedy::Wait => return false,
                    Remedy::Retry | Remedy::Ignore => {}
                    Remedy::Oversize => batch.oversize += 1,
                    Remedy::Count => {
                        self.link.receive_failures.fetch_add(1, Ordering::Relaxed);
                        errors += 1;
                    }
                    Remedy::Rebind => {
                        channel.report_lost(&socket);
                        return false;
                    }
                },
            }
        }
        // One that gives nothing but errors would do so at once for ever.
        errors < max || !channel.report_lost(&socket)
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
        self.channels.iter().filter_map(Channel::descriptor)
    }

    /// Gives the system back what the thread had of it.
    fn release(&self) {
        self.channels.iter().for_each(Channel::release);
        let waker = self.waker.lock().take();
        drop(waker);
    }
}
