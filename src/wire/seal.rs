//! The network key: it keeps everybody who does not hold it out of a network.
//!
//! Packets are sealed and opened in place. What stands in them is the business of `native`;
//! `docs/wire-protocol.md` is the specification.

use chacha20::cipher::{KeyIvInit, StreamCipher, StreamCipherSeek};
use chacha20::{ChaCha20, R20, hchacha};
use hkdf::Hkdf;
use poly1305::Poly1305;
use poly1305::universal_hash::{KeyInit, UniversalHash};
use rand_core::Rng;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::Zeroizing;

use super::native::{HEADER_LEN, MAX_READ, MAX_SENT};

/// Bytes in a network key.
pub const KEY_LEN: usize = 32;

const SEALED_INFO: &[u8] = b"kadepy/1 seal";
const TAG_LEN: usize = 16;
/// The bytes of a nonce that tell one seal from all others, by cipher; the count follows.
const SEALED_PREFIX_LEN: usize = 16;
const CHACHA20_PREFIX_LEN: usize = 4;
const COUNT_LEN: usize = 8;
const SEALED_NONCE_LEN: usize = SEALED_PREFIX_LEN + COUNT_LEN;
const CHACHA20_NONCE_LEN: usize = CHACHA20_PREFIX_LEN + COUNT_LEN;
/// Both formats encrypt from the second block of the keystream on; the first one makes the tag's key.
const START: usize = 64;
/// As many bytes of keystream as come at the price of one, on machines with AVX2.
const STREAM_STEP: usize = 256;
const STREAM_MAX: usize = (START + MAX_READ).next_multiple_of(STREAM_STEP);

/// The secret that the members of a network share: 32 bytes from a secure random generator.
///
/// It is wiped from memory on drop, and `Debug` does not show it.
#[derive(Clone)]
pub struct NetworkKey(SecretBytes);

/// A key in a place of its own, so that moving it leaves no copy behind.
type SecretBytes = Box<Zeroizing<[u8; KEY_LEN]>>;

/// Bytes that are no network key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Too few or too many.
    #[error("a network key has {KEY_LEN} bytes, not {0}")]
    Length(usize),
    /// All zero, which is what a key looks like that was never filled in.
    #[error("an all-zero network key is no secret")]
    Zero,
}

/// Whose packets a node takes, and what its own look like.
///
/// ```
/// use kadepy::wire::seal::{Network, NetworkKey};
///
/// let key = NetworkKey::new(b"thirty-two bytes that are random")?;
/// let network = Network::Sealed { key, older: Vec::new() };
/// assert!(!format!("{network:?}").contains("random"));
/// # Ok::<(), kadepy::wire::seal::KeyError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub enum Network {
    /// Anybody's: packets in the clear.
    #[default]
    Public,
    /// Of those who hold a key: XChaCha20-Poly1305 over whole packets.
    Sealed {
        /// Seals and opens.
        key: NetworkKey,
        /// These open too, so that the members of a network can change its key one by one. Each
        /// costs one more attempt for a datagram that the others do not open.
        older: Vec<NetworkKey>,
    },
    /// v0.1's private network: ChaCha20 over bodies. It hides them and proves nothing: who can
    /// change a packet on its way can forge one. There is one key, for nothing tells whether
    /// it was the right one.
    ChaCha20(NetworkKey),
}

/// Seals what a node sends and opens what it receives, as its [`Network`] says.
///
/// No two of its nonces are equal, for they count up. Those of two seals differ in the random bytes
/// before the count, or where these are as few as v0.1's, in the random number that it starts from.
pub struct Seal {
    lock: Lock,
    count: u64,
}

enum Lock {
    None,
    Sealed {
        prefix: [u8; SEALED_PREFIX_LEN],
        /// The subkey for `prefix`, which all our nonces begin with.
        own: SecretBytes,
        /// What opens, and makes subkeys.
        keys: Vec<SecretBytes>,
    },
    ChaCha20 {
        key: NetworkKey,
        prefix: [u8; CHACHA20_PREFIX_LEN],
    },
}

