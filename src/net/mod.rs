//! The sockets and the thread that serves them; what datagrams mean is the engine's affair.

pub mod channel;
pub mod clock;
pub mod socket;
pub mod udp_reactor;
