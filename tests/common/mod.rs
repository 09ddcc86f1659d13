//! Ids and addresses by number, for the tests of the engine's parts.

use kadepy::{Endpoint, NodeId};

/// The id whose distance from zero grows with `n`.
pub fn id(n: u16) -> NodeId {
    let mut id = [0; 32];
    id[..2].copy_from_slice(&n.to_be_bytes());
    NodeId(id)
}

/// An address on the open Internet for each `n`.
pub fn public(n: u16) -> Endpoint {
    let [a, b] = n.to_be_bytes();
    Endpoint::new([20, 0, a, b], 4_000)
}