impl NetworkKey {
    /// A key of these bytes.
    ///
    /// # Errors
    ///
    /// [`KeyError`]; no part of the bytes is in it.
    pub fn new(bytes: &[u8]) -> Result<Self, KeyError> {
        let mut key = SecretBytes::default();
        if bytes.len() != KEY_LEN {
            return Err(KeyError::Length(bytes.len()));
        }
        if bytes.iter().all(|&byte| byte == 0) {
            return Err(KeyError::Zero);
        }
        key.copy_from_slice(bytes);
        Ok(Self(key))
    }

    /// The key of the sealed format: another one, so that what one cipher has written means nothing
    /// under the other.
    fn sealed(&self) -> SecretBytes {
        let mut key = SecretBytes::default();
        Hkdf::<Sha256>::new(None, &**self.0)
            .expand(SEALED_INFO, &mut **key)
            .expect("HKDF gives up to 255 hashes");
        key
    }
}

impl std::fmt::Debug for NetworkKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NetworkKey(..)")
    }
}

impl Seal {
    /// A seal for `network`; its nonces begin with bytes drawn from `rng`.
    pub fn new(network: &Network, rng: &mut impl Rng) -> Self {
        let lock = match network {
            Network::Public => Lock::None,
            Network::Sealed { key, older } => {
                let prefix = random(rng);
                let mut keys = vec![key.sealed()];
                keys.extend(older.iter().map(NetworkKey::sealed));
                Lock::Sealed { prefix, own: Box::new(subkey(&keys[0], &prefix)), keys }
            }
            Network::ChaCha20(key) => Lock::ChaCha20 { key: key.clone(), prefix: random(rng) },
        };
        Self { lock, count: u64::from_be_bytes(random(rng)) }
    }

    /// The bytes by which a datagram is longer than the packet in it.
    pub fn overhead(&self) -> usize {
        match self.lock {
            Lock::None => 0,
            Lock::Sealed { .. } => SEALED_NONCE_LEN + TAG_LEN,
            Lock::ChaCha20 { .. } => CHACHA20_NONCE_LEN,
        }
    }

    /// Whether what opens was written by a holder of the key, and not changed since.
    pub fn proves_members(&self) -> bool {
        matches!(self.lock, Lock::Sealed { .. })
    }

    /// The packet in a datagram; `None` where it does not open.
    pub fn open<'a>(&self, datagram: &'a mut [u8]) -> Option<&'a mut [u8]> {
        match &self.lock {
            Lock::None => Some(datagram),
            Lock::Sealed { keys, .. } => {
                let (prefix, rest) = datagram.split_first_chunk_mut::<SEALED_PREFIX_LEN>()?;
                let (count, rest) = rest.split_first_chunk_mut::<COUNT_LEN>()?;
                let (packet, tag) = rest.split_last_chunk_mut::<TAG_LEN>()?;
                if !(HEADER_LEN..=MAX_READ).contains(&packet.len()) {
                    return None;
                }
                let opening = keys.iter().find_map(|key| {
                    let stream = Stream::new(&subkey(key, prefix), count, packet.len());
                    bool::from(stream.tag(packet).ct_eq(tag)).then_some(stream)
                });
                opening?.apply(packet);
                Some(packet)
            }
            Lock::ChaCha20 { key, .. } => {
                let (header, rest) = datagram.split_first_chunk_mut::<HEADER_LEN>()?;
                let (nonce, body) = rest.split_first_chunk_mut::<CHACHA20_NONCE_LEN>()?;
                apply_chacha20(key, nonce, body);
                let header = *header;
                let packet = &mut datagram[CHACHA20_NONCE_LEN..];
                packet[..HEADER_LEN].copy_from_slice(&header);
                Some(packet)
            }
        }
    }

    /// Writes a datagram to the end of `out`: the packet that `write` puts there, sealed. Gives
    /// its length; `None`, and nothing written, where `write` gives `None`, or no packet, or more
    /// than goes into [`MAX_SENT`].
    #[must_use]
    pub fn append(
        &mut self,
        out: &mut Vec<u8>,
        write: impl FnOnce(&mut Vec<u8>) -> Option<usize>,
    ) -> Option<usize> {
        let start = out.len();
        self.count = self.count.wrapping_add(1);
        let count = self.count.to_be_bytes();
        match &self.lock {
            Lock::None => {}
            Lock::Sealed { prefix, .. } => out.extend(prefix.iter().chain(&count)),
            Lock::ChaCha20 { prefix, .. } => out.extend(prefix.iter().chain(&count)),
        }
        let packet_at = out.len();
        let is_written = write(out).is_some();
        let packet_len = out.len() - packet_at;
        if !is_written || !(HEADER_LEN..=MAX_SENT - self.overhead()).contains(&packet_len) {
            out.truncate(start);
            return None;
        }
        match &self.lock {
            Lock::None => {}
            Lock::Sealed { own, .. } => {
                let packet = &mut out[packet_at..];
                let stream = Stream::new(own, &count, packet.len());
                stream.apply(packet);
                let tag = stream.tag(packet);
                out.extend_from_slice(&tag);
            }
            Lock::ChaCha20 { key, .. } => {
                // The header goes before the nonce, in the clear.
                let body_at = packet_at + HEADER_LEN;
                out[start..body_at].rotate_left(CHACHA20_NONCE_LEN);
                let (front, body) = out.split_at_mut(body_at);
                let nonce = front.last_chunk().expect("the nonce is before the body");
                apply_chacha20(key, nonce, body);
            }
        }
        Some(out.len() - start)
    }
}

