//! UPnP's Internet Gateway Device, through `igd-next`: it takes a description only from the address that
//! answered the search, follows no redirect, reads at most 1 MiB of each answer and waits for each with
//! a bound.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use igd_next::{
    AddPortError, Gateway, GatewayIpVersion, PortMappingProtocol, RequestError, SearchOptions,
};

use super::{Failure, LEASE, Mapping, Protocol, Request, tame};
use crate::utils::random;

/// What a router's page lists the mapping under.
const NAME: &str = "KadePy";
/// Where UPnP devices listen for a search, at an address of their own or the group's.
const SEARCH_PORT: u16 = 1900;
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 255, 250);
/// How long the router that is asked by itself may take, its description included: it answers such a
/// search at once.
const DIRECT_MAX: Duration = Duration::from_secs(2);
/// How long the search of the group takes: devices answer within 3 seconds (`MX`), and then their
/// description is read.
const SEARCH_MAX: Duration = Duration::from_secs(5);
/// How many ports are tried where somebody else has the one that is wanted.
const PORTS_MAX: usize = 4;

/// Searches for a router, and asks it for a mapping.
///
/// The default gateway is asked first, for any device may answer a search of the group.
pub fn obtain(request: &Request<'_>, wanted: SocketAddrV4) -> Result<Mapping, Failure> {
    let found = [(request.gateway, DIRECT_MAX), (GROUP, SEARCH_MAX)]
        .into_iter()
        .take_while(|_| !(request.is_unwanted)())
        .find_map(|(to, patience)| search(request.local, to, patience));
    let gateway = found.ok_or(Failure::Silent)?;
    map(request, &gateway, wanted.port())
}

/// Asks a router for a mapping of its port `wanted`, or of another one where somebody else has that.
pub fn map(request: &Request<'_>, gateway: &Gateway, wanted: u16) -> Result<Mapping, Failure> {
    let local = SocketAddr::from((request.local, request.port));
    let mut lease = LEASE;
    let mut external = wanted;
    let mut left = PORTS_MAX;
    while let Err(error) = add(gateway, external, local, lease) {
        left -= 1;
        match error {
            _ if left == 0 || (request.is_unwanted)() => return Err(refused(&error)),
            AddPortError::OnlyPermanentLeasesSupported if !lease.is_zero() => {
                lease = Duration::ZERO
            }
            AddPortError::PortInUse => external = any_port().ok_or_else(|| refused(&error))?,
            _ => return Err(refused(&error)),
        }
    }
    // The mapping stands, whatever the router says of its address.
    let ip = match gateway.get_external_ip() {
        Ok(IpAddr::V4(ip)) => ip,
        _ => Ipv4Addr::UNSPECIFIED,
    };
    Ok(Mapping {
        external: SocketAddrV4::new(ip, external),
        // One without an end is renewed too, for a router may forget it.
        lease: LEASE,
        granted_by: Protocol::Upnp(Box::new(gateway.clone())),
    })
}

/// Asks a router to remove a mapping; whether it says that it has.
pub fn remove(gateway: &Gateway, external: u16) -> bool {
    gateway.remove_port(PortMappingProtocol::UDP, external).is_ok()
}

fn search(local: Ipv4Addr, to: Ipv4Addr, patience: Duration) -> Option<Gateway> {
    let mut options = SearchOptions::default();
    options.bind_addr = (local, 0).into();
    options.broadcast_address = (to, SEARCH_PORT).into();
    options.timeout = Some(patience);
    options.single_search_timeout = Some(patience);
    options.gateway_ip_version = GatewayIpVersion::V4;
    igd_next::search_gateway(options).ok()
}

fn add(
    gateway: &Gateway,
    external: u16,
    local: SocketAddr,
    lease: Duration,
) -> Result<(), AddPortError> {
    let seconds = u32::try_from(lease.as_secs()).unwrap_or(u32::MAX);
    gateway.add_port(PortMappingProtocol::UDP, external, local, seconds, NAME)
}

fn refused(error: &AddPortError) -> Failure {
    let reason = match error {
        AddPortError::RequestError(RequestError::ErrorCode(code, text)) => {
            format!("error {code} ({})", tame(text))
        }
        // It has the whole answer in it.
        AddPortError::RequestError(RequestError::InvalidResponse(_)) => {
            "an answer of no sense".into()
        }
        error => tame(error.to_string().trim_end_matches('.')),
    };
    Failure::refused("UPnP", &reason, Duration::ZERO)
}

/// One of the upper half, where few have a use for a certain one.
fn any_port() -> Option<u16> {
    random::bytes().ok().map(|bytes| u16::from_be_bytes(bytes) | 0x8000)
}
