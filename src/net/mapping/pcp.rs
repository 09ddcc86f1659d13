//! PCP (RFC 6887) and its predecessor NAT-PMP (RFC 6886), which routers take on one port: their packets
//! for mapping a UDP port, and the exchange of one.
//!
//! A router that knows NAT-PMP alone answers a PCP request by its own version, and is then asked by that.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use super::{Failure, LEASE, Mapping, Protocol, Request};

/// Where routers listen, for both.
const PORT: u16 = 5351;
/// The version of PCP; NAT-PMP's is 0.
const VERSION: u8 = 2;
const MAP: u8 = 1;
const ANSWER: u8 = 0x80;
/// UDP's number.
const UDP: u8 = 17;
const PCP_LEN: usize = 60;
/// The longest packet of PCP; none of NAT-PMP is as long.
const LEN_MAX: usize = 1_100;
/// That the router does not speak this version: the same number in both.
const UNSUPPORTED_VERSION: u16 = 1;
/// What is wanted at the router where nothing is.
const NOWHERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
/// How long each copy of a request waits for an answer: the pauses of RFC 6886 up to a second. The first
/// of RFC 6887, 3 seconds, would keep a node behind a router without PCP waiting.
const WAITS: [Duration; 3] =
    [Duration::from_millis(250), Duration::from_millis(500), Duration::from_millis(1_000)];
/// How often who waits looks whether the answer is still wanted.
const LOOK: Duration = Duration::from_millis(100);

/// What a router answers to a request.
#[derive(Debug, PartialEq, Eq)]
enum Answer<T> {
    Granted(T),
    Refused {
        code: u16,
        holds: Duration,
    },
    /// It speaks another version.
    Unknown,
}

/// Asks for a mapping by PCP; the address and port at the router are those that are wanted, if possible.
pub fn map(request: &Request<'_>, wanted: SocketAddrV4) -> Result<Mapping, Failure> {
    let packet = pcp_request(request, wanted, LEASE);
    let answer = exchange(request, &packet, |bytes| read_pcp(&packet, bytes));
    if answer.is_none() && (request.is_unwanted)() {
        take_back(request, &pcp_request(request, NOWHERE, Duration::ZERO));
    }
    let (external, lease) = granted("PCP", PCP_REASONS, answer)?;
    Ok(Mapping { external, lease, granted_by: Protocol::Pcp })
}

/// Asks for the removal of a mapping by PCP; whether it is granted.
pub fn remove(request: &Request<'_>) -> bool {
    let packet = pcp_request(request, NOWHERE, Duration::ZERO);
    let answer = exchange(request, &packet, |bytes| read_pcp(&packet, bytes));
    matches!(answer, Some(Answer::Granted(_)))
}

/// Asks for a mapping by NAT-PMP, where the port at the router can be wanted, and the address only asked.
pub fn map_by_nat_pmp(request: &Request<'_>, wanted: SocketAddrV4) -> Result<Mapping, Failure> {
    // The address first, because to ask for it changes nothing at a router that does not map.
    let answer = exchange(request, &[0, 0], read_address);
    let address = granted("NAT-PMP", NAT_PMP_REASONS, answer)?;
    let packet = nat_pmp_request(request.port, wanted.port(), LEASE);
    let answer = exchange(request, &packet, |bytes| read_nat_pmp(request.port, bytes));
    if answer.is_none() && (request.is_unwanted)() {
        take_back(request, &nat_pmp_request(request.port, 0, Duration::ZERO));
    }
    let (port, lease) = granted("NAT-PMP", NAT_PMP_REASONS, answer)?;
    let external = SocketAddrV4::new(address, port);
    Ok(Mapping { external, lease, granted_by: Protocol::NatPmp })
}

/// Asks for the removal of a mapping by NAT-PMP; whether it is granted.
pub fn remove_by_nat_pmp(request: &Request<'_>) -> bool {
    let packet = nat_pmp_request(request.port, 0, Duration::ZERO);
    let answer = exchange(request, &packet, |bytes| read_nat_pmp(request.port, bytes));
    matches!(answer, Some(Answer::Granted(_)))
}

