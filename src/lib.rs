//! KadePy: a Kademlia distributed hash table for programs that find each other without a server.
//!
//! This crate is the core of the Python package of the same name, and works without Python too.
//! At its heart is [`dht::protocol::Engine`], a DHT node without a socket and without a clock. Whoever
//! drives it
//!
//! 1. passes in each datagram with its source and the time ([`receive`]), and each command
//!    ([`find_node`], [`announce_peer`], …);
//! 2. calls [`tick`], which does what time has made due;
//! 3. sends what it finds in the outbox, in that order;
//! 4. takes the events ([`poll_event`]), which say what operations found and how they ended;
//! 5. comes back when a datagram or a command comes, or at [`next_deadline`].
//!
//! [`node::Node`] is that driver for a real socket, with a thread of its own. A test drives as many
//! engines as it likes on virtual time, where every lost packet and every slow answer is repeatable.
//!
//! ```
//! use std::time::Duration;
//! use kadepy::node::{Node, Reply};
//! use kadepy::{Config, Network, NodeId};
//!
//! let start = || Node::start(([127, 0, 0, 1], 0).into(), None, &Network::Public, Config::default());
//! let (first, second) = (start()?, start()?);
//! let topic = NodeId::of_topic(b"chess");
//! let patience = Duration::from_secs(5);
//!
//! second.join(vec![first.address().into()], false, Some(patience))?.wait(patience)?;
//! second.announce_peer(topic, Some(4000), Some(patience))?.wait(patience)?;
//! let Some(Reply::Peers(peers)) = first.get_peers(topic, Some(patience))?.wait(patience)? else {
//!     panic!("nobody found");
//! };
//! assert_eq!(peers[0].to_string(), "127.0.0.1:4000");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`receive`]: dht::protocol::Engine::receive
//! [`find_node`]: dht::protocol::Engine::find_node
//! [`announce_peer`]: dht::protocol::Engine::announce_peer
//! [`tick`]: dht::protocol::Engine::tick
//! [`poll_event`]: dht::protocol::Engine::poll_event
//! [`next_deadline`]: dht::protocol::Engine::next_deadline

pub mod config;
pub mod dht;
pub mod id;
#[cfg(feature = "net")]
pub mod net;
#[cfg(feature = "net")]
pub mod node;
#[cfg(feature = "python")]
mod python;
pub mod sim;
#[cfg(feature = "net")]
pub mod state;
pub mod time;
#[cfg(feature = "net")]
mod utils;
pub mod wire;

pub use config::{Config, ConfigError, Legacy};
pub use id::NodeId;
pub use time::Time;
pub use wire::message::{Contact, Endpoint};
pub use wire::seal::{Network, NetworkKey};
