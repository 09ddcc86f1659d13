//! Datagrams with the address of this host that they come to or leave from, in a control message:
//! IPv4's and, for IPv6, that of RFC 3542.

#![expect(unsafe_code, reason = "no safe interface carries control messages")]

use std::mem::zeroed;
use std::os::fd::AsRawFd;

use libc::{c_int, cmsghdr, in6_addr, in6_pktinfo, iovec, msghdr};
use socket2::SockAddr;

use super::{IpAddr, Local, SocketAddr, UdpSocket, io};

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

    pub fn receive(
        &self,
        socket: &UdpSocket,
        buffer: &mut [u8],
    ) -> io::Result<(usize, SocketAddr, Option<Local>)> {
        let mut part = iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let mut control = Control { bytes: [0; 64] };
        // SAFETY: zeros are a `msghdr` without anything.
        let mut message: msghdr = unsafe { zeroed() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = (&raw mut control).cast();
        message.msg_controllen = size_of::<Control>() as _;
        // SAFETY: every pointer in `message` leads to something that outlives the call, with its
        // length. The system writes the address and sets its length.
        let (len, from) = unsafe {
            SockAddr::try_init(|address, address_len| {
                message.msg_name = address.cast();
                message.msg_namelen = *address_len;
                let len = libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0);
                *address_len = message.msg_namelen;
                usize::try_from(len).map_err(|_| io::Error::last_os_error())
            })
        }?;
        let from = from.as_socket().ok_or(io::ErrorKind::InvalidData)?;
        // SAFETY: the system has filled in `message`, and `control` is still there.
        Ok((len, from, unsafe { local(&message) }))
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
