//! What nodes say to each other, whatever the bytes look like; a wire format turns bytes into a
//! [`Message`] and back.
//!
//! A message borrows its lists and strings, so that neither reading nor writing one allocates.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::ops::RangeInclusive;

use crate::id::NodeId;

/// One datagram's meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// The id that the sender claims.
    pub sender: NodeId,
    /// What is asked, answered or told.
    pub body: Body<'a>,
    /// The nodes that it lists, in the sender's order.
    pub nodes: &'a [Contact],
    /// The peers that it lists, in the sender's order.
    pub peers: &'a [Endpoint],
    /// What a v0.1 packet has no room for; `None` says that it is such a packet.
    pub trailer: Option<Trailer<'a>>,
}

impl<'a> Message<'a> {
    /// A message that lists nothing.
    pub fn new(sender: NodeId, body: Body<'a>, trailer: Option<Trailer<'a>>) -> Self {
        Self { sender, body, nodes: &[], peers: &[], trailer }
    }

    /// The transaction that it belongs to, if it names one.
    pub fn txid(&self) -> Option<TxId> {
        self.trailer.and_then(|trailer| trailer.txid)
    }
}

/// The type of a message, with what only that type carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// Are you there?
    Ping,
    /// Answers [`Body::Ping`].
    Pong,
    /// Which nodes do you know close to `target`?
    FindNode {
        /// The id to be close to.
        target: NodeId,
    },
    /// Answers [`Body::FindNode`], and [`Body::GetPeers`] where no peer is known.
    FoundNodes,
    /// Store the sender as a peer of `topic`.
    AnnouncePeer {
        /// The topic.
        topic: NodeId,
        /// The peer's port; the address is the packet's own.
        port: u16,
    },
    /// Which peers of `topic` do you hold?
    GetPeers {
        /// The topic.
        topic: NodeId,
    },
    /// Answers [`Body::GetPeers`].
    Peers {
        /// The topic.
        topic: NodeId,
    },
    /// Answers [`Body::AnnouncePeer`]: stored.
    Announced {
        /// The topic.
        topic: NodeId,
    },
    /// Answers a request that is refused.
    Error {
        /// The reason, one of [`ErrorCode`]'s numbers or one that we do not know.
        code: u8,
        /// The reason in words, at most 100 bytes.
        text: &'a str,
    },
    /// An application's own message.
    Application {
        /// Its type, 16 to 255.
        kind: u8,
        /// Its bytes.
        payload: &'a [u8],
    },
}

impl Body<'_> {
    /// The type without what it carries.
    pub fn kind(&self) -> Kind {
        match self {
            Body::Ping => Kind::Ping,
            Body::Pong => Kind::Pong,
            Body::FindNode { .. } => Kind::FindNode,
            Body::FoundNodes => Kind::FoundNodes,
            Body::AnnouncePeer { .. } => Kind::AnnouncePeer,
            Body::GetPeers { .. } => Kind::GetPeers,
            Body::Peers { .. } => Kind::Peers,
            Body::Announced { .. } => Kind::Announced,
            Body::Error { .. } => Kind::Error,
            Body::Application { .. } => Kind::Application,
        }
    }
}

/// The types of messages, as statistics name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "`Body` says what each one is")]
pub enum Kind {
    Ping,
    Pong,
    FindNode,
    FoundNodes,
    AnnouncePeer,
    GetPeers,
    Peers,
    Announced,
    Error,
    Application,
}

impl Kind {
    /// Every kind, in the order of its number.
    pub const ALL: [Kind; 10] = [
        Kind::Ping,
        Kind::Pong,
        Kind::FindNode,
        Kind::FoundNodes,
        Kind::AnnouncePeer,
        Kind::GetPeers,
        Kind::Peers,
        Kind::Announced,
        Kind::Error,
        Kind::Application,
    ];

