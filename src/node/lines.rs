//! What a node has to say about itself, as lines for a log.

use crossbeam_channel::Sender;
use log::Level;

use super::{Node, Shared};

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

impl Shared {
    pub(super) fn log(&self, level: Level, text: &str) {
        if let Some(lines) = self.lines.get() {
            let text = format!("node on port {}: {text}", self.link.address().port());
            // Where nobody takes them, the first ones say why.
            let _ = lines.try_send(Line { level, text });
        }
    }
}
