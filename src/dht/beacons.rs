//! The beacons by which the nodes of one link find each other: where they go and when they are due.
//! What comes of one that is heard is the engine's affair.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use rand_core::Rng;

use super::requests::OpId;
use crate::time::Time;
use crate::wire::message::{Body, Endpoint, Message, TxId};

/// The group for IPv4: of the local scope that RFC 2365 leaves to whoever is there, with "KP" at its
/// end.
pub const GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 255, 0x4b, 0x50);
/// The group for IPv6: of the link's scope and assigned to nobody (RFC 4291), with a number that
/// RFC 3307 leaves to everybody.
pub const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0, 0x8000, 0x4b50);
/// The port of both: "KP", and below those that systems choose from for sockets that name none.
pub const GROUP_PORT: u16 = 0x4b50;

/// The first beacon goes out within so long, so that nodes that start together do not speak together.
const FIRST_MAX: Duration = Duration::from_millis(100);
/// The pause after the first beacon. Each further one is so many times as long, up to the longest: a
/// few beacons at the start, because some get lost, and then one in a minute.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_GROWTH: u32 = 4;
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// The part of a pause by which it may be longer or shorter, so that beacons drift apart.
const JITTER: f64 = 0.25;
/// For so long a node that knows nobody may be about to hear of somebody. Two beacons are answered by
/// then, if there is anyone.
const SEARCH: Duration = Duration::from_secs(1);

/// Where beacons go: one group for each family.
pub fn groups() -> [Endpoint; 2] {
    [Endpoint::new(GROUP_V4, GROUP_PORT), Endpoint::new(GROUP_V6, GROUP_PORT)]
}

/// One node's beacons.
#[derive(Default)]
pub struct Beacons {
    next: Time,
    /// The pause after the next one.
    pause: Duration,
    /// What the last one carried.
    txid: Option<TxId>,
    /// While it runs, lookups of a node that knows nobody wait.
    search_until: Option<Time>,
    /// The join through the first node that was found.
    pub join: Option<OpId>,
    /// Whether it was said that anyone was found.
    pub is_found: bool,
}

impl Beacons {
    /// Begins anew: the links are others than before.
    pub fn begin(&mut self, now: Time, rng: &mut impl Rng) {
        self.next = now + FIRST_MAX.mul_f64(share(rng));
        self.pause = PAUSE_MIN;
        self.search_until = Some(now + SEARCH);
    }

    /// Whether one is due.
    pub fn is_due(&self, now: Time) -> bool {
        self.next <= now
    }

    /// Notes that one with this transaction id goes out.
    pub fn sent(&mut self, now: Time, txid: TxId, rng: &mut impl Rng) {
        self.txid = Some(txid);
        self.next = now + self.pause.mul_f64(1.0 - JITTER + 2.0 * JITTER * share(rng));
        self.pause = (self.pause * PAUSE_GROWTH).min(PAUSE_MAX);
    }

    /// Ends the search when its time is over.
    pub fn end_search(&mut self, now: Time) {
        self.search_until = self.search_until.filter(|until| *until > now);
    }

    /// Whether somebody may be found soon, if there is anyone.
    pub fn is_searching(&self) -> bool {
        self.search_until.is_some()
    }

    /// When there is something to do next.
    pub fn next_at(&self) -> Time {
        self.search_until.map_or(self.next, |until| until.min(self.next))
    }

    /// Whether a message is the last beacon itself.
    pub fn is_echo(&self, message: &Message<'_>) -> bool {
        message.body == Body::Ping && self.is_last(message)
    }

    /// Whether a message answers the last beacon.
    pub fn is_answer(&self, message: &Message<'_>) -> bool {
        message.body == Body::Pong && self.is_last(message)
    }

    fn is_last(&self, message: &Message<'_>) -> bool {
        self.txid.is_some() && message.txid() == self.txid
    }
}

/// A random part of 1.
fn share(rng: &mut impl Rng) -> f64 {
    f64::from(rng.next_u32()) / f64::from(u32::MAX)
}
