//! Whole engines on virtual time: networks of them, and one among peers that a script plays.

mod beacons;
mod families;
mod floods;
mod many_peers;
mod memberships;
mod net;
mod networks;
mod pace;
mod patience;
mod private;
mod reach;
mod recalled;
mod restarts;
mod scripted;
mod seeds;
mod strangers;
