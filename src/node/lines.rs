//! What a node has to say about itself, as lines for a log.

use std::net::{SocketAddr, SocketAddrV4};
use std::time::Duration;

use crossbeam_channel::Sender;
use log::Level;

use super::{Node, Shared};
use crate::dht::protocol::Warning;
use crate::wire::message::Endpoint;

/// A line for a log.
#[derive(Debug)]
pub struct Line {
    /// How grave it is.
    pub level: Level,
    /// The line, which names the node by its port.
    pub text: String,
}

impl Node {
    /// From now on puts what is worth a line into `lines`, where there is room. The first call counts.
    pub fn log_to(&self, lines: Sender<Line>) {
        let _ = self.shared.lines.set(lines);
    }

    /// Puts a line there.
    pub fn log(&self, level: Level, text: &str) {
        self.shared.log(level, text);
    }
}

/// What to say of a join by itself that has failed.
pub(super) fn alone(seeds: &[Endpoint], wait: Duration) -> String {
    if seeds.is_empty() {
        return format!("no contact but this node itself is known; next try in {wait:?}");
    }
    format!("none of {seeds:?} answers; next try in {wait:?}")
}

/// What to say of something that may be wrong.
pub(super) fn warning(warning: Warning) -> String {
    match warning {
        Warning::Namesake(from) => format!(
            "a packet from {from} carries this node's own id: if another node has the same id, as \
             with a copied state file, give one of them a new id"
        ),
        Warning::Unopened(from) => format!(
            "a datagram from {from} does not open under this network's key: it comes from a node \
             of another network, or from one with another key"
        ),
        Warning::AddressLost => {
            "this host has lost the address that the node is bound to: nothing can be sent until \
             the address is back"
                .to_owned()
        }
    }
}

/// What to say where no router answers.
pub(super) const NO_ROUTER: &str = "no router answers that maps ports (UPnP, NAT-PMP or PCP)";
/// What to say where one has answered before.
pub(super) const UNANSWERED: &str = "the router no longer answers, and its mapping has ended";

/// What to say of a mapping, and how grave that is.
pub(super) fn mapped(external: SocketAddrV4, protocol: &str) -> (Level, String) {
    if external.ip().is_unspecified() {
        let port = external.port();
        return (
            Level::Info,
            format!("the router maps its port {port} to this node, by {protocol}"),
        );
    }
    let text = format!("the router maps {external} to this node, by {protocol}");
    if Endpoint::from(SocketAddr::from(external)).is_local() {
        let text = format!(
            "{text}; that is no public address, so another router stands in between: nodes on the \
             Internet reach this one only if that router, or the provider's, maps a port too"
        );
        return (Level::Warn, text);
    }
    (Level::Info, text)
}

/// What to say where the router has refused.
pub(super) fn unmapped(why: &str, port: u16) -> String {
    format!(
        "the router does not map a port to this node ({why}): allow UPnP, NAT-PMP or PCP in its \
         settings, or have it forward UDP port {port} to this host"
    )
}

/// What to say of a mapping that is not wanted any more.
pub(super) fn removed(port: u16, is_confirmed: bool) -> String {
    if is_confirmed {
        return format!("the router no longer maps its port {port} to this node");
    }
    format!(
        "the router does not say whether its port {port} is free again; the mapping ends by itself"
    )
}

impl Shared {
    pub(super) fn log(&self, level: Level, text: &str) {
        if let Some(lines) = self.lines.get() {
            let text = format!("node on port {}: {text}", self.link.address().port());
            // Where nobody takes them, the first ones say why.
            let _ = lines.try_send(Line { level, text });
        }
    }
}
