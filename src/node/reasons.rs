//! Why nobody answers, in words.

use std::io;
use std::net::IpAddr;

use crate::dht::protocol::{Obstacle, SeedState};

/// What is said of an address at which another node with this node's id answers.
pub const NAMESAKE: &str = "has this node's own id: of two nodes with the same id, as after a state \
                            file was copied, give one a new id";

/// Why nobody answered a node that is bound to `bound` at a contact that did not.
pub fn of_contact(state: SeedState, bound: IpAddr) -> String {
    match state {
        SeedState::Failed(Obstacle::Itself) => "it is this node itself".to_owned(),
        SeedState::Failed(Obstacle::Namesake) => format!("it {NAMESAKE}"),
        SeedState::Failed(Obstacle::System(code)) => {
            format!("cannot be sent to: {}", of_system(code, bound))
        }
        _ => "no answer".to_owned(),
    }
}

/// What the system says of a code with which it refuses to send, and what that means for a node that is
/// bound to `bound`.
pub fn of_system(code: i32, bound: IpAddr) -> String {
    let error = io::Error::from_raw_os_error(code).to_string();
    let error = error.split(" (os error").next().unwrap_or(&error);
    if bound.is_loopback() {
        return format!("{error}; a node on {bound} reaches this host alone");
    }
    error.to_owned()
}
