//! Node ids and the XOR metric over them; where an id comes from is its owner's affair.

use std::fmt;

use sha2::{Digest, Sha256};

/// Bytes in an id.
pub const ID_LEN: usize = 32;
/// Bits in an id.
pub const ID_BITS: usize = ID_LEN * 8;

/// A 256-bit identifier of a node or a topic.
///
/// Shorter ids of other networks sit left-aligned, the rest zero, so that one metric serves all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; ID_LEN]);

impl NodeId {
    /// All bits zero: never a node's id.
    pub const ZERO: NodeId = NodeId([0; ID_LEN]);
    /// All bits one: never a node's id.
    pub const MAX: NodeId = NodeId([0xff; ID_LEN]);

    /// The id of a topic's name: its SHA-256.
    ///
    /// ```
    /// let id = kadepy::NodeId::of_topic(b"chess");
    /// assert_eq!(id.0[..4], [0xac, 0x73, 0x9d, 0xcc]);
    /// ```
    pub fn of_topic(name: &[u8]) -> Self {
        Self(Sha256::digest(name).into())
    }

    /// The XOR distance to `other`, as Kademlia orders ids.
    ///
    /// ```
    /// use kadepy::NodeId;
    ///
    /// let (a, b) = (NodeId([1; 32]), NodeId([3; 32]));
    /// assert_eq!(a.distance(&b).to_bytes(), [2; 32]);
    /// assert_eq!(a.distance(&b), b.distance(&a));
    /// ```
    #[inline]
    pub fn distance(&self, other: &NodeId) -> Distance {
        let (a, b) = (self.words(), other.words());
        Distance([a[0] ^ b[0], a[1] ^ b[1], a[2] ^ b[2], a[3] ^ b[3]])
    }

    /// This id with everything behind the first `bits` bits taken from `other`.
    #[must_use]
    pub fn with_suffix_of(&self, bits: usize, other: &NodeId) -> NodeId {
        let mut mixed = *other;
        let (whole, rest) = (bits / 8, bits % 8);
        mixed.0[..whole].copy_from_slice(&self.0[..whole]);
        if rest > 0 {
            let mask = 0xff_u8 << (8 - rest);
            mixed.0[whole] = (self.0[whole] & mask) | (other.0[whole] & !mask);
        }
        mixed
    }

    /// This id with bit `index` (0 is the most significant) inverted.
    #[must_use]
    pub fn with_flipped_bit(mut self, index: usize) -> NodeId {
        self.0[index / 8] ^= 0x80 >> (index % 8);
        self
    }

    #[inline]
    fn words(&self) -> [u64; 4] {
        [0, 8, 16, 24].map(|at| {
            let mut word = [0; 8];
            word.copy_from_slice(&self.0[at..at + 8]);
            u64::from_be_bytes(word)
        })
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.0[..4] {
            write!(f, "{byte:02x}")?;
        }
        f.write_str("…")
    }
}

/// How far two ids are apart: an unsigned 256-bit number, the most significant word first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Distance([u64; 4]);

impl Distance {
    /// How many leading bits the two ids share, 0 to 256.
    #[inline]
    pub fn common_prefix(&self) -> usize {
        let mut bits = 0;
        for word in self.0 {
            bits += word.leading_zeros() as usize;
            if word != 0 {
                break;
            }
        }
        bits
    }

    /// Whether bit `index` (0 is the most significant) is set.
    #[inline]
    pub fn bit(&self, index: usize) -> bool {
        self.0[index / 64] >> (63 - index % 64) & 1 == 1
    }

    /// The 64 most significant bits.
    #[inline]
    pub fn leading_word(&self) -> u64 {
        self.0[0]
    }

    /// The distance as 32 big-endian bytes.
    pub fn to_bytes(&self) -> [u8; ID_LEN] {
        let mut bytes = [0; ID_LEN];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(self.0) {
            chunk.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }
}
