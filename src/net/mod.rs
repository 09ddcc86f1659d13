//! The socket and the thread that serves it; what datagrams mean is the engine's affair.

pub mod clock;
pub mod socket;
pub mod udp_reactor;
