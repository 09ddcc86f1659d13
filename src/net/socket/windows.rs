//! Datagrams with the address of this host that they come to or leave from, in a control message, as
//! Winsock lays it out.

#![expect(unsafe_code, reason = "no safe interface carries control messages")]

use std::mem::offset_of;
use std::os::windows::io::AsRawSocket;
use std::ptr::null_mut;

use socket2::SockAddr;
use windows_sys::Win32::Networking::WinSock::{
    CMSGHDR, IN_ADDR, IN_ADDR_0, IN_PKTINFO, IN6_ADDR, IN6_ADDR_0, IN6_PKTINFO, IP_PKTINFO,
    IPPROTO_IP, IPPROTO_IPV6, IPV6_PKTINFO, LPFN_WSARECVMSG, SIO_GET_EXTENSION_FUNCTION_POINTER,
    SOCKET, WSABUF, WSAID_WSARECVMSG, WSAIoctl, WSAMSG, WSASendMsg, setsockopt,
};

use super::{IpAddr, Local, SocketAddr, UdpSocket, io};

/// A control message as WSA_CMSG_DATA and its kin lay it out, for data that is aligned to 4 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
struct Control<T> {
    header: CMSGHDR,
    info: T,
}

impl<T> Control<T> {
    const LEN: usize = offset_of!(Self, info) + size_of::<T>();

    fn new(level: i32, kind: i32, info: T) -> Self {
        let header = CMSGHDR { cmsg_len: Self::LEN, cmsg_level: level, cmsg_type: kind };
        Self { header, info }
    }
}

/// The one control message of a datagram, of either family; the header tells which.
#[repr(C)]
union AnyControl {
    header: CMSGHDR,
    v4: Control<IN_PKTINFO>,
    v6: Control<IN6_PKTINFO>,
}

/// That the system says of each datagram where it came to.
pub struct Messages {
    /// WSARecvMsg, which no library exports.
    receive: LPFN_WSARECVMSG,
}

impl Messages {
    pub fn new(socket: &socket2::Socket, is_ipv6: bool) -> Option<Self> {
        let (level, option) = match is_ipv6 {
            true => (IPPROTO_IPV6, IPV6_PKTINFO),
            false => (IPPROTO_IP, IP_PKTINFO),
        };
        let socket = socket.as_raw_socket() as SOCKET;
        let on: u32 = 1;
        let wanted = WSAID_WSARECVMSG;
        let mut receive: LPFN_WSARECVMSG = None;
        let mut returned: u32 = 0;
        // SAFETY: the socket is open; each pointer comes with the length of what it leads to,
        // which outlives its call; the call that may be overlapped is not.
        let (set, found) = unsafe {
            let set =
                setsockopt(socket, level, option, (&raw const on).cast(), size_of::<u32>() as i32);
            let found = WSAIoctl(
                socket,
                SIO_GET_EXTENSION_FUNCTION_POINTER,
                (&raw const wanted).cast(),
                size_of_val(&wanted) as u32,
                (&raw mut receive).cast(),
                size_of::<LPFN_WSARECVMSG>() as u32,
                &raw mut returned,
                null_mut(),
                None,
            );
            (set, found)
        };
        (set == 0 && found == 0 && receive.is_some()).then_some(Self { receive })
    }

    pub fn receive<const N: usize>(
        &self,
        socket: &UdpSocket,
        buffers: &mut [[u8; N]],
        mut take: impl FnMut(usize, SocketAddr, Option<Local>),
    ) -> io::Result<()> {
        let (Some(receive), Some(buffer)) = (self.receive, buffers.first_mut()) else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let mut part = WSABUF { len: buffer.len() as u32, buf: buffer.as_mut_ptr() };
        let mut control = AnyControl { header: CMSGHDR::default() };
        let mut message = to_message(&mut part, &raw mut control, size_of::<AnyControl>());
        let mut len: u32 = 0;
        // SAFETY: every pointer in `message` leads to something that outlives the call, with its
        // length; the call is not overlapped. The system writes the address and sets its length.
        let ((), from) = unsafe {
            SockAddr::try_init(|address, address_len| {
                message.name = address.cast();
                message.namelen = *address_len;
                let socket = socket.as_raw_socket() as SOCKET;
                let result = receive(socket, &raw mut message, &raw mut len, null_mut(), None);
                *address_len = message.namelen;
                if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
            })
        }?;
        let from = from.as_socket().ok_or(io::ErrorKind::InvalidData)?;
        take(len as usize, from, local(&control, message.Control.len as usize));
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
        let mut part = WSABUF { len: datagram.len() as u32, buf: datagram.as_ptr().cast_mut() };
        let (mut control, control_len) = match from.ip {
            IpAddr::V4(v4) => {
                let address = u32::from_ne_bytes(v4.octets());
                let ipi_addr = IN_ADDR { S_un: IN_ADDR_0 { S_addr: address } };
                let info = IN_PKTINFO { ipi_addr, ipi_ifindex: 0 };
                let v4 = Control::new(IPPROTO_IP, IP_PKTINFO, info);
                (AnyControl { v4 }, size_of_val(&v4))
            }
            IpAddr::V6(v6) => {
                let ipi6_addr = IN6_ADDR { u: IN6_ADDR_0 { Byte: v6.octets() } };
                let info = IN6_PKTINFO { ipi6_addr, ipi6_ifindex: from.interface };
                let v6 = Control::new(IPPROTO_IPV6, IPV6_PKTINFO, info);
                (AnyControl { v6 }, size_of_val(&v6))
            }
        };
        let mut message = to_message(&mut part, &raw mut control, control_len);
        message.name = to.as_ptr().cast_mut().cast();
        message.namelen = to.len();
        let socket = socket.as_raw_socket() as SOCKET;
        let mut len: u32 = 0;
        // SAFETY: every pointer in `message` leads to something that outlives the call, with its
        // length; the call is not overlapped.
        let result =
            unsafe { WSASendMsg(socket, &raw const message, 0, &raw mut len, null_mut(), None) };
        if result == 0 { Ok(len as usize) } else { Err(io::Error::last_os_error()) }
    }
}

fn to_message(part: &mut WSABUF, control: *mut AnyControl, control_len: usize) -> WSAMSG {
    WSAMSG {
        name: null_mut(),
        namelen: 0,
        lpBuffers: part,
        dwBufferCount: 1,
        Control: WSABUF { len: control_len as u32, buf: control.cast() },
        dwFlags: 0,
    }
}

/// Where a datagram came to, if `len` bytes of `control` say so. There is one control message at
/// most, because no other is asked for.
fn local(control: &AnyControl, len: usize) -> Option<Local> {
    // SAFETY: every bit pattern is a value of each member, and all of it was initialized.
    unsafe {
        let header = control.header;
        let holds = |wanted: usize| len >= wanted && header.cmsg_len >= wanted;
        match (header.cmsg_level, header.cmsg_type) {
            (IPPROTO_IP, IP_PKTINFO) if holds(Control::<IN_PKTINFO>::LEN) => {
                let address = control.v4.info.ipi_addr.S_un.S_addr;
                Local::new(IpAddr::from(address.to_ne_bytes()), 0)
            }
            (IPPROTO_IPV6, IPV6_PKTINFO) if holds(Control::<IN6_PKTINFO>::LEN) => {
                let info = control.v6.info;
                Local::new(IpAddr::from(info.ipi6_addr.u.Byte), info.ipi6_ifindex)
            }
            _ => None,
        }
    }
}
