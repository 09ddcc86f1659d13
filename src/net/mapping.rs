//! Port mapping: asking the home router, by PCP, NAT-PMP or UPnP, to forward a UDP port to this host.
//!
//! Everything here blocks. Which thread does it, and what it logs, is the owner's affair
//! (`node/mapper.rs`); when it asks again is decided by [`plan`].

mod pcp;
mod place;
pub mod plan;
mod upnp;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use igd_next::Gateway;

pub use self::place::{Nothing, Place, bound_to};

/// What is asked for, and granted at most: long enough that routers are asked seldom, and an hour after
/// a crash the port is free again. RFC 6886 recommends two hours, RFC 6887 leaves it to the client.
pub const LEASE: Duration = Duration::from_secs(3_600);
/// The characters of a router's text that are taken over into an error.
const TEXT_MAX: usize = 200;

/// What a router has granted.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// The port at the router that leads to this node, and the router's address as it says itself,
    /// unspecified where it does not say.
    pub external: SocketAddrV4,
    /// How long it lasts, as the router says.
    pub lease: Duration,
    granted_by: Protocol,
}

#[derive(Clone, Debug)]
enum Protocol {
    Pcp,
    NatPmp,
    Upnp(Box<Gateway>),
}

/// Why there is no mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing answers that maps ports.
    Silent,
    /// The router answers, but does not map the port.
    Refused {
        /// The protocols and the router's reasons.
        why: String,
        /// How long its answer holds: it does not want to be asked before.
        holds: Duration,
    },
}

/// Who asks whom for what.
pub struct Request<'a> {
    /// The router, and this host's address on its side.
    pub gateway: Ipv4Addr,
    /// See `gateway`.
    pub local: Ipv4Addr,
    /// The node's port, which is also the one wanted at the router.
    pub port: u16,
    /// By which a PCP router tells the owner of a mapping from others: whoever has another one cannot
    /// change the mapping.
    pub nonce: [u8; 12],
    /// Whether nobody wants the answer any more.
    pub is_unwanted: &'a dyn Fn() -> bool,
}

impl Request<'_> {
    /// Asks for a mapping, by each protocol in turn.
    ///
    /// It takes some ten seconds where nothing answers, and up to a minute where a UPnP device dawdles.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub fn obtain(&self) -> Result<Mapping, Failure> {
        let wanted = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, self.port);
        let ways = [pcp::map, pcp::map_by_nat_pmp, upnp::obtain];
        let mut failure = Failure::Silent;
        for way in ways {
            if (self.is_unwanted)() {
                break;
            }
            match way(self, wanted) {
                Ok(mapping) => return Ok(mapping),
                Err(reason) => failure = failure.and(reason),
            }
        }
        Err(failure)
    }

    /// Asks for more time, by the protocol that `mapping` was granted by.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub fn renew(&self, mapping: &Mapping) -> Result<Mapping, Failure> {
        let former = mapping.external;
        match &mapping.granted_by {
            Protocol::Pcp => pcp::map(self, former),
            Protocol::NatPmp => pcp::map_by_nat_pmp(self, former),
            // A router that has started again may have it at another port of its own.
            Protocol::Upnp(gateway) => {
                upnp::map(self, gateway, former.port()).or_else(|_| upnp::obtain(self, former))
            }
        }
    }

    /// Asks the router to remove `mapping`; whether it says that it has.
    pub fn remove(&self, mapping: &Mapping) -> bool {
        match &mapping.granted_by {
            Protocol::Pcp => pcp::remove(self),
            Protocol::NatPmp => pcp::remove_by_nat_pmp(self),
            Protocol::Upnp(gateway) => upnp::remove(gateway, mapping.external.port()),
        }
    }
}

impl Mapping {
    /// The protocol that the router granted it by.
    pub fn protocol(&self) -> &'static str {
        match self.granted_by {
            Protocol::Pcp => "PCP",
            Protocol::NatPmp => "NAT-PMP",
            Protocol::Upnp(_) => "UPnP",
        }
    }

    /// Whether both are the same port at the same address by the same protocol.
    pub fn is_like(&self, other: &Self) -> bool {
        self.external == other.external && self.protocol() == other.protocol()
    }
}

impl Failure {
    fn refused(protocol: &str, reason: &str, holds: Duration) -> Self {
        Self::Refused { why: format!("{protocol}: {reason}"), holds }
    }

    /// Both: a refusal says more than silence.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Silent, other) => other,
            (one, Self::Silent) => one,
            (Self::Refused { why, holds }, Self::Refused { why: also, holds: longer }) => {
                Self::Refused { why: format!("{why}; {also}"), holds: holds.max(longer) }
            }
        }
    }
}

/// A text from the network as part of a log line: of bounded length, and one line.
fn tame(text: &str) -> String {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    text.trim().chars().take(TEXT_MAX).map(printable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_routers_text_is_short_and_one_line() {
        assert_eq!(tame(" no\r\nERROR forged\u{7f}\n"), "no  ERROR forged ");
        assert_eq!(tame(&"x".repeat(1_000_000)).len(), TEXT_MAX);
    }

    #[test]
    fn every_refusal_is_told_and_silence_hides_none() {
        let hour = Duration::from_secs(3_600);
        let by_pcp = Failure::refused("PCP", "not authorized", Duration::from_secs(9));
        let by_upnp = Failure::refused("UPnP", "Forbidden", hour);
        let both = Failure::Silent.and(by_pcp).and(Failure::Silent).and(by_upnp);
        let why = "PCP: not authorized; UPnP: Forbidden".to_owned();
        assert_eq!(both, Failure::Refused { why, holds: hour });
        assert_eq!(Failure::Silent.and(Failure::Silent), Failure::Silent);
    }
}
