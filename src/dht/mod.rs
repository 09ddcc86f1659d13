//! The DHT node without socket, clock, lock or Python: [`protocol::Engine`] over its parts.
//!
//! The parts do not call each other. They keep state, answer questions and return decisions;
//! `protocol` asks them and acts.

pub mod beacons;
mod doubts;
pub mod guard;
mod home;
pub mod lookup;
pub mod members;
mod operations;
mod own;
mod pace;
pub mod protocol;
pub mod requests;
mod rounds;
pub mod routing;
mod shortlist;
pub mod storage;
pub mod tables;
mod tasks;
