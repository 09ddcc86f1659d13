//! A node's socket of one address family, for as long as the node lives: what is received from it, and
//! how it is bound again when the system has taken it away. Who waits for it is the reactor.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use arrayvec::ArrayVec;
use mio::{Registry, Token};
use parking_lot::Mutex;

use super::socket::{Socket, lacks_family};
use crate::time::Time;
use crate::wire::message::{Endpoint, Want};

/// The wait before a lost socket is bound again, which doubles with each failure.
const REBIND_MIN: Duration = Duration::from_millis(100);
const REBIND_MAX: Duration = Duration::from_secs(30);

/// So often two sockets are bound to a port that the system chooses, where the port that it chose for
/// one family is taken in the other.
const PAIR_ATTEMPTS: usize = 16;

/// The channels of one node: one for each family that it speaks, all on one port.
pub type Channels = ArrayVec<Channel, 2>;

/// A socket that may be lost and bound again. Any thread may send on it.
pub struct Channel {
    /// `None` while the socket is lost, and after the end.
    socket: Mutex<Option<Arc<Socket>>>,
    /// The socket's descriptor, or -1: for a forked child, in which the lock may be held for ever.
    descriptor: AtomicI32,
    /// Where it is bound, with the port that the system chose.
    address: SocketAddr,
    token: Token,
    receive_buffer: usize,
    receive_room: usize,
    is_lost: AtomicBool,
}

/// When a channel's socket is bound again; for the reactor's thread.
pub struct Rebinding {
    at: Option<Time>,
    wait: Duration,
}

/// What happens to a channel's socket.
pub enum SocketNews<'a> {
    /// It is gone.
    Lost,
    /// Binding it again failed; it is tried again after so long.
    RebindFailed(&'a io::Error, Duration),
    /// It is bound again.
    Rebound,
}

/// Binds the sockets of a node at `address`, and lets `registry`'s poll wake when there is something to
/// receive on one; its token is the channel's index. At `::` there are two, one for each family: a single one
/// for both shows IPv4 addresses in another form, and some systems have none. Where the system lacks
/// one of the families, the other has to do.
///
/// # Errors
///
/// The system's, see [`Socket::bind`].
pub fn bind(
    address: SocketAddr,
    receive_buffer: usize,
    registry: &Registry,
) -> io::Result<Channels> {
    let channel = |address, index| Channel::bind(address, receive_buffer, registry, Token(index));
    if !(address.is_ipv6() && address.ip().is_unspecified()) {
        return Ok([channel(address, 0)?].into_iter().collect());
    }
    let v4_address = |port| SocketAddr::from(([0, 0, 0, 0], port));
    let mut attempts = if address.port() == 0 { PAIR_ATTEMPTS } else { 1 };
    loop {
        attempts -= 1;
        let v6 = match channel(address, 0) {
            Err(error) if lacks_family(&error) => {
                return Ok([channel(v4_address(address.port()), 0)?].into_iter().collect());
            }
            bound => bound?,
        };
        match channel(v4_address(v6.address.port()), 1) {
            Ok(v4) => return Ok(Channels::from([v6, v4])),
            Err(error) if lacks_family(&error) => return Ok([v6].into_iter().collect()),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempts > 0 => {}
            Err(error) => return Err(error),
        }
    }
}

impl Channel {
    fn bind(
        address: SocketAddr,
        receive_buffer: usize,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Self> {
        let mut socket = Socket::bind(address, receive_buffer)?;
        socket.register(registry, token)?;
        Ok(Self {
            descriptor: AtomicI32::new(socket.descriptor()),
            address: socket.local_address()?,
            token,
            receive_buffer,
            receive_room: socket.receive_room(),
            socket: Mutex::new(Some(Arc::new(socket))),
            is_lost: AtomicBool::new(false),
        })
    }

    /// Where it is bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it can send there.
    pub fn reaches(&self, to: &Endpoint) -> bool {
        self.address.is_ipv4() == to.is_ipv4()
    }

    /// How many of the longest datagrams the socket's receive buffer holds.
    pub fn receive_room(&self) -> usize {
        self.receive_room
    }

    /// The socket's file descriptor, where a fork copies it and while there is one. It takes no lock.
    pub fn descriptor(&self) -> Option<i32> {
        Some(self.descriptor.load(Ordering::Acquire)).filter(|&descriptor| descriptor >= 0)
    }

    /// The socket, unless it is lost.
    pub fn socket(&self) -> Option<Arc<Socket>> {
        self.socket.lock().clone()
    }

    /// Has the socket bound again, unless it is another one by now; whether it is to be.
    pub fn report_lost(&self, socket: &Arc<Socket>) -> bool {
        let is_current = self.socket().is_some_and(|current| Arc::ptr_eq(&current, socket));
        if is_current {
            self.is_lost.store(true, Ordering::Release);
        }
        is_current
    }

    /// Gives the socket back to the system.
    pub fn release(&self) {
        self.descriptor.store(-1, Ordering::Release);
        let socket = self.socket.lock().take();
        drop(socket);
    }

    /// Binds a lost socket again when its time has come, and tells `news` what becomes of it; whether
    /// it is bound again.
    pub fn mend(
        &self,
        now: Time,
        rebinding: &mut Rebinding,
        registry: &Registry,
        news: impl Fn(SocketNews<'_>),
    ) -> bool {
        if self.is_lost.swap(false, Ordering::AcqRel) && rebinding.at.is_none() {
            news(SocketNews::Lost);
            self.release();
            rebinding.at = Some(now + rebinding.wait);
        }
        if rebinding.at.is_none_or(|at| now < at) {
            return false;
        }
        // A socket that is bound and lost again before anything came counts as a failure.
        rebinding.wait = (rebinding.wait * 2).min(REBIND_MAX);
        match self.rebind(registry) {
            Ok(()) => {
                rebinding.at = None;
                news(SocketNews::Rebound);
                true
            }
            Err(error) => {
                rebinding.at = Some(now + rebinding.wait);
                news(SocketNews::RebindFailed(&error, rebinding.wait));
                false
            }
        }
    }

    fn rebind(&self, registry: &Registry) -> io::Result<()> {
        let mut socket = Socket::bind(self.address, self.receive_buffer)?;
        socket.register(registry, self.token)?;
        self.descriptor.store(socket.descriptor(), Ordering::Release);
        *self.socket.lock() = Some(Arc::new(socket));
        Ok(())
    }
}

impl Rebinding {
    /// When the socket is bound again, where it is lost.
    pub fn at(&self) -> Option<Time> {
        self.at
    }

    /// Notes that the socket works.
    pub fn works(&mut self) {
        self.wait = REBIND_MIN;
    }
}

impl Default for Rebinding {
    fn default() -> Self {
        Self { at: None, wait: REBIND_MIN }
    }
}

/// The families of these channels.
pub fn families(channels: &[Channel]) -> Want {
    let has = |ipv4| channels.iter().any(|channel| channel.address.is_ipv4() == ipv4);
    Want { v4: has(true), v6: has(false) }
}
