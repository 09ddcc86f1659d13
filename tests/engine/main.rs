//! Whole engines on virtual time: networks of them, and one among peers that a script plays.

mod memberships;
mod net;
mod networks;
mod private;
mod reach;
mod recalled;
mod restarts;
mod scripted;
mod seeds;
