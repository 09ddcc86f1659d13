//! Small things that belong to no other part.

pub mod random;
