//! The socket and the thread that serves it, and how routers are asked to map a port; what datagrams mean
//! is the engine's affair.

pub mod clock;
pub mod mapping;
pub mod socket;
pub mod udp_reactor;
