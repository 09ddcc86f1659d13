//! Datagrams with the address of this host that they come to or leave from, in a control message:
//! IPv4's and, for IPv6, that of RFC 3542.

#![expect(unsafe_code, reason = "no safe interface carries control messages")]

use std::mem::zeroed;
use std::os::fd::{AsRawFd, RawFd};
#[cfg(any(target_os = "linux", target_os = "android"))]
use std::ptr::null_mut;
use std::ptr::read;

use arrayvec::ArrayVec;
#[cfg(any(target_os = "linux", target_os = "android"))]
use libc::mmsghdr;
use libc::{c_int, cmsghdr, in6_addr, in6_pktinfo, iovec, msghdr};
use socket2::{SockAddr, SockAddrStorage};

use super::{IpAddr, Ipv4Addr, Local, SocketAddr, UdpSocket, io};

/// How many datagrams one call receives at most. The control messages make a call dearer, by more
/// than a tenth of what it costs to serve a PING; sharing the call among many pays for most of that.
const MANY: usize = if cfg!(any(target_os = "linux", target_os = "android")) { 32 } else { 1 };

#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[expect(non_camel_case_types, reason = "the name that Linux has for it")]
struct mmsghdr {
    msg_hdr: msghdr,
    msg_len: u32,
}

/// Stands for a source of a family that such a socket does not have.
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// What carries an IPv4 address: the datagram's own destination, or on Linux the address to
/// answer from, which differs where the destination is a broadcast address.
#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
mod v4 {
    use libc::in_addr;
    pub use libc::{IP_PKTINFO as KIND, in_pktinfo as Info};

    pub fn address(info: Info) -> in_addr {
        if cfg!(target_vendor = "apple") { info.ipi_addr } else { info.ipi_spec_dst }
    }

    pub fn info(address: in_addr) -> Info {
        Info { ipi_ifindex: 0, ipi_spec_dst: address, ipi_addr: in_addr { s_addr: 0 } }
    }
}

/// The BSDs' IP_SENDSRCADDR is the same number.
#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
mod v4 {
    pub use libc::{IP_RECVDSTADDR as KIND, in_addr as Info};

    pub fn address(info: Info) -> Info {
        info
    }

    pub fn info(address: Info) -> Info {
        address
    }
}

/// Room for the one control message of a datagram.
#[repr(C)]
union Control {
    bytes: [u8; 64],
    _aligned: cmsghdr,
}

/// That the system says of each datagram where it came to.
pub struct Messages;

impl Messages {
    pub fn new(socket: &socket2::Socket, is_ipv6: bool) -> Option<Self> {
        let (level, option) = match is_ipv6 {
            true => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
            false => (libc::IPPROTO_IP, v4::KIND),
        };
        let on: c_int = 1;
        // SAFETY: the socket is open, and the value is an int whose length is given.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                level,
                option,
                (&raw const on).cast(),
                size_of::<c_int>() as libc::socklen_t,
            )
        };
        (result == 0).then_some(Self)
    }

    pub fn receive<const N: usize>(
        &self,
        socket: &UdpSocket,
        buffers: &mut [[u8; N]],
        mut take: impl FnMut(usize, SocketAddr, Option<Local>),
    ) -> io::Result<()> {
        let mut slots: ArrayVec<Slot, MANY> =
            buffers.iter_mut().take(MANY).map(Slot::new).collect();
        let mut messages: ArrayVec<mmsghdr, MANY> = slots.iter_mut().map(Slot::message).collect();
        // SAFETY: every pointer in `messages` leads to something that outlives the call, with its
        // length, and is there until the end of this function.
        let count = unsafe { receive_many(socket.as_raw_fd(), &mut messages) }?;
        for (slot, message) in slots.iter().zip(&messages).take(count) {
            // SAFETY: the system has written an address of that length, which is plain bytes.
            let from = unsafe { SockAddr::new(read(&slot.address), message.msg_hdr.msg_namelen) };
            let from = from.as_socket().unwrap_or(NOBODY);
            // SAFETY: the system has filled in `message`, and its control buffer is still there.
            take(message.msg_len as usize, from, unsafe { local(&message.msg_hdr) });
        }
        Ok(())
    }

    pub fn send(
        &self,
        socket: &UdpSocket,
        datagram: &[u8],
        to: SocketAddr,
        from: Local,
    ) -> io::Result<usize> {
        let to = SockAddr::from(to);
        // Only ever read from.
        let mut part =
            iovec { iov_base: datagram.as_ptr().cast_mut().cast(), iov_len: datagram.len() };
        let mut control = Control { bytes: [0; 64] };
        // SAFETY: zeros are a `msghdr` without anything.
        let mut message: msghdr = unsafe { zeroed() };
        message.msg_name = to.as_ptr().cast_mut().cast();
        message.msg_namelen = to.len();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = (&raw mut control).cast();
        message.msg_controllen = size_of::<Control>() as _;
        // SAFETY: `control` has room for either, and is aligned as a header has to be.
        unsafe {
            match from.ip {
                IpAddr::V4(v4) => {
                    let s_addr = u32::from_ne_bytes(v4.octets());
                    let info = v4::info(libc::in_addr { s_addr });
                    attach(&mut message, libc::IPPROTO_IP, v4::KIND, info);
                }
                IpAddr::V6(v6) => {
                    let info = in6_pktinfo {
                        ipi6_addr: in6_addr { s6_addr: v6.octets() },
                        ipi6_ifindex: from.interface as _,
                    };
                    attach(&mut message, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
                }
            }
        }
        // SAFETY: every pointer in `message` leads to something that outlives the call, with its
        // length.
        let len = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, 0) };
        usize::try_from(len).map_err(|_| io::Error::last_os_error())
    }
}

