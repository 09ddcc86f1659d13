//! The network key: it keeps everybody who does not hold it out of a network.
//!
//! Packets are sealed and opened in place. What stands in them is the business of `native`;
//! `docs/wire-protocol.md` is the specification.

use chacha20::cipher::{KeyIvInit, StreamCipher, StreamCipherSeek};
use chacha20::{ChaCha20, R20, hchacha};
use hkdf::Hkdf;
use poly1305::Poly1305;
use poly1305::universal_hash::{KeyInit, UniversalHash};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::Zeroizing;

use super::native::{HEADER_LEN, MAX_READ, MAX_SENT};

/// Bytes in a network key.
pub const KEY_LEN: usize = 32;
/// Random bytes that a seal begins its nonces with.
pub const NONCE_START_LEN: usize = SEALED_NONCE_LEN;
/// The most keys of one network: each is tried on every datagram that no other opens.
pub const KEYS_MAX: usize = 8;

/// What sealed datagrams begin with: to a node without a key a reserved type, which it drops, where
/// it would take others for somebody's packets.
const SEALED_FIRST_BYTE: u8 = 15;
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
        /// costs one more attempt for a datagram that the others do not open; with `key` they
        /// should be no more than [`KEYS_MAX`].
        older: Vec<NetworkKey>,
    },
    /// v0.1's private network: ChaCha20 over bodies. It hides them and proves nothing: who can
    /// change a packet on its way can forge one. There is one key, for nothing tells whether
    /// it was the right one.
    ChaCha20(NetworkKey),
}

