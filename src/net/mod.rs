//! The socket and the thread that serves it; what datagrams mean is the engine's affair.

mod batch;
pub mod clock;
mod lan;
pub mod socket;
pub mod udp_reactor;