fn granted<T>(protocol: &str, reasons: &[&str], answer: Option<Answer<T>>) -> Result<T, Failure> {
    match answer {
        Some(Answer::Granted(granted)) => Ok(granted),
        None | Some(Answer::Unknown) => Err(Failure::Silent),
        Some(Answer::Refused { code, holds }) => {
            let reason = reasons.get(usize::from(code)).map_or("", |reason| reason);
            Err(Failure::refused(protocol, &format!("error {code} {reason}"), holds))
        }
    }
}

/// Sends `packet` to the router, again where nothing comes back; the first answer that `read` takes.
///
/// Others than the router cannot answer, for the socket is connected, and what `read` does not take
/// changes nothing.
#[expect(clippy::disallowed_methods, reason = "how long to wait is the clock's business")]
fn exchange<T>(
    request: &Request<'_>,
    packet: &[u8],
    read: impl Fn(&[u8]) -> Option<T>,
) -> Option<T> {
    let socket = UdpSocket::bind((request.local, 0)).ok()?;
    socket.connect((request.gateway, PORT)).ok()?;
    let mut buffer = [0; LEN_MAX];
    for wait in WAITS {
        socket.send(packet).ok()?;
        let deadline = Instant::now() + wait;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if (request.is_unwanted)() {
                return None;
            }
            if left.is_zero() {
                break;
            }
            socket.set_read_timeout(Some(left.min(LOOK))).ok()?;
            match socket.recv(&mut buffer) {
                Ok(len) => {
                    if let Some(answer) = read(&buffer[..len]) {
                        return Some(answer);
                    }
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {}
                    // Nothing listens there, or the network is gone.
                    _ => return None,
                },
            }
        }
    }
    None
}

/// Sends the removal of what the router may grant to a request whose answer nobody waits for any more.
fn take_back(request: &Request<'_>, packet: &[u8]) {
    // Where it does not arrive, the lease ends by itself.
    let _ = UdpSocket::bind((request.local, 0))
        .and_then(|socket| socket.send_to(packet, (request.gateway, PORT)));
}

fn pcp_request(request: &Request<'_>, wanted: SocketAddrV4, lease: Duration) -> [u8; PCP_LEN] {
    let mut packet = [0; PCP_LEN];
    packet[..2].copy_from_slice(&[VERSION, MAP]);
    packet[4..8].copy_from_slice(&seconds(lease));
    packet[8..24].copy_from_slice(&request.local.to_ipv6_mapped().octets());
    packet[24..36].copy_from_slice(&request.nonce);
    packet[36] = UDP;
    packet[40..42].copy_from_slice(&request.port.to_be_bytes());
    packet[42..44].copy_from_slice(&wanted.port().to_be_bytes());
    packet[44..60].copy_from_slice(&wanted.ip().to_ipv6_mapped().octets());
    packet
}

/// The answer to `asked`, where `bytes` is one.
fn read_pcp(asked: &[u8; PCP_LEN], bytes: &[u8]) -> Option<Answer<(SocketAddrV4, Duration)>> {
    const IS_MAP: u8 = ANSWER | MAP;
    match *bytes {
        // NAT-PMP, which puts into the version what it speaks.
        [0, kind, ..] if kind & ANSWER != 0 => Some(Answer::Unknown),
        [version, IS_MAP, _, code, ..] if version != VERSION => {
            (u16::from(code) == UNSUPPORTED_VERSION).then_some(Answer::Unknown)
        }
        // Nonce, protocol and the node's port are those that were asked about.
        [VERSION, IS_MAP, _, code, ..]
            if bytes.len() >= PCP_LEN
                && bytes[24..37] == asked[24..37]
                && bytes[40..42] == asked[40..42] =>
        {
            let holds = Duration::from_secs(number(&bytes[4..8]).into());
            if code != 0 {
                return Some(Answer::Refused { code: code.into(), holds });
            }
            let port = u16::from_be_bytes([bytes[42], bytes[43]]);
            let ip = <[u8; 16]>::try_from(&bytes[44..60]).ok()?;
            let ip = Ipv6Addr::from(ip).to_ipv4_mapped()?;
            Some(Answer::Granted((SocketAddrV4::new(ip, port), holds)))
        }
        _ => None,
    }
}

