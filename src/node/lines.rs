//! What a node has to say about itself, as lines for a log.

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

/// What to say of the address at which others see the node.
pub(super) fn external(address: Option<Endpoint>) -> String {
    match address {
        Some(address) => format!("other networks see this node at {address:?}"),
        None => "other networks no longer agree on this node's address".to_owned(),
    }
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
