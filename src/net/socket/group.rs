//! Multicast on one link: the interfaces of this host, a socket that hears a group, and datagrams to
//! a group by one interface.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use mio::net::UdpSocket;
use socket2::{Domain, Protocol, SockRef, Type};

use super::Socket;

/// An interface of this host, with one of its addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interface {
    /// Its number, which is not 0.
    pub index: u32,
    /// Its name, for people.
    pub name: String,
    /// One of its addresses.
    pub ip: IpAddr,
}

/// The interfaces of this host that are up and connected, each once for each of its addresses.
///
/// # Errors
///
/// The system's.
pub fn interfaces() -> io::Result<Vec<Interface>> {
    let all = if_addrs::get_if_addrs()?.into_iter();
    Ok(all
        .filter(if_addrs::Interface::is_oper_up)
        .filter_map(|found| {
            let ip = found.ip();
            Some(Interface { index: found.index?, name: found.name, ip })
        })
        .collect())
}

impl Socket {
    /// A socket that gets what comes to `group`, once it has joined it by an interface. Any number of
    /// nodes on a host may have one, in any number of processes.
    ///
    /// # Errors
    ///
    /// The system's: the port has been taken by a socket that does not share it.
    pub fn listen(group: SocketAddr) -> io::Result<Self> {
        let domain = Domain::for_address(group);
        let socket = socket2::Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        if group.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        share_port(&socket)?;
        hear_no_other_groups(&socket, group);
        socket.bind(&bound_for(group).into())?;
        socket.set_nonblocking(true)?;
        Ok(Self { udp: UdpSocket::from_std(socket.into()), messages: None })
    }

    /// Has a socket that listens to `group` hear what comes to it by `interface`.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn join(&self, group: IpAddr, interface: &Interface) -> io::Result<()> {
        let socket = SockRef::from(&self.udp);
        match (group, interface.ip) {
            (IpAddr::V4(group), IpAddr::V4(ip)) => socket.join_multicast_v4(&group, &ip),
            (IpAddr::V6(group), IpAddr::V6(_)) => socket.join_multicast_v6(&group, interface.index),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Sends one datagram to a group by `interface`, no farther than its link, and to this host too.
    /// For one thread, because the interface is an option of the socket.
    ///
    /// # Errors
    ///
    /// The system's. They say something about the interface, and nothing about the socket.
    pub fn send_to_group(
        &self,
        datagram: &[u8],
        group: SocketAddr,
        interface: &Interface,
    ) -> io::Result<()> {
        let socket = SockRef::from(&self.udp);
        let to = match (group, interface.ip) {
            (SocketAddr::V4(_), IpAddr::V4(ip)) => {
                socket.set_multicast_ttl_v4(1)?;
                socket.set_multicast_loop_v4(true)?;
                socket.set_multicast_if_v4(&ip)?;
                group
            }
            (SocketAddr::V6(v6), IpAddr::V6(_)) => {
                socket.set_multicast_hops_v6(1)?;
                socket.set_multicast_loop_v6(true)?;
                SocketAddrV6::new(*v6.ip(), v6.port(), 0, interface.index).into()
            }
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        self.udp.send_to(datagram, to).map(drop)
    }
}

/// Where to bind for a group: to the group itself, so that the socket gets nothing else. Windows takes
/// no such address, and the others take no link's group without its interface; there, what comes to
/// the port of this host comes too.
fn bound_for(group: SocketAddr) -> SocketAddr {
    match group {
        SocketAddr::V4(v4) if cfg!(windows) => (std::net::Ipv4Addr::UNSPECIFIED, v4.port()).into(),
        SocketAddr::V4(_) => group,
        SocketAddr::V6(v6) => (Ipv6Addr::UNSPECIFIED, v6.port()).into(),
    }
}

/// Lets other sockets have the same port. On the BSDs and macOS that takes another option for the
/// wildcard address. On Linux that one would keep other users' processes away.
fn share_port(socket: &socket2::Socket) -> io::Result<()> {
    socket.set_reuse_address(true)?;
    #[cfg(not(any(windows, target_os = "linux", target_os = "android")))]
    socket.set_reuse_port(true)?;
    Ok(())
}

/// On Linux a socket hears what any socket of the host has joined, unless it is told not to. Elsewhere
/// it hears what it has joined itself.
fn hear_no_other_groups(_socket: &socket2::Socket, _group: SocketAddr) {
    #[cfg(target_os = "linux")]
    // Linux before 4.20 has not got it for IPv6: to hear more does no harm.
    let _ = if _group.is_ipv4() {
        _socket.set_multicast_all_v4(false)
    } else {
        _socket.set_multicast_all_v6(false)
    };
}