    /// The name in the protocol's documents.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Ping => "PING",
            Kind::Pong => "PONG",
            Kind::FindNode => "FIND_NODE",
            Kind::FoundNodes => "FOUND_NODES",
            Kind::AnnouncePeer => "ANNOUNCE_PEER",
            Kind::GetPeers => "GET_PEERS",
            Kind::Peers => "PEERS",
            Kind::Announced => "ANNOUNCED",
            Kind::Error => "ERROR",
            Kind::Application => "APPLICATION",
        }
    }
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ErrorCode {
    /// The announce's token is missing, old or not ours.
    BadToken = 1,
    /// No room for the record.
    StorageFull = 2,
    /// The request is one that this node does not serve.
    NotSupported = 3,
}

impl ErrorCode {
    /// The reason in words, with the remedy.
    pub fn text(self) -> &'static str {
        match self {
            ErrorCode::BadToken => "bad token: get one by GET_PEERS from this address",
            ErrorCode::StorageFull => "storage full: announce elsewhere or later",
            ErrorCode::NotSupported => "not supported",
        }
    }
}

/// The fields that any message may carry besides its body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trailer<'a> {
    /// Names the request; its reply carries the same.
    pub txid: Option<TxId>,
    /// Handed out with the answer to a [`Body::GetPeers`], shown in a [`Body::AnnouncePeer`]; 1 to 32 bytes.
    pub token: Option<&'a [u8]>,
    /// The requester's address as the replier sees it.
    pub endpoint: Option<Endpoint>,
    /// The sender asks not to be listed.
    pub read_only: bool,
    /// In a [`Body::AnnouncePeer`]: the peer's port is the packet's source port.
    pub implied_port: bool,
    /// The families of the nodes and peers to answer with; absent: the one that the request came over.
    pub want: Option<Want>,
    /// The sender's program, 1 to 16 bytes of UTF-8; informative only.
    pub agent: Option<&'a str>,
    /// Another number each time the sender begins with nothing stored.
    pub boot: Option<u16>,
    /// In a [`Body::GetPeers`]: which of the peers are asked for.
    pub part: Part,
    /// In a [`Body::Peers`]: how many peers there are of what was asked for. It travels only where
    /// the message does not hold all of them.
    pub total: Option<u32>,
}

/// One of `count` parts of the peers that a node stores. Who stores them decides which peer is in
/// which part, so that each is in exactly one and nobody chooses his own.
///
/// ```
/// use kadepy::wire::message::Part;
///
/// let part = Part::new(1, 3).expect("1 is below 3");
/// assert!(part.holds(u64::MAX / 2) && !part.holds(0));
/// assert_eq!(part.halves().map(|[first, _]| first), Part::new(2, 6));
/// assert_eq!(Part::new(3, 3), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    index: u16,
    count: u16,
}

impl Part {
    /// All peers: the only one of one part.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// Part `index` of `count`, counted from 0; `None` where there is no such one.
    pub fn new(index: u16, count: u16) -> Option<Self> {
        (index < count).then_some(Self { index, count })
    }

    /// Which one it is, counted from 0.
    pub fn index(self) -> u16 {
        self.index
    }

    /// Of how many.
    pub fn count(self) -> u16 {
        self.count
    }

    /// Whether what has this hash is in it: the hashes are cut into `count` even stretches.
    pub fn holds(self, hash: u64) -> bool {
        (u128::from(hash) * u128::from(self.count)) >> 64 == u128::from(self.index)
    }

    /// The two parts that it consists of; `None` where there are too many to count.
    pub fn halves(self) -> Option<[Self; 2]> {
        let count = self.count.checked_mul(2)?;
        let index = self.index * 2;
        Some([Self { index, count }, Self { index: index + 1, count }])
    }
}

impl Default for Part {
    fn default() -> Self {
        Self::WHOLE
    }
}

/// Address families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// IPv4 is wanted.
    pub v4: bool,
    /// IPv6 is wanted.
    pub v6: bool,
}

impl Want {
    /// The one family that `endpoint` is of.
    pub fn family_of(endpoint: &Endpoint) -> Self {
        let v4 = endpoint.is_ipv4();
        Self { v4, v6: !v4 }
    }

    /// Whether `endpoint`'s family is among them.
    pub fn includes(&self, endpoint: &Endpoint) -> bool {
        if endpoint.is_ipv4() { self.v4 } else { self.v6 }
    }
}

