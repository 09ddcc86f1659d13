//! One UDP socket, and all that differs between systems: options, error codes, and how a datagram
//! leaves from the address of this host that a caller wants.

mod group;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use mio::event::Source;
use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Type};

pub use self::group::{Interface, interfaces};
#[cfg(unix)]
use self::unix::Messages;
#[cfg(windows)]
use self::windows::Messages;

/// A bound, non-blocking UDP socket. Any thread may send on it.
pub struct Socket {
    udp: UdpSocket,
    /// Only where the socket has every address of the host, and the system can say which one a
    /// datagram came to: elsewhere there is no choice to make, and the plain calls cost less.
    messages: Option<Messages>,
}

/// The address of this host that a datagram was sent to, which its answer has to come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    ip: IpAddr,
    /// The interface of a link-local IPv6 address, 0 for all others: those leave by whichever
    /// interface leads to the destination.
    interface: u32,
}

/// The bytes of receive buffer that a datagram of 700 bytes or more takes: measured on Linux, which
/// counts what it allocates; a BSD's cluster and its header are as much.
const LONGEST_COST: usize = 2_304;

/// What an error of the socket asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Try the same call again.
    Retry,
    /// There is nothing to receive, or no room to send: come back later.
    Wait,
    /// The news of an earlier datagram's fate, which anybody may forge: nothing has happened.
    Ignore,
    /// A datagram longer than the buffer.
    Oversize,
    /// This datagram is lost; the socket is fine.
    Count,
    /// The socket is gone: bind a new one.
    Rebind,
}

impl Socket {
    /// Binds to `address`, where port 0 lets the system choose, and asks for `receive_buffer` bytes
    /// of buffer; the system may give less.
    ///
    /// # Errors
    ///
    /// The system's: the address in use, not available, or not permitted.
    pub fn bind(address: SocketAddr, receive_buffer: usize) -> io::Result<Self> {
        let domain = Domain::for_address(address);
        let socket = socket2::Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        enlarge_receive_buffer(&socket, receive_buffer);
        ignore_port_unreachable(&socket);
        socket.bind(&address.into())?;
        socket.set_nonblocking(true)?;
        let is_wildcard = address.ip().is_unspecified();
        let messages = if is_wildcard { Messages::new(&socket, address.is_ipv6()) } else { None };
        Ok(Self { udp: UdpSocket::from_std(socket.into()), messages })
    }

    /// The address that it is bound to.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    /// How many of the longest datagrams its receive buffer holds, by what the system has given.
    pub fn receive_room(&self) -> usize {
        let len = socket2::SockRef::from(&self.udp).recv_buffer_size().unwrap_or(0);
        len / LONGEST_COST
    }

    /// Lets `registry`'s poll wake when there is something to receive.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.udp.register(registry, token, Interest::READABLE)
    }

    /// Receives one datagram or more into the first of `buffers`, one in each, cut to its length.
    /// `take` gets, in order, the length of each, its source, and the address it came to if the kernel
    /// might send an answer from another one.
    ///
    /// # Errors
    ///
    /// See [`remedy`]; nothing was received then.
    pub fn receive<const N: usize>(
        &self,
        buffers: &mut [[u8; N]],
        mut take: impl FnMut(usize, SocketAddr, Option<Local>),
    ) -> io::Result<()> {
        if let Some(messages) = &self.messages {
            return self.udp.try_io(|| messages.receive(&self.udp, buffers, take));
        }
        if let Some(buffer) = buffers.first_mut() {
            let (len, from) = self.udp.recv_from(buffer)?;
            take(len, from, None);
        }
        Ok(())
    }

    /// Sends one datagram, from the address `local`, or if that is `None` from the one that the kernel
    /// chooses.
    ///
    /// If the host has lost `local` in the meantime, the kernel chooses too: a datagram from another
    /// address may be of use, one that is never sent is of none.
    ///
    /// # Errors
    ///
    /// See [`remedy`].
    pub fn send(&self, datagram: &[u8], to: SocketAddr, local: Option<Local>) -> io::Result<usize> {
        if let (Some(messages), Some(local)) = (&self.messages, local) {
            let sent = self.udp.try_io(|| messages.send(&self.udp, datagram, to, local));
            // Systems disagree about the error for an address or interface that is gone. One of those
            // is the error for a socket that is lost, and only the plain call tells these apart.
            let is_final = |error| matches!(remedy(error), Remedy::Retry | Remedy::Wait);
            if sent.as_ref().map_or_else(is_final, |_| true) {
                return sent;
            }
        }
        self.udp.send_to(datagram, to)
    }

    /// Whether the host has lost the address that a socket is bound to.
    pub fn is_address_lost(address: SocketAddr) -> bool {
        let bound = std::net::UdpSocket::bind(SocketAddr::new(address.ip(), 0));
        bound.is_err_and(|error| error.kind() == ErrorKind::AddrNotAvailable)
    }

    /// The file descriptor, on systems where a fork copies it; else -1.
    pub fn descriptor(&self) -> i32 {
        #[cfg(unix)]
        {
            use std::os::fd::AsRawFd;
            self.udp.as_raw_fd()
        }
        #[cfg(not(unix))]
        {
            -1
        }
    }
}

