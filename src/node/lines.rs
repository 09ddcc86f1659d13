//! What a node has to say about itself, as lines for a log.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use crossbeam_channel::Sender;
use log::Level;

use super::{Node, Shared, reasons};
use crate::dht::protocol::{SeedState, Seeds, Warning};
use crate::net::socket::Interface;
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
pub(super) fn alone(seeds: &Seeds, wait: Duration, bound: IpAddr) -> String {
    if seeds.is_empty() {
        return format!("no contact of the last run answers; next try in {wait:?}");
    }
    let contact = |(seed, state): &(Endpoint, SeedState)| {
        format!("{seed} ({})", reasons::of_contact(*state, bound))
    };
    let contacts: Vec<String> = seeds.iter().map(contact).collect();
    format!("no bootstrap contact answers: {}; next try in {wait:?}", contacts.join(", "))
}

/// What to say of links that are new to a node that looks for others there.
pub(super) fn seeks_by(new: &[Interface]) -> String {
    let names: Vec<String> = new.iter().map(|one| format!("{} ({})", one.name, one.ip)).collect();
    format!("looking for nodes on the local network by {}", names.join(", "))
}

/// What to say of what keeps a node from finding others on its links.
pub(super) fn no_neighbors_by(what: &str, error: &io::Error) -> String {
    format!("cannot look for nodes on the local network by {what}: {error}")
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

impl Shared {
    pub(super) fn log(&self, level: Level, text: &str) {
        if let Some(lines) = self.lines.get() {
            let text = format!("node on port {}: {text}", self.link.address().port());
            // Where nobody takes them, the first ones say why.
            let _ = lines.try_send(Line { level, text });
        }
    }
}