fn nat_pmp_request(port: u16, wanted: u16, lease: Duration) -> [u8; 12] {
    let mut packet = [0; 12];
    packet[1] = MAP;
    packet[4..6].copy_from_slice(&port.to_be_bytes());
    packet[6..8].copy_from_slice(&wanted.to_be_bytes());
    packet[8..12].copy_from_slice(&seconds(lease));
    packet
}

/// The router's address, where `bytes` tells of it.
fn read_address(bytes: &[u8]) -> Option<Answer<Ipv4Addr>> {
    match *bytes {
        [0, ANSWER, 0, 0, _, _, _, _, a, b, c, d, ..] => {
            Some(Answer::Granted(Ipv4Addr::new(a, b, c, d)))
        }
        [version, ANSWER, high, low, ..] => nat_pmp_refusal(version, [high, low]),
        _ => None,
    }
}

/// The port at the router that is mapped to `port`, and for how long, where `bytes` tells of it.
fn read_nat_pmp(port: u16, bytes: &[u8]) -> Option<Answer<(u16, Duration)>> {
    const IS_MAP: u8 = ANSWER | MAP;
    match *bytes {
        [0, IS_MAP, 0, 0, ..] if bytes.len() >= 16 && bytes[8..10] == port.to_be_bytes() => {
            let external = u16::from_be_bytes([bytes[10], bytes[11]]);
            let lease = Duration::from_secs(number(&bytes[12..16]).into());
            Some(Answer::Granted((external, lease)))
        }
        [version, IS_MAP, high, low, ..] => nat_pmp_refusal(version, [high, low]),
        _ => None,
    }
}

fn nat_pmp_refusal<T>(version: u8, code: [u8; 2]) -> Option<Answer<T>> {
    match u16::from_be_bytes(code) {
        0 => None,
        UNSUPPORTED_VERSION => Some(Answer::Unknown),
        code => (version == 0).then_some(Answer::Refused { code, holds: Duration::ZERO }),
    }
}

fn seconds(lease: Duration) -> [u8; 4] {
    u32::try_from(lease.as_secs()).unwrap_or(u32::MAX).to_be_bytes()
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |number, &byte| number << 8 | u32::from(byte))
}

/// By code, RFC 6887, section 7.4.
const PCP_REASONS: &[&str] = &[
    "",
    "(unsupported version)",
    "(not authorized)",
    "(malformed request)",
    "(mapping is not supported)",
    "(unsupported option)",
    "(malformed option)",
    "(the router has no network)",
    "(the router has no room)",
    "(UDP is not supported)",
    "(too many mappings of this host)",
    "(the port cannot be given)",
    "(another router stands in between)",
    "(too many peers)",
];

