//! The addresses that a node has asked lately: a translator or a firewall lets those in, whatever it
//! thinks of strangers.

use std::time::Duration;

use crate::time::Time;
use crate::wire::message::Endpoint;

/// No mapping of a translator that nothing leaves through lives longer (RFC 4787, section 4.3, has two
/// minutes for the least, and five for what is recommended).
const MEMORY: Duration = Duration::from_secs(600);
/// Bits of a generation: at first, and at the most, for a node that talks to 100,000 others.
const BITS_MIN: usize = 1 << 10;
const BITS_MAX: usize = 1 << 18;

/// A set of IP addresses that remembers each for [`MEMORY`], and forgets it not long after: a Bloom filter
/// of one hash in two generations. It may take an address for one of the set that is not, and never the
/// reverse.
#[derive(Default)]
pub struct Contacted {
    current: Vec<u64>,
    /// The generation before.
    former: Vec<u64>,
    /// Whether the generation before is not known, so that every address may be of it.
    is_former_unknown: bool,
    /// Bits that were set in the current one.
    marked: usize,
    /// When the current generation began.
    began: Time,
}

impl Contacted {
    /// Nothing was sent before `now`.
    pub fn new(now: Time) -> Self {
        Self { began: now, ..Self::default() }
    }

    /// Takes note that before `now` another run of the node has sent to who knows whom.
    pub fn resume(&mut self, now: Time) {
        *self = Self { is_former_unknown: true, ..Self::new(now) };
    }

    /// Takes note that an address is asked something.
    pub fn mark(&mut self, to: &Endpoint) {
        if self.current.is_empty() {
            self.current = vec![0; BITS_MIN / 64];
        }
        let (word, bit) = place(&self.current, to);
        self.marked += usize::from(self.current[word] & bit == 0);
        self.current[word] |= bit;
        let bits = self.current.len() * 64;
        if self.marked * 8 > bits && bits < BITS_MAX {
            // The hash's next bit counts from now on; of addresses marked before it is not known.
            self.current.extend_from_within(..);
        }
    }

    /// Takes note that an address is answered. That keeps the way open for one that was asked before, and
    /// is none for another, which has come by itself.
    pub fn remark(&mut self, to: &Endpoint) {
        if self.contains(to) {
            self.mark(to);
        }
    }

    /// Lets time pass.
    pub fn turn(&mut self, now: Time) {
        // Where even the most bits are used up, no memory is that long.
        let is_full = self.marked * 2 > BITS_MAX;
        if now - self.began >= MEMORY || is_full {
            // Marks of this very moment are among them.
            let bits = self.current.len();
            self.former = std::mem::replace(&mut self.current, vec![0; bits]);
            self.is_former_unknown = false;
            self.marked = 0;
            self.began = now;
        }
    }

    /// Whether something may have been sent there lately.
    pub fn contains(&self, from: &Endpoint) -> bool {
        let holds = |bits: &Vec<u64>| {
            !bits.is_empty() && {
                let (word, bit) = place(bits, from);
                bits[word] & bit != 0
            }
        };
        self.is_former_unknown || holds(&self.current) || holds(&self.former)
    }

    /// Panics where it takes more room than allowed.
    pub fn check_invariants(&self) {
        assert!(self.current.len() * 64 <= BITS_MAX);
        assert!(self.current.is_empty() || self.current.len().is_power_of_two());
    }
}

/// The bit of an address, by its word and in it.
fn place(bits: &[u64], endpoint: &Endpoint) -> (usize, u64) {
    let ip = u128::from_be_bytes(*endpoint.ip_bytes());
    // SplitMix64's finalizer, see `sim::link`. Nobody gains by addresses that fall together.
    let mut hash = (ip ^ (ip >> 64)) as u64;
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    let at = hash as usize & (bits.len() * 64 - 1);
    (at / 64, 1 << (at % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    fn ip(index: u32) -> Endpoint {
        Endpoint::new(index.to_be_bytes(), 4_000)
    }

    /// How many of addresses that were not marked pass for marked ones.
    fn mistaken(contacted: &Contacted) -> usize {
        (1 << 31..(1 << 31) + 1_000).filter(|&index| contacted.contains(&ip(index))).count()
    }

    #[test]
    fn a_node_that_was_there_before_may_have_sent_anywhere() {
        let mut contacted = Contacted::new(at(0));
        assert!(!contacted.contains(&ip(1)));
        contacted.resume(at(0));
        contacted.turn(at(599));
        assert!(contacted.contains(&ip(1)));
        contacted.turn(at(600));
        assert!(!contacted.contains(&ip(1)));
    }

    #[test]
    fn an_address_is_remembered_for_ten_minutes_at_least_and_twenty_at_most() {
        let mut contacted = Contacted::new(at(0));
        contacted.turn(at(600));
        contacted.turn(at(1_199));
        contacted.mark(&ip(1));
        assert!(contacted.contains(&ip(1).with_port(9)), "whatever the port");
        contacted.turn(at(1_799));
        assert!(contacted.contains(&ip(1)));
        contacted.turn(at(2_398));
        assert!(contacted.contains(&ip(1)));
        contacted.turn(at(2_399));
        assert!(!contacted.contains(&ip(1)));
    }

    #[test]
    fn to_answer_keeps_in_the_set_who_is_in_it_and_takes_in_nobody() {
        let mut contacted = Contacted::new(at(0));
        contacted.mark(&ip(1));
        for minute in 1..60 {
            contacted.turn(at(minute * 60));
            contacted.remark(&ip(1));
            contacted.remark(&ip(2));
            assert!(contacted.contains(&ip(1)) && !contacted.contains(&ip(2)));
        }
    }

    #[test]
    fn it_grows_with_what_is_marked_and_forgets_none() {
        let mut contacted = Contacted::new(at(0));
        contacted.turn(at(600));
        for (count, most) in [(100, 150), (3_000, 400), (60_000, 700)] {
            (0..count).for_each(|index| contacted.mark(&ip(index)));
            contacted.turn(at(601));
            contacted.check_invariants();
            assert!((0..count).all(|index| contacted.contains(&ip(index))));
            assert!(mistaken(&contacted) <= most, "{count}: {}", mistaken(&contacted));
        }
        // A flood passes sooner, and leaves no more than the most bits.
        (0..2_000_000).for_each(|index| contacted.mark(&ip(index)));
        contacted.turn(at(602));
        contacted.turn(at(603));
        contacted.check_invariants();
    }
}