/// A transaction id: 64 random bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxId(pub [u8; 8]);

/// A node's permission to announce to it, opaque to everybody else: 1 to 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Token {
    len: u8,
    bytes: [u8; Token::MAX_LEN],
}

impl Token {
    /// The longest.
    pub const MAX_LEN: usize = 32;

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len.into()]
    }
}

impl TryFrom<&[u8]> for Token {
    type Error = std::array::TryFromSliceError;

    fn try_from(given: &[u8]) -> Result<Self, Self::Error> {
        let mut bytes = [0; Token::MAX_LEN];
        match bytes.get_mut(..given.len()) {
            Some(head) => head.copy_from_slice(given),
            None => bytes = given.try_into()?,
        }
        Ok(Self { len: given.len() as u8, bytes })
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({:02x?})", self.as_bytes())
    }
}

/// A node and where to reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contact {
    /// Its id.
    pub id: NodeId,
    /// Its address.
    pub endpoint: Endpoint,
}

/// How far an address reaches: to whom it means the same host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// This host alone: 127.0.0.0/8, ::1.
    Loopback,
    /// One link: 169.254.0.0/16, fe80::/10.
    Link,
    /// One site: 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, fc00::/7.
    Private,
    /// One carrier's customers, or one overlay network: 100.64.0.0/10 (RFC 6598).
    Shared,
    /// Everybody: all other addresses.
    Public,
}

/// An IP address and a UDP port, in 21 bytes.
///
/// An IPv4 address is kept in its IPv6-mapped form, so that `1.2.3.4` and `::ffff:1.2.3.4` are one
/// address before any rule looks at it.
///
/// ```
/// use kadepy::Endpoint;
///
/// let mapped: std::net::SocketAddr = "[::ffff:1.2.3.4]:5".parse()?;
/// assert_eq!(Endpoint::from(mapped).to_string(), "1.2.3.4:5");
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    ip: [u8; 16],
    /// The interface of an IPv6 link-local address; 0 elsewhere. It never travels.
    ///
    /// Three bytes, because a routing table's entry has room for no fourth.
    scope: [u8; 3],
    port: [u8; 2],
}

impl Endpoint {
    /// From an address and a port.
    pub fn new(ip: impl Into<IpAddr>, port: u16) -> Self {
        let ip = match ip.into() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        Self { ip: ip.octets(), scope: [0; 3], port: port.to_be_bytes() }
    }

    /// The address, IPv4 as such.
    pub fn ip(&self) -> IpAddr {
        IpAddr::V6(Ipv6Addr::from(self.ip)).to_canonical()
    }

    /// The port.
    pub fn port(&self) -> u16 {
        u16::from_be_bytes(self.port)
    }

    /// The same address with another port.
    #[must_use]
    pub fn with_port(mut self, port: u16) -> Self {
        self.port = port.to_be_bytes();
        self
    }

    /// The number of the interface that an IPv6 link-local address belongs to; 0 where none is
    /// known, and for every other address.
    pub fn scope(&self) -> u32 {
        let [a, b, c] = self.scope;
        u32::from_be_bytes([0, a, b, c])
    }

    /// The same address on the interface with this number, where it is an IPv6 link-local one;
    /// another address belongs to no interface and stays as it is.
    ///
    /// A number of more than 24 bits counts as none.
    #[must_use]
    pub fn with_scope(mut self, scope: u32) -> Self {
        if self.needs_scope() {
            self.scope = match scope.to_be_bytes() {
                [0, a, b, c] => [a, b, c],
                _ => [0; 3],
            };
        }
        self
    }

    /// Whether the address means something only together with an interface: IPv6 link-local ones.
    #[inline]
    pub fn needs_scope(&self) -> bool {
        self.ip[0] == 0xfe && self.ip[1] & 0xc0 == 0x80
    }

    /// Whether the address is IPv4.
    #[inline]
    pub fn is_ipv4(&self) -> bool {
        u128::from_be_bytes(self.ip) >> 32 == 0xffff
    }

