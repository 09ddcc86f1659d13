//! What becomes of a datagram between two nodes: how long it takes, and the faults of the way, each
//! a small part that changes the flight of one datagram and nothing else.

use std::ops::RangeInclusive;
use std::time::Duration;

use arrayvec::ArrayVec;
use rand_core::Rng;

use crate::time::Time;

/// The most copies of one datagram that arrive.
const COPIES_MAX: usize = 4;

/// One datagram on its way.
pub struct Flight {
    /// When it leaves.
    pub now: Time,
    /// The numbers of the nodes that it goes from and to.
    pub ends: (u32, u32),
    /// How long each copy takes that arrives.
    pub copies: ArrayVec<Duration, COPIES_MAX>,
}

/// Something that goes wrong with datagrams.
pub trait Fault: Send {
    /// Does it to one.
    fn strike(&mut self, flight: &mut Flight, rng: &mut dyn Rng);

    /// Whether it does nothing any more.
    fn is_over(&self, _now: Time) -> bool {
        false
    }
}

/// How long datagrams take: each pair of nodes has a latency of its own, drawn evenly from a range,
/// and each datagram a tenth more or less.
pub(super) struct Latency {
    pub(super) range: RangeInclusive<Duration>,
    pub(super) seed: u64,
}

impl Latency {
    pub(super) fn of(&self, (from, to): (u32, u32), rng: &mut dyn Rng) -> Duration {
        let pair = u64::from(from.min(to)) << 32 | u64::from(from.max(to));
        let [least, most] =
            [self.range.start(), self.range.end()].map(|bound| bound.as_micros() as u64);
        let base = least + part_of(most - least, mix(self.seed ^ pair));
        let jitter = part_of(base / 5, rng.next_u64());
        Duration::from_micros(base - base / 10 + jitter)
    }
}

/// Loses this share of the datagrams.
pub struct Loss(pub f64);

impl Fault for Loss {
    fn strike(&mut self, flight: &mut Flight, rng: &mut dyn Rng) {
        flight.copies.retain(|_| share(rng) >= self.0);
    }
}

/// Delivers this share of the datagrams twice.
pub struct Duplication(pub f64);

impl Fault for Duplication {
    fn strike(&mut self, flight: &mut Flight, rng: &mut dyn Rng) {
        if share(rng) < self.0
            && let Some(&first) = flight.copies.first()
        {
            // Beyond the most there may be it makes no difference.
            let _ = flight.copies.try_push(first.mul_f64(1.0 + share(rng)));
        }
    }
}

/// Holds this share of the datagrams back for up to so long, past others that left later.
pub struct Reordering(pub f64, pub Duration);

impl Fault for Reordering {
    fn strike(&mut self, flight: &mut Flight, rng: &mut dyn Rng) {
        for delay in &mut flight.copies {
            if share(rng) < self.0 {
                *delay += self.1.mul_f64(share(rng));
            }
        }
    }
}

/// Cuts a share of the nodes off from all others until a moment; within each part all goes on.
pub struct Partition {
    /// The share of the nodes in the smaller part.
    pub share: f64,
    /// When it heals.
    pub until: Time,
    /// Decides who is on which side.
    pub seed: u64,
}

impl Partition {
    fn side(&self, node: u32) -> bool {
        share_of(mix(self.seed ^ u64::from(node))) < self.share
    }
}

impl Fault for Partition {
    fn strike(&mut self, flight: &mut Flight, _: &mut dyn Rng) {
        let (from, to) = flight.ends;
        if flight.now < self.until && self.side(from) != self.side(to) {
            flight.copies.clear();
        }
    }

    fn is_over(&self, now: Time) -> bool {
        now >= self.until
    }
}

/// A number from 0 up to but not 1.
pub(super) fn share(rng: &mut dyn Rng) -> f64 {
    share_of(rng.next_u64())
}

/// As large a part of `whole` as `bits` are of all that 64 bits can be.
fn part_of(whole: u64, bits: u64) -> u64 {
    ((u128::from(whole) * u128::from(bits)) >> 64) as u64
}

fn share_of(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

/// SplitMix64's finalizer (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
/// 2014): spreads the bits of a number that counts up.
pub(super) fn mix(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
