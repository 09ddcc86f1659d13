//! Whole engines on virtual time: networks of them, and one among peers that a script plays.

mod many_peers;
mod memberships;
mod net;
mod networks;
mod own_address;
mod pace;
mod patience;
mod private;
mod reach;
mod reachability;
mod recalled;
mod restarts;
mod scripted;
mod seeds;