    /// All endpoints that one host has at will: those of the same IPv4 address, or of the same IPv6
    /// network of 64 bits. Quotas count these together.
    pub fn same_host(&self) -> RangeInclusive<Endpoint> {
        let mut first = Self { ip: self.ip, scope: [0; 3], port: [0; 2] };
        let mut last = Self { ip: self.ip, scope: [0xFF; 3], port: [0xFF; 2] };
        if !self.is_ipv4() {
            first.ip[8..].fill(0);
            last.ip[8..].fill(0xFF);
        }
        first..=last
    }

    /// The address as 16 bytes, IPv4 mapped: what tokens are made for.
    pub fn ip_bytes(&self) -> &[u8; 16] {
        &self.ip
    }

    /// How far the address reaches.
    #[inline]
    pub fn reach(&self) -> Reach {
        if self.is_ipv4() {
            // Each answer asks this of all that it names, so the bytes are read where they lie.
            return match (self.ip[12], self.ip[13]) {
                (127, _) => Reach::Loopback,
                (169, 254) => Reach::Link,
                (10, _) | (172, 16..=31) | (192, 168) => Reach::Private,
                (100, 64..=127) => Reach::Shared,
                _ => Reach::Public,
            };
        }
        match self.ip {
            ip if ip == Ipv6Addr::LOCALHOST.octets() => Reach::Loopback,
            _ if self.needs_scope() => Reach::Link,
            ip if ip[0] & 0xfe == 0xfc => Reach::Private,
            _ => Reach::Public,
        }
    }

    /// Whether a node at `other` means the same host by this address as this node does, so that it
    /// may be named to that node and believed from it.
    ///
    /// | this address | to a node at a loopback address | link-local | private | shared | public |
    /// | --- | --- | --- | --- | --- | --- |
    /// | loopback | yes | no | no | no | no |
    /// | link-local | IPv4 only | on the same link | no | no | no |
    /// | private | yes | yes | yes | no | no |
    /// | shared | yes | no | no | yes | no |
    /// | public | yes | yes | yes | yes | yes |
    ///
    /// A loopback address is this host's own, so whatever this host reaches it reaches; but an IPv6
    /// link-local address travels without its interface, and nothing else there tells which it is.
    /// A neighbor on the link is taken to be of the same site, but not of the same overlay network.
    #[inline]
    pub fn means_same_to(&self, other: &Endpoint) -> bool {
        match (self.reach(), other.reach()) {
            (Reach::Public, _) => true,
            (Reach::Link, Reach::Loopback) => self.is_ipv4(),
            (_, Reach::Loopback) => true,
            (Reach::Link, Reach::Link) => {
                self.is_ipv4() == other.is_ipv4() && self.scope == other.scope
            }
            (Reach::Private, Reach::Link | Reach::Private) => true,
            (Reach::Shared, Reach::Shared) => true,
            _ => false,
        }
    }

    /// Whether the address is not one of the open Internet, so that no router carries it there.
    pub fn is_local(&self) -> bool {
        self.reach() != Reach::Public
    }

    /// Whether a datagram can be sent there: a unicast address and a port.
    ///
    /// 240.0.0.0/4 counts, because systems send there and large clouds number machines out of it.
    pub fn is_sendable(&self) -> bool {
        let unicast = match self.ip() {
            IpAddr::V4(v4) => !matches!(v4.octets()[0], 0 | 224..=239) && !v4.is_broadcast(),
            IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_multicast(),
        };
        unicast && self.port() != 0
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        let scope = match address {
            SocketAddr::V6(v6) => v6.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        Self::new(address.ip(), address.port()).with_scope(scope)
    }
}

impl From<Endpoint> for SocketAddr {
    fn from(endpoint: Endpoint) -> Self {
        let port = endpoint.port();
        match endpoint.ip() {
            IpAddr::V4(v4) => SocketAddr::from((v4, port)),
            IpAddr::V6(v6) => SocketAddrV6::new(v6, port, 0, endpoint.scope()).into(),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::from(*self).fmt(f)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Default for Endpoint {
    /// The unspecified IPv4 address without a port.
    fn default() -> Self {
        Self::new(Ipv4Addr::UNSPECIFIED, 0)
    }
}
