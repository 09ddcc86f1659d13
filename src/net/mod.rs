//! The sockets and the thread that serves them; what datagrams mean is the engine's affair.

mod batch;
pub mod channel;
pub mod clock;
mod lan;
pub mod socket;
pub mod udp_reactor;
