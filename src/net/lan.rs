//! The links of a node that looks for others there: which interfaces it uses, the sockets that hear the
//! groups, and a beacon's way out. When a beacon is due and what it says the engine decides.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mio::{Registry, Token};

use super::batch::Filled;
use super::channel::Channel;
use super::socket::{Interface, Socket, interfaces};
use crate::dht::beacons::groups;
use crate::time::Time;
use crate::wire::message::Endpoint;

/// The least time between two looks at the interfaces. The reactor wakes as often anyway.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// The links of one node.
pub struct Lan {
    next_look: Time,
    /// Those in use, each once for each family.
    interfaces: Vec<Interface>,
    ears: Vec<Ear>,
    /// What went wrong and was not told yet.
    troubles: Vec<Trouble>,
    /// What it went wrong with, each once: it is told once.
    known_troubles: BTreeSet<String>,
}

/// What hears one group.
struct Ear {
    group: SocketAddr,
    /// The node's own address in that family, or the wildcard.
    bound: SocketAddr,
    /// The token of its socket.
    token: Token,
    /// `None` where it could not be made.
    socket: Option<Socket>,
    /// Whether that is of no use any more. It stays open until the next look, which alone closes any.
    is_lost: bool,
}

/// What a look at the interfaces has brought.
pub struct Look {
    /// Those that were not there before.
    pub new: Vec<Interface>,
    /// What did not work, each told once.
    pub troubles: Vec<Trouble>,
}

/// Something that did not work.
pub struct Trouble {
    /// An interface, or what concerns all of them.
    pub what: String,
    /// The reason.
    pub error: io::Error,
    /// Whether nobody can be found because of it.
    pub is_grave: bool,
}

impl Lan {
    /// The links of a node with these channels; the sockets that hear have tokens from `first_token` on.
    pub fn new(channels: &[Channel], first_token: usize) -> Self {
        let of_family = |(channel, token): (&Channel, usize)| {
            let group = groups().into_iter().find(|group| channel.reaches(group))?;
            let (group, bound, token) = (group.into(), channel.address(), Token(token));
            Some(Ear { group, bound, token, socket: None, is_lost: false })
        };
        Self {
            ears: channels.iter().zip(first_token..).filter_map(of_family).collect(),
            next_look: Time::ZERO,
            interfaces: Vec::new(),
            troubles: Vec::new(),
            known_troubles: BTreeSet::new(),
        }
    }

    /// Has the next look come at once.
    pub fn hurry(&mut self) {
        self.next_look = Time::ZERO;
    }

    /// Whether it is time to look.
    pub fn is_due(&self, now: Time) -> bool {
        now >= self.next_look
    }

    /// Looks which interfaces there are, and hears the groups there. A socket that could not be made or
    /// was lost is made at the next look.
    pub fn look(&mut self, now: Time, registry: &Registry) -> Look {
        self.next_look = now + LOOK_INTERVAL;
        let new = match interfaces() {
            Ok(all) => self.settle(self.usable(all), registry),
            Err(error) => {
                self.met("the list of interfaces", error, true);
                Vec::new()
            }
        };
        Look { new, troubles: std::mem::take(&mut self.troubles) }
    }

    /// Sends a beacon to `group` by each interface.
    pub fn send(&mut self, socket: &Socket, group: SocketAddr, datagram: &[u8]) {
        let mut failed = Vec::new();
        for interface in
            self.interfaces.iter().filter(|other| other.ip.is_ipv4() == group.is_ipv4())
        {
            if let Err(error) = socket.send_to_group(datagram, group, interface) {
                failed.push((interface.name.clone(), error));
            }
        }
        failed.into_iter().for_each(|(name, error)| self.met(&name, error, false));
    }

    /// Has `receive` take what was heard.
    pub fn hear(&mut self, mut receive: impl FnMut(&Socket) -> Filled) {
        let mut lost = None;
        for ear in self.ears.iter_mut().filter(|ear| !ear.is_lost) {
            if let Some(Filled::Lost(error)) = ear.socket.as_ref().map(&mut receive) {
                ear.is_lost = true;
                lost = Some(error);
            }
        }
        lost.into_iter().for_each(|error| self.met("the socket of the group", error, false));
    }