impl Local {
    /// `None` for what cannot be the source of a datagram: a group's address, or none at all.
    fn new(ip: IpAddr, interface: u32) -> Option<Self> {
        let has_interface = match ip {
            IpAddr::V4(v4) if v4 == Ipv4Addr::BROADCAST => return None,
            IpAddr::V4(_) => false,
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        let is_source = !ip.is_unspecified() && !ip.is_multicast();
        is_source.then_some(Self { ip, interface: if has_interface { interface } else { 0 } })
    }
}

/// The name of the interface with this number, where systems write interfaces by name.
#[cfg(unix)]
#[expect(unsafe_code, reason = "no safe interface names an interface")]
pub fn interface_name(number: u32) -> Option<String> {
    // Twice what the system with the longest names needs, which is IF_NAMESIZE.
    let mut name = [0_u8; 64];
    // SAFETY: the buffer outlives the call, and no system writes more than its IF_NAMESIZE bytes.
    let found = unsafe { libc::if_indextoname(number, name.as_mut_ptr().cast()) };
    if found.is_null() {
        return None;
    }
    let name = std::ffi::CStr::from_bytes_until_nul(&name).ok()?;
    name.to_str().ok().map(str::to_owned)
}

/// None: Windows writes interfaces by number.
#[cfg(not(unix))]
pub fn interface_name(_: u32) -> Option<String> {
    None
}

/// What to do about an error of [`Socket::receive`] or [`Socket::send`].
pub fn remedy(error: &io::Error) -> Remedy {
    match error.kind() {
        ErrorKind::Interrupted => Remedy::Retry,
        ErrorKind::WouldBlock => Remedy::Wait,
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Remedy::Ignore,
        _ => match error.raw_os_error() {
            Some(code) => remedy_for_code(code),
            None => Remedy::Count,
        },
    }
}

/// Whether a socket was not bound because the system does not have its address family.
pub fn lacks_family(error: &io::Error) -> bool {
    // EAFNOSUPPORT: Linux, Windows, the BSDs. Where IPv6 is merely switched off, its addresses are gone.
    const NO_FAMILY: i32 = if cfg!(target_os = "linux") {
        97
    } else if cfg!(windows) {
        10047
    } else {
        47
    };
    error.kind() == ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(NO_FAMILY)
}

/// Whether a datagram was not sent because the system had no room for it at that moment.
pub fn lacks_room(error: &io::Error) -> bool {
    // ENOBUFS: Linux, Windows, the BSDs.
    const NO_BUFFERS: i32 = if cfg!(target_os = "linux") {
        105
    } else if cfg!(windows) {
        10055
    } else {
        55
    };
    error.kind() == ErrorKind::OutOfMemory || error.raw_os_error() == Some(NO_BUFFERS)
}

#[cfg(unix)]
fn remedy_for_code(code: i32) -> Remedy {
    // The same on every Unix: EBADF 9, ENODEV 19. ENOTSOCK is what a descriptor gives that now is
    // something else.
    const BAD_DESCRIPTOR: i32 = 9;
    const NO_DEVICE: i32 = 19;
    const NOT_A_SOCKET: i32 = if cfg!(target_os = "linux") { 88 } else { 38 };
    match code {
        BAD_DESCRIPTOR | NO_DEVICE | NOT_A_SOCKET => Remedy::Rebind,
        _ => Remedy::Count,
    }
}

#[cfg(windows)]
fn remedy_for_code(code: i32) -> Remedy {
    use windows_sys::Win32::Networking::WinSock::{
        WSAEBADF, WSAEMSGSIZE, WSAENETRESET, WSAENOTSOCK,
    };
    match code {
        WSAEMSGSIZE => Remedy::Oversize,
        WSAENETRESET => Remedy::Ignore,
        WSAEBADF | WSAENOTSOCK => Remedy::Rebind,
        _ => Remedy::Count,
    }
}

/// Asks for a buffer of `wanted` bytes, or as much of it as the system gives: Linux cuts what is too
/// much, the BSDs refuse it. Less costs packets under load and nothing else.
fn enlarge_receive_buffer(socket: &socket2::Socket, wanted: usize) {
    let enough = socket.recv_buffer_size().unwrap_or(0);
    let mut size = wanted;
    while size > enough && socket.set_recv_buffer_size(size).is_err() {
        size /= 2;
    }
}

/// Windows reports an ICMP "port unreachable" as a failed receive on the sending socket, and so
/// lets strangers disturb it; the other systems do not, on a socket that is not connected. Where it
/// cannot be turned off, [`remedy`] ignores it all the same.
#[cfg(not(windows))]
fn ignore_port_unreachable(_: &socket2::Socket) {}

#[cfg(windows)]
#[expect(unsafe_code, reason = "no safe interface sets SIO_UDP_CONNRESET")]
fn ignore_port_unreachable(socket: &socket2::Socket) {
    use std::os::windows::io::AsRawSocket;
    use std::ptr::null_mut;
    use windows_sys::Win32::Networking::WinSock::{SIO_UDP_CONNRESET, SOCKET, WSAIoctl};

    let off: u32 = 0;
    let mut returned: u32 = 0;
    // SAFETY: the socket is open, the input points to the four bytes whose length is given, there
    // is no output buffer, and `returned` outlives the call, which is not overlapped.
    let _ = unsafe {
        WSAIoctl(
            socket.as_raw_socket() as SOCKET,
            SIO_UDP_CONNRESET,
            (&raw const off).cast(),
            size_of::<u32>() as u32,
            null_mut(),
            0,
            &raw mut returned,
            null_mut(),
            None,
        )
    };
}
