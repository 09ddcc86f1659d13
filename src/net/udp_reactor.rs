//! The thread that serves a socket: it receives a batch, lets its [`Host`] work on it, and waits for
//! more or for the host's next deadline; until it is closed.

use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token, Waker};
use parking_lot::Mutex;

use super::socket::{Local, Remedy, Socket, remedy};
use crate::dht::protocol::Outbox;
use crate::time::Time;
use crate::wire::message::Endpoint;
use crate::wire::native::MAX_READ;

/// Datagrams taken from the socket before the host gets them: enough to share one lock among many,
/// few enough that an answer does not wait for them.
const BATCH: usize = 32;
/// One byte more than is read, so that a longer datagram is known to be one.
const BUFFER_LEN: usize = MAX_READ + 1;
/// The wait before a lost socket is bound again, which doubles with each failure.
const REBIND_MIN: Duration = Duration::from_millis(100);
const REBIND_MAX: Duration = Duration::from_secs(30);

const SOCKET: Token = Token(0);
const WAKER: Token = Token(1);

/// What the reactor serves.
pub trait Host: Send + Sync + 'static {
    /// Works on a batch, which may be empty, and sends what comes of it, for which `out` is empty
    /// room; gives the next deadline.
    fn turn(&self, batch: &mut Batch, out: &mut Outbox) -> Option<Time>;

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
    /// `None` while the socket is lost, and after the end.
    socket: Mutex<Option<Arc<Socket>>>,
    /// The socket's descriptor, or -1: for a forked child, in which the lock may be held for ever.
    descriptor: AtomicI32,
    /// `None` after the end.
    waker: Mutex<Option<Arc<Waker>>>,
    /// Where it is bound, with the port that the system chose.
    address: SocketAddr,
    receive_buffer: usize,
    started: Instant,
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
        let descriptor = AtomicI32::new(socket.descriptor());
        #[expect(clippy::disallowed_methods, reason = "the epoch of this driver's time")]
        let started = Instant::now();
        let link = Link {
            socket: Mutex::new(Some(Arc::new(socket))),
            descriptor,
            address,
            receive_buffer,
            waker: Mutex::new(Some(Arc::new(waker))),
            started,
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
            let is_full = self.receive(&mut batch);
            if !batch.received.is_empty() {
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
            let wake_at = [deadline, rebinding].into_iter().flatten().min();
            // A full batch says that more is waiting, for which the poll would not wake again.
            let timeout =
                if is_full { Some(Duration::ZERO) } else { wake_at.map(|at| at - link.now()) };
            if let Err(error) = self.poll.poll(&mut events, timeout) {
                // Interrupted; anything else would repeat itself at once.
                if error.kind() != io::ErrorKind::Interrupted {
                    std::thread::sleep(REBIND_MIN);
                }
            }
        }
    }

    /// Receives until there is nothing more or the batch is full; whether it is full.
    fn receive(&self, batch: &mut Batch) -> bool {
        batch.received.clear();
        batch.oversize = 0;
        let Some(socket) = self.link.socket() else {
            return false;
        };
        let mut errors = 0;
        // Errors come out of the same budget, so that no storm of them keeps us here.
        let mut left = BATCH;
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
                        self.link.is_lost.store(true, Ordering::Release);
                        return false;
                    }
                },
            }
        }
        if errors == BATCH {
            // It gives nothing but errors, and would do so at once for ever.
            self.link.is_lost.store(true, Ordering::Release);
            return false;
        }
        true
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
                self.link.descriptor.store(socket.descriptor(), Ordering::Release);
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

    /// The time since the socket was bound.
    pub fn now(&self) -> Time {
        Time::ZERO + self.started.elapsed()
    }

    /// Sends datagrams from the calling thread; those that answer one of `batch` leave from the
    /// address that was asked. What cannot be sent is counted and lost.
    pub fn send(&self, out: &Outbox, batch: &Batch) {
        if out.is_empty() {
            return;
        }
        let Some(socket) = self.socket() else {
            self.send_failures.fetch_add(out.len() as u64, Ordering::Relaxed);
            return;
        };
        for ((to, datagram), local) in out.iter().zip(batch.locals(out)) {
            while let Err(error) = socket.send(datagram, to.into(), local) {
                match remedy(&error) {
                    Remedy::Retry => continue,
                    Remedy::Rebind => self.report_lost(&socket),
                    Remedy::Wait | Remedy::Ignore | Remedy::Oversize | Remedy::Count => {}
                }
                self.send_failures.fetch_add(1, Ordering::Relaxed);
                break;
            }
        }
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

    /// The socket's file descriptor, where a fork copies it and while there is one. It takes no lock.
    pub fn descriptor(&self) -> Option<i32> {
        Some(self.descriptor.load(Ordering::Acquire)).filter(|&descriptor| descriptor >= 0)
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
        let waker = self.waker.lock().take();
        drop(waker);
    }

    fn take_socket(&self) -> Option<Arc<Socket>> {
        self.descriptor.store(-1, Ordering::Release);
        self.socket.lock().take()
    }

    fn socket(&self) -> Option<Arc<Socket>> {
        self.socket.lock().clone()
    }
}
