//! Bytes and what they mean; who said them and what follows is the engine's affair.

pub mod message;
pub mod native;
pub mod seal;