/// What a received datagram is written to.
struct Slot {
    address: SockAddrStorage,
    control: Control,
    part: iovec,
}

impl Slot {
    fn new<const N: usize>(buffer: &mut [u8; N]) -> Self {
        let part = iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: N };
        Self { address: SockAddrStorage::zeroed(), control: Control { bytes: [0; 64] }, part }
    }

    fn message(&mut self) -> mmsghdr {
        // SAFETY: zeros are a `msghdr` without anything.
        let mut message: msghdr = unsafe { zeroed() };
        message.msg_name = (&raw mut self.address).cast();
        message.msg_namelen = self.address.size_of();
        message.msg_iov = &raw mut self.part;
        message.msg_iovlen = 1;
        message.msg_control = (&raw mut self.control).cast();
        message.msg_controllen = size_of::<Control>() as _;
        mmsghdr { msg_hdr: message, msg_len: 0 }
    }
}

/// Receives into the first of `messages`, as many as there are; how many those were.
///
/// # Safety
///
/// The pointers in `messages` lead to what may be written to, with their lengths.
#[cfg(any(target_os = "linux", target_os = "android"))]
unsafe fn receive_many(socket: RawFd, messages: &mut [mmsghdr]) -> io::Result<usize> {
    let count = messages.len() as _;
    // SAFETY: the caller's promise.
    let count = unsafe { libc::recvmmsg(socket, messages.as_mut_ptr(), count, 0, null_mut()) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Receives into the first of `messages`.
///
/// # Safety
///
/// The pointers in `messages` lead to what may be written to, with their lengths.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
unsafe fn receive_many(socket: RawFd, messages: &mut [mmsghdr]) -> io::Result<usize> {
    let Some(first) = messages.first_mut() else {
        return Ok(0);
    };
    // SAFETY: the caller's promise.
    let len = unsafe { libc::recvmsg(socket, &raw mut first.msg_hdr, 0) };
    first.msg_len = u32::try_from(len).map_err(|_| io::Error::last_os_error())?;
    Ok(1)
}

/// Where a datagram came to. There is one control message at most, because no other is asked for.
///
/// # Safety
///
/// `recvmsg` has filled in `message`, whose control buffer is aligned and still there.
unsafe fn local(message: &msghdr) -> Option<Local> {
    // SAFETY: the caller's promise; that the header is followed by all of the data, its length says.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(message).as_ref()?;
        let data = libc::CMSG_DATA(header);
        let holds = |len: usize| header.cmsg_len as usize >= libc::CMSG_LEN(len as _) as usize;
        match (header.cmsg_level, header.cmsg_type) {
            (libc::IPPROTO_IP, v4::KIND) if holds(size_of::<v4::Info>()) => {
                let address = v4::address(data.cast::<v4::Info>().read_unaligned());
                Local::new(IpAddr::from(address.s_addr.to_ne_bytes()), 0)
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if holds(size_of::<in6_pktinfo>()) => {
                let info = data.cast::<in6_pktinfo>().read_unaligned();
                Local::new(IpAddr::from(info.ipi6_addr.s6_addr), info.ipi6_ifindex as _)
            }
            _ => None,
        }
    }
}

/// Makes `info` the message's only control message.
///
/// # Safety
///
/// The control buffer of `message` is aligned and has room for it.
unsafe fn attach<T>(message: &mut msghdr, level: c_int, kind: c_int, info: T) {
    // SAFETY: the caller's promise.
    unsafe {
        if let Some(header) = libc::CMSG_FIRSTHDR(message).as_mut() {
            header.cmsg_level = level;
            header.cmsg_type = kind;
            header.cmsg_len = libc::CMSG_LEN(size_of::<T>() as _) as _;
            libc::CMSG_DATA(header).cast::<T>().write_unaligned(info);
        }
        message.msg_controllen = libc::CMSG_SPACE(size_of::<T>() as _) as _;
    }
}
