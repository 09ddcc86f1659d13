//! Whole engines on virtual time: networks of them, and one among peers that a script plays.

mod memberships;
mod net;
mod networks;
mod patience;
mod private;
mod reach;
mod recalled;
mod scripted;
mod seeds;