/// Seals what a node sends and opens what it receives, as its [`Network`] says.
///
/// No two of its nonces are equal, for they count up from random bytes; [`Seal::restart`] draws the
/// line between two that may count from the same ones, as the copies do that a fork makes.
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
    /// A seal for `network` that begins its nonces with `start`: bytes of the system's generator,
    /// new ones for each seal.
    pub fn new(network: &Network, start: [u8; NONCE_START_LEN]) -> Self {
        let lock = match network {
            Network::Public => Lock::None,
            Network::Sealed { key, older } => Lock::Sealed {
                prefix: Default::default(),
                own: SecretBytes::default(),
                keys: std::iter::once(key).chain(older).map(NetworkKey::sealed).collect(),
            },
            Network::ChaCha20(key) => {
                Lock::ChaCha20 { key: key.clone(), prefix: Default::default() }
            }
        };
        let mut seal = Self { lock, count: 0 };
        seal.restart(start);
        seal
    }

    /// Begins the nonces anew, with other bytes than before.
    pub fn restart(&mut self, start: [u8; NONCE_START_LEN]) {
        let (start, count) = start.split_last_chunk().expect("it is longer");
        self.count = u64::from_be_bytes(*count);
        match &mut self.lock {
            Lock::None => {}
            Lock::Sealed { prefix, own, keys } => {
                prefix.copy_from_slice(start);
                prefix[0] = SEALED_FIRST_BYTE;
                own.copy_from_slice(&*subkey(&keys[0], prefix));
            }
            Lock::ChaCha20 { prefix, .. } => {
                prefix.copy_from_slice(&start[..CHACHA20_PREFIX_LEN]);
            }
        }
    }

    /// Whether packets go in the clear.
    pub fn is_public(&self) -> bool {
        matches!(self.lock, Lock::None)
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
                    let stream = Stream::new(&subkey(key, prefix), count);
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
                let mut stream = Stream::new(own, &count);
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
struct Stream {
    cipher: ChaCha20,
    /// The keystream so far: one step, which the tag's key and a short packet need.
    bytes: [u8; STREAM_MAX],
}

impl Stream {
    fn new(subkey: &[u8; KEY_LEN], count: &[u8; COUNT_LEN]) -> Self {
        let mut nonce = [0; CHACHA20_NONCE_LEN];
        nonce[CHACHA20_PREFIX_LEN..].copy_from_slice(count);
        let mut cipher = ChaCha20::new(subkey.into(), (&nonce).into());
        let mut bytes = [0; STREAM_MAX];
        cipher.apply_keystream(&mut bytes[..STREAM_STEP]);
        Self { cipher, bytes }
    }

    fn apply(&mut self, packet: &mut [u8]) {
        let end = (START + packet.len()).next_multiple_of(STREAM_STEP);
        self.cipher.apply_keystream(&mut self.bytes[STREAM_STEP..end]);
        for (byte, key) in packet.iter_mut().zip(&self.bytes[START..]) {
            *byte ^= key;
        }
    }

    fn tag(&self, ciphertext: &[u8]) -> [u8; TAG_LEN] {
        let (key, _) = self.bytes.split_first_chunk::<KEY_LEN>().expect("it is longer");
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

#[cfg(test)]
mod tests {

    use super::*;

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        let byte = |word| u8::from_str_radix(word, 16).expect("two hex digits");
        let bytes: Vec<u8> = text.split_whitespace().map(byte).collect();
        bytes.try_into().expect("as many bytes as are wanted")
    }

    fn counting(first: u8) -> SecretBytes {
        Box::new(Zeroizing::new(std::array::from_fn(|index| first + index as u8)))
    }

    #[test]
    fn subkeys_are_hchacha20_of_the_xchacha_draft() {
        // draft-irtf-cfrg-xchacha-03, section 2.2.1
        let prefix = hex("00 00 00 09 00 00 00 4A 00 00 00 00 31 41 59 27");
        let expected = hex("82 41 3B 42 27 B2 7B FE D3 0E 42 50 8A 87 7D 73
             A0 F9 E4 D5 8A 74 A8 53 C1 2E C4 13 26 D3 EC DC");
        assert_eq!(*subkey(&counting(0), &prefix), expected);
    }

    #[test]
    fn streams_encrypt_like_xchacha20_of_the_draft() {
        // draft-irtf-cfrg-xchacha-03, appendix A.3.2, from block 1 on
        let mut text = *b"The dhole (pronounced \"dole\") is also known as the Asiatic wild dog, \
            red dog, and whistling dog. It is about the size of a German shepherd but looks more \
            like a long-legged fox. This highly elusive and skilled jumper is classified with \
            wolves, coyotes, jackals, and foxes in the taxonomic family Canidae.";
        let prefix = hex("40 41 42 43 44 45 46 47 48 49 4A 4B 4C 4D 4E 4F");
        let count = hex("50 51 52 53 54 55 56 58");
        Stream::new(&subkey(&counting(0x80), &prefix), &count).apply(&mut text);
        let expected: [u8; 304] =
            hex("7D 0A 2E 6B 7F 7C 65 A2 36 54 26 30 29 4E 06 3B 7A B9 B5 55 A5 D5 14 9A
             A2 1E 4A E1 E4 FB CE 87 EC C8 E0 8A 8B 5E 35 0A BE 62 2B 2F FA 61 7B 20
             2C FA D7 20 32 A3 03 7E 76 FF DC DC 43 76 EE 05 3A 19 0D 7E 46 CA 1D E0
             41 44 85 03 81 B9 CB 29 F0 51 91 53 86 B8 A7 10 B8 AC 4D 02 7B 8B 05 0F
             7C BA 58 54 E0 28 D5 64 E4 53 B8 A9 68 82 41 73 FC 16 48 8B 89 70 CA C8
             28 F1 1A E5 3C AB D2 01 12 F8 71 07 DF 24 EE 61 83 D2 27 4F E4 C8 B1 48
             55 34 EF 2C 5F BC 1E C2 4B FC 36 63 EF AA 08 BC 04 7D 29 D2 50 43 53 2D
             B8 39 1A 8A 3D 77 6B F4 37 2A 69 55 82 7C CB 0C DD 4A F4 03 A7 CE 4C 63
             D5 95 C7 5A 43 E0 45 F0 CC E1 F2 9C 8B 93 BD 65 AF C5 97 49 22 F2 14 A4
             0B 7C 40 2C DB 91 AE 73 C0 B6 36 15 CD AD 04 80 68 0F 16 51 5A 7A CE 9D
             39 23 64 64 32 8A 37 74 3F FC 28 F4 DD B3 24 F4 D0 F5 BB DC 27 0C 65 B1
             74 9A 6E FF F1 FB AA 09 53 61 75 CC D2 9F B9 E6 05 7B 30 73 20 D3 16 83
             8A 9C 71 F7 0B 5B 59 07 A6 6F 7E A4 9A AD C4 09");
        assert_eq!(text, expected);
    }

    #[test]
    fn tags_are_made_with_the_one_time_key_of_rfc_8439() {
        // RFC 8439, section 2.6.2
        let stream = Stream::new(&counting(0x80), &hex("00 01 02 03 04 05 06 07"));
        let expected: [u8; 32] = hex("8A D5 A0 8B 90 5F 81 CC 81 50 40 27 4A B2 94 71
             A8 33 B6 37 E3 FD 0D A5 08 DB B8 E2 FD D1 A6 46");
        assert_eq!(stream.bytes[..32], expected);
    }

    #[test]
    fn ciphertexts_and_tags_are_those_of_wycheproof() {
        // Project Wycheproof, xchacha20_poly1305_test, a valid case without associated data: the
        // draft's own has some. 33 bytes, so that the last block of the tag is a cut one.
        let key = hex("92 B9 B4 0C 00 48 0A 50 EE 16 A8 63 49 A4 6E 37
             B0 2D 5B A7 4D 2E 5A 67 EA F3 33 E4 67 FA 01 52");
        let prefix = hex("DA CA 1F 50 A4 C0 D9 B7 71 51 C7 5F 2E 58 CE 40");
        let count = hex("48 47 D0 AA B4 93 08 6D");
        let mut packet: [u8; 33] = hex("C8 57 F3 C5 5D A6 1D 72 56 39 12 A2 53 4E 01 B6
             42 6B A4 1B F4 17 C1 5B 72 50 86 D3 1A 16 45 C9 4D");
        let mut stream = Stream::new(&subkey(&Box::new(Zeroizing::new(key)), &prefix), &count);
        stream.apply(&mut packet);
        let expected: [u8; 33] = hex("82 BE 23 7B E0 08 22 8A 8A 9F F1 A5 06 D5 B8 93
             CF 9D CA A1 DD 33 C0 52 3B 13 58 2B CA DE 46 29 EF");
        assert_eq!(packet, expected);
        let expected = hex("72 34 37 AF 0B 68 4B 6E 04 02 43 52 20 6C BA F9");
        assert_eq!(stream.tag(&packet), expected);
    }

    #[test]
    fn v01s_cipher_is_chacha20_of_rfc_8439_from_block_1_on() {
        // RFC 8439, section 2.4.2
        let text = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip \
            for the future, sunscreen would be it.";
        let nonce: [u8; 12] = hex("00 00 00 00 00 00 00 4A 00 00 00 00");
        let ciphertext: [u8; 114] =
            hex("6E 2E 35 9A 25 68 F9 80 41 BA 07 28 DD 0D 69 81 E9 7E 7A EC 1D 43 60 C2
             0A 27 AF CC FD 9F AE 0B F9 1B 65 C5 52 47 33 AB 8F 59 3D AB CD 62 B3 57
             16 39 D6 24 E6 51 52 AB 8F 53 0C 35 9F 08 61 D8 07 CA 0D BF 50 0D 6A 61
             56 A3 8E 08 8A 22 B6 5E 52 BC 51 4D 16 CC F8 06 81 8C E9 1A B7 79 37 36
             5A F9 0B BF 74 A3 5B E6 B4 0B 8E ED F2 78 5E 42 87 4D");
        let header = [0x11; HEADER_LEN];
        let lock = Lock::ChaCha20 { key: NetworkKey(counting(0)), prefix: [0; 4] };
        let mut datagram = [&header[..], &nonce, &ciphertext].concat();
        let opened = Seal { lock, count: 0 }.open(&mut datagram).map(|packet| &*packet).unwrap();
        assert_eq!(opened, [&header[..], text].concat());
    }

    #[test]
    fn nonces_count_up_through_all_their_bytes() {
        let key = NetworkKey(counting(1));
        let sealed = Network::Sealed { key: key.clone(), older: Vec::new() };
        // Where the count stands in a datagram.
        for (network, at) in [
            (sealed, SEALED_PREFIX_LEN),
            (Network::ChaCha20(key), HEADER_LEN + CHACHA20_PREFIX_LEN),
        ] {
            let mut seal = Seal::new(&network, [1; NONCE_START_LEN]);
            for last in [0, 0xff, 0xffff, 0xffff_ffff, u64::MAX - 1, u64::MAX] {
                seal.count = last;
                let mut out = Vec::new();
                let header = |out: &mut Vec<u8>| {
                    out.resize(out.len() + HEADER_LEN, 0);
                    Some(HEADER_LEN)
                };
                seal.append(&mut out, header).unwrap();
                assert_eq!(out[at..at + COUNT_LEN], last.wrapping_add(1).to_be_bytes());
            }
        }
    }
}