    /// The file descriptors of the sockets, as [`Socket::descriptor`] gives them.
    pub fn descriptors(&self) -> impl Iterator<Item = i32> {
        self.ears.iter().map(|ear| ear.socket.as_ref().map_or(-1, Socket::descriptor))
    }

    /// Uses these interfaces from now on; gives those that are new.
    fn settle(&mut self, usable: Vec<Interface>, registry: &Registry) -> Vec<Interface> {
        let is_same = self.interfaces == usable;
        let new = usable.iter().filter(|one| !self.interfaces.contains(one)).cloned().collect();
        self.interfaces = usable;
        if self.interfaces.is_empty() {
            let error = io::Error::other("none has a local address of the node");
            self.met("any interface", error, true);
        }
        for at in 0..self.ears.len() {
            let Ear { socket, is_lost, .. } = &self.ears[at];
            if !is_same || *is_lost || socket.is_none() {
                self.open(at, registry);
            }
        }
        new
    }

    /// Makes the socket that hears a group on the interfaces that there are now. It takes the place of
    /// the one before only then, so that the host does not leave the group in between; an interface
    /// that is gone would stay with that one and use up its memberships.
    fn open(&mut self, at: usize, registry: &Registry) {
        let Ear { group, token, .. } = self.ears[at];
        let made = Socket::listen(group).and_then(|mut socket| {
            socket.register(registry, token)?;
            Ok(socket)
        });
        let socket = match made {
            Ok(socket) => socket,
            Err(error) => return self.met(&format!("port {}", group.port()), error, true),
        };
        let links = self.interfaces.iter().filter(|one| one.ip.is_ipv4() == group.is_ipv4());
        let join = |one: &Interface| Some((one.name.clone(), socket.join(group.ip(), one).err()?));
        let failed: Vec<_> = links.filter_map(join).collect();
        self.ears[at] = Ear { socket: Some(socket), is_lost: false, ..self.ears[at] };
        failed.into_iter().for_each(|(name, error)| self.met(&name, error, false));
    }

    /// The interfaces to use, each once for each family: that of the node's address, or where it has
    /// every address, all. By loopback nodes of one host find each other where there is no other.
    fn usable(&self, mut all: Vec<Interface>) -> Vec<Interface> {
        all.retain(|one| {
            let mut ears = self.ears.iter();
            ears.any(|ear| ear.bound.is_ipv4() == one.ip.is_ipv4() && ear.may_use(one))
        });
        let has_link = all.iter().any(|one| !one.ip.is_loopback());
        all.retain(|one| one.ip.is_loopback() != has_link);
        all.sort();
        all.dedup_by_key(|one| (one.index, one.ip.is_ipv4()));
        all
    }

    fn met(&mut self, what: &str, error: io::Error, is_grave: bool) {
        if self.known_troubles.insert(what.to_owned()) {
            self.troubles.push(Trouble { what: what.to_owned(), error, is_grave });
        }
    }
}

impl Ear {
    /// Whether the node has the address of this interface, which is of the same family, and others on
    /// the link listen to what it sends from there.
    fn may_use(&self, interface: &Interface) -> bool {
        let ip = interface.ip;
        let own = Endpoint::new(ip, self.bound.port()).with_scope(interface.index);
        match self.bound.ip() {
            // All of 127.0.0.0/8 may be there, and only one of it is listed.
            bound if bound.is_loopback() => ip.is_loopback(),
            bound if bound.is_unspecified() => is_source(ip) && own.is_local(),
            _ => own == self.bound.into() && own.is_local(),
        }
    }
}

/// Whether what a node on every address sends to the group may leave from there: over IPv6 the system
/// takes the link's own address.
fn is_source(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => true,
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_loopback(),
    }
}
