#![doc = "placeholder"]
pub mod config;
pub mod dht;
pub mod id;
#[cfg(feature = "net")]
pub mod net;
#[cfg(feature = "net")]
pub mod node;
#[cfg(feature = "python")]
mod python;
pub mod time;
#[cfg(feature = "net")]
mod utils;
pub mod wire;

pub use config::{Config, ConfigError, Legacy};
pub use id::NodeId;
pub use time::Time;
pub use wire::message::{Contact, Endpoint};
