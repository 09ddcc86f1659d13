//! Where this host stands: behind which router, if behind one at all.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use thiserror::Error;

use crate::wire::message::{Endpoint, Reach};

/// An address of the open Internet, to which no datagram is ever sent: RFC 5737 keeps it for documents.
const FAR: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 9);

/// Where this host stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Behind a router that may translate addresses.
    Behind {
        /// The router.
        gateway: Ipv4Addr,
        /// This host's address on its side.
        local: Ipv4Addr,
    },
    /// On the open Internet.
    Outside(Ipv4Addr),
    /// In a network without a router, or in none.
    Offline,
}

/// Why a node has nothing to map, wherever the host goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Nothing {
    /// Routers translate IPv4 only.
    #[error("the node is bound to an IPv6 address, which routers do not translate")]
    Ipv6,
    /// A loopback or link-local address.
    #[error("the node is bound to {0}, which no router leads to")]
    Near(Ipv4Addr),
    /// A public address.
    #[error("the node is bound to {0}, a public address")]
    Public(Ipv4Addr),
}

/// The address of a node that is bound to `address`, unspecified where it has every one of the host.
///
/// # Errors
///
/// [`Nothing`] where no router can map a port to it.
pub fn bound_to(address: SocketAddr) -> Result<Ipv4Addr, Nothing> {
    let IpAddr::V4(ip) = address.ip() else {
        return Err(Nothing::Ipv6);
    };
    match reach(ip) {
        _ if ip.is_unspecified() => Ok(ip),
        Reach::Private | Reach::Shared => Ok(ip),
        Reach::Loopback | Reach::Link => Err(Nothing::Near(ip)),
        Reach::Public => Err(Nothing::Public(ip)),
    }
}

impl Place {
    /// Where a node stands that is bound to `bound`. It sends nothing, and does not block.
    pub fn look(bound: Ipv4Addr) -> Self {
        let Some(local) = local_towards(bound, FAR) else {
            return Self::Offline;
        };
        match reach(local) {
            Reach::Private | Reach::Shared => {}
            Reach::Loopback | Reach::Link => return Self::Offline,
            Reach::Public => return Self::Outside(local),
        }
        match gateway_of(local) {
            Some(gateway) => Self::Behind { gateway, local },
            None => Self::Offline,
        }
    }
}

/// The router on the way out of `local`: with several default routes, the one that the system takes.
fn gateway_of(local: Ipv4Addr) -> Option<Ipv4Addr> {
    let routes = getifs::route_ipv4_table_by_filter(|route| route.is_default()).ok()?;
    let mut gateways = routes.iter().filter_map(getifs::Ipv4Route::gateway);
    gateways.find(|&gateway| local_towards(Ipv4Addr::UNSPECIFIED, (gateway, FAR.1)) == Some(local))
}

/// The address that the system sends from towards `to`, on a socket that is bound to `bound`.
fn local_towards(bound: Ipv4Addr, to: (Ipv4Addr, u16)) -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((bound, 0)).ok()?;
    // Of a datagram socket this sends nothing.
    socket.connect(to).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(local) => Some(local),
        IpAddr::V6(_) => None,
    }
}

fn reach(ip: Ipv4Addr) -> Reach {
    Endpoint::new(ip, 0).reach()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_router_can_translate_is_mapped() {
        let bound = |text: &str| bound_to(text.parse().unwrap());
        assert_eq!(bound("0.0.0.0:1"), Ok(Ipv4Addr::UNSPECIFIED));
        assert_eq!(bound("192.168.1.7:1"), Ok(Ipv4Addr::new(192, 168, 1, 7)));
        assert_eq!(bound("100.64.0.7:1"), Ok(Ipv4Addr::new(100, 64, 0, 7)));
        assert_eq!(bound("127.0.0.1:1"), Err(Nothing::Near(Ipv4Addr::LOCALHOST)));
        assert_eq!(bound("169.254.1.1:1"), Err(Nothing::Near(Ipv4Addr::new(169, 254, 1, 1))));
        assert_eq!(bound("203.0.113.9:1"), Err(Nothing::Public(Ipv4Addr::new(203, 0, 113, 9))));
        assert_eq!(bound("[::]:1"), Err(Nothing::Ipv6));
    }
}