/// By code, RFC 6886, section 3.5.
const NAT_PMP_REASONS: &[&str] = &[
    "",
    "(unsupported version)",
    "(not authorized, or switched off)",
    "(the router has no network)",
    "(the router has no room)",
    "(mapping is not supported)",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits = |pair: &str| u8::from_str_radix(pair, 16).expect("two hex digits");
        text.split_whitespace().map(digits).collect()
    }

    fn request() -> Request<'static> {
        Request {
            gateway: Ipv4Addr::new(192, 168, 1, 1),
            local: Ipv4Addr::new(192, 168, 1, 7),
            port: 40_000,
            nonce: *b"twelve bytes",
            is_unwanted: &|| false,
        }
    }

    /// A request for port 40000, which is 9c40, for an hour, which is e10 seconds.
    const REQUEST: &str = "02 01 00 00 00 00 0e 10 00 00 00 00 00 00 00 00 00 00 ff ff c0 a8 01 07 \
         74 77 65 6c 76 65 20 62 79 74 65 73 11 00 00 00 9c 40 9c 40 \
         00 00 00 00 00 00 00 00 00 00 ff ff 00 00 00 00";
    /// The answer: port 40001 of 203.0.113.5 for 120 seconds.
    const GRANTED: &str = "02 81 00 00 00 00 00 78 00 00 00 2a 00 00 00 00 00 00 00 00 00 00 00 00 \
         74 77 65 6c 76 65 20 62 79 74 65 73 11 00 00 00 9c 40 9c 41 \
         00 00 00 00 00 00 00 00 00 00 ff ff cb 00 71 05";

    fn asked() -> [u8; PCP_LEN] {
        let wanted = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 40_000);
        pcp_request(&request(), wanted, LEASE)
    }

    #[test]
    fn a_pcp_request_is_as_rfc_6887_has_it() {
        assert_eq!(asked().to_vec(), hex(REQUEST));
    }

    #[test]
    fn a_pcp_answer_names_address_port_and_lease() {
        let external = "203.0.113.5:40001".parse().unwrap();
        let granted = Answer::Granted((external, Duration::from_secs(120)));
        assert_eq!(read_pcp(&asked(), &hex(GRANTED)), Some(granted));
    }

    #[test]
    fn a_pcp_answer_to_another_request_is_none() {
        // The nonce, the protocol, the port; a request; an address that is no IPv4 one; a part.
        for (at, byte) in [(24, 0), (36, 6), (41, 0), (1, 1), (54, 0)] {
            let mut bytes = hex(GRANTED);
            bytes[at] = byte;
            assert_eq!(read_pcp(&asked(), &bytes), None, "byte {at}");
        }
        assert_eq!(read_pcp(&asked(), &hex(GRANTED)[..59]), None);
        assert_eq!(read_pcp(&asked(), &[]), None);
    }

    #[test]
    fn a_pcp_refusal_has_a_code_and_holds_for_its_lifetime() {
        let mut bytes = hex(GRANTED);
        bytes[3] = 2;
        let refused = Answer::Refused { code: 2, holds: Duration::from_secs(120) };
        let answer = read_pcp(&asked(), &bytes);
        assert_eq!(answer, Some(refused));
        let why = "PCP: error 2 (not authorized)".to_owned();
        let failure = Failure::Refused { why, holds: Duration::from_secs(120) };
        assert_eq!(granted("PCP", PCP_REASONS, answer), Err(failure));
    }

    #[test]
    fn a_router_of_another_version_is_asked_otherwise() {
        // NAT-PMP: version 0, an answer, unsupported version.
        assert_eq!(read_pcp(&asked(), &hex("00 81 00 01 00 00 00 2a")), Some(Answer::Unknown));
        // A later PCP.
        let later = hex("03 81 00 01 00 00 00 2a");
        assert_eq!(read_pcp(&asked(), &later), Some(Answer::Unknown));
        // PCP alone, asked by NAT-PMP.
        let pcp = hex("02 80 00 01 00 00 00 00 00 00 00 2a");
        assert_eq!(read_address(&pcp), Some(Answer::Unknown));
    }

    #[test]
    fn nat_pmp_is_as_rfc_6886_has_it() {
        let packet = nat_pmp_request(40_000, 40_001, LEASE);
        assert_eq!(packet.to_vec(), hex("00 01 00 00 9c 40 9c 41 00 00 0e 10"));
        let address = read_address(&hex("00 80 00 00 00 00 00 2a cb 00 71 05"));
        assert_eq!(address, Some(Answer::Granted(Ipv4Addr::new(203, 0, 113, 5))));
        let mapped = hex("00 81 00 00 00 00 00 2a 9c 40 9c 41 00 00 00 78");
        let granted = Answer::Granted((40_001, Duration::from_secs(120)));
        assert_eq!(read_nat_pmp(40_000, &mapped), Some(granted));
        assert_eq!(read_nat_pmp(40_002, &mapped), None);
        assert_eq!(read_nat_pmp(40_000, &mapped[..15]), None);
        let refused = hex("00 81 00 02 00 00 00 2a 9c 40 00 00 00 00 00 00");
        let refused_by = Answer::Refused { code: 2, holds: Duration::ZERO };
        assert_eq!(read_nat_pmp(40_000, &refused), Some(refused_by));
    }
}