impl Default for Seal {
    fn default() -> Self {
        Self { lock: Lock::None, count: 0 }
    }
}

/// XChaCha20-Poly1305 for one packet: ChaCha20-Poly1305 under a subkey (RFC 8439 and
/// draft-irtf-cfrg-xchacha). It is put together here because the `chacha20poly1305` crate, which the
/// tests compare it with, computes each block of so short a message at the price of four.
struct Stream([u8; STREAM_MAX]);

impl Stream {
    fn new(subkey: &[u8; KEY_LEN], count: &[u8; COUNT_LEN], len: usize) -> Self {
        let mut nonce = [0; CHACHA20_NONCE_LEN];
        nonce[CHACHA20_PREFIX_LEN..].copy_from_slice(count);
        let mut stream = Self([0; STREAM_MAX]);
        let bytes = &mut stream.0[..(START + len).next_multiple_of(STREAM_STEP)];
        ChaCha20::new(subkey.into(), (&nonce).into()).apply_keystream(bytes);
        stream
    }

    fn apply(&self, packet: &mut [u8]) {
        for (byte, key) in packet.iter_mut().zip(&self.0[START..]) {
            *byte ^= key;
        }
    }

    fn tag(&self, ciphertext: &[u8]) -> [u8; TAG_LEN] {
        let (key, _) = self.0.split_first_chunk::<KEY_LEN>().expect("it is longer");
        let mut mac = Poly1305::new(key.into());
        mac.update_padded(ciphertext);
        // No associated data, and so many bytes of ciphertext.
        let mut lengths = [0; TAG_LEN];
        lengths[8..].copy_from_slice(&(ciphertext.len() as u64).to_le_bytes());
        mac.update(&[lengths.into()]);
        mac.finalize().into()
    }
}

fn subkey(key: &SecretBytes, prefix: &[u8; SEALED_PREFIX_LEN]) -> Zeroizing<[u8; KEY_LEN]> {
    let key: &[u8; KEY_LEN] = key;
    Zeroizing::new(hchacha::<R20>(key.into(), prefix.into()).into())
}

/// v0.1's encryption, and its reversal.
fn apply_chacha20(key: &NetworkKey, nonce: &[u8; CHACHA20_NONCE_LEN], body: &mut [u8]) {
    let key: &[u8; KEY_LEN] = &key.0;
    let mut cipher = ChaCha20::new(key.into(), nonce.into());
    cipher.seek(START);
    cipher.apply_keystream(body);
}

fn random<const N: usize>(rng: &mut impl Rng) -> [u8; N] {
    let mut bytes = [0; N];
    rng.fill_bytes(&mut bytes);
    bytes
}
