//! The network key from outside: what datagrams look like under it, that nothing opens but what a
//! holder of the key has made, and that no nonce comes twice.

use std::collections::BTreeSet;

use chacha20::cipher::{KeyIvInit, StreamCipher};
use chacha20::{ChaCha20, ChaCha20Rng};
use chacha20poly1305::aead::{Aead, KeyInit};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use hkdf::Hkdf;
use kadepy::wire::native::{HEADER_LEN, MAX_READ, MAX_SENT};
use kadepy::wire::seal::{KeyError, Seal};
use kadepy::{Network, NetworkKey};
use proptest::prelude::*;
use rand_core::{Rng, SeedableRng};
use sha2::Sha256;

const KEY: [u8; 32] = *b"thirty-two bytes that are random";
const OTHER_KEY: [u8; 32] = *b"as many bytes as well: also here";
const NONCE_LEN: usize = 24;
const TAG_LEN: usize = 16;

/// The bytes of spaced hex; `AA*32` is the byte AA 32 times.
fn hex(text: &str) -> Vec<u8> {
    let run = |word: &str| {
        let (byte, count) = word.split_once('*').unwrap_or((word, "1"));
        let byte = u8::from_str_radix(byte, 16).expect("two hex digits");
        vec![byte; count.parse().expect("a count")]
    };
    text.split_whitespace().flat_map(run).collect()
}

fn key(bytes: [u8; 32]) -> NetworkKey {
    NetworkKey::new(&bytes).expect("32 bytes, not all zero")
}

fn sealed(bytes: [u8; 32]) -> Network {
    Network::Sealed { key: key(bytes), older: Vec::new() }
}

fn chacha20(bytes: [u8; 32]) -> Network {
    Network::ChaCha20(key(bytes))
}

fn seal_of(network: &Network) -> Seal {
    seeded(network, 1)
}

fn seeded(network: &Network, seed: u64) -> Seal {
    Seal::new(network, start(seed))
}

/// Where nonces begin.
fn start(seed: u64) -> [u8; NONCE_LEN] {
    let mut start = [0; NONCE_LEN];
    ChaCha20Rng::seed_from_u64(seed).fill_bytes(&mut start);
    start
}

fn append(seal: &mut Seal, packet: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let len = seal.append(&mut out, |out| {
        out.extend_from_slice(packet);
        Some(packet.len())
    })?;
    assert_eq!(len, out.len());
    Some(out)
}

fn datagram(seal: &mut Seal, packet: &[u8]) -> Vec<u8> {
    append(seal, packet).expect("it is neither too short nor too long")
}

fn open(seal: &Seal, datagram: &[u8]) -> Option<Vec<u8>> {
    seal.open(&mut datagram.to_vec()).map(|packet| packet.to_vec())
}

/// A packet of `len` bytes.
fn packet(len: usize) -> Vec<u8> {
    (0..len).map(|index| index as u8).collect()
}

/// Whether `datagram` does not open, and stays as it is.
fn is_refused(seal: &Seal, datagram: &[u8]) -> bool {
    let mut buffer = datagram.to_vec();
    seal.open(&mut buffer).is_none() && buffer == datagram
}

/// The sealed format's cipher and its key, made by other code.
fn oracle() -> XChaCha20Poly1305 {
    let mut key = [0; 32];
    Hkdf::<Sha256>::new(None, &KEY).expand(b"kadepy/1 seal", &mut key).expect("32 bytes are few");
    XChaCha20Poly1305::new(&key.into())
}

fn sealed_by_oracle(oracle: &XChaCha20Poly1305, nonce: [u8; NONCE_LEN], packet: &[u8]) -> Vec<u8> {
    let ciphertext = oracle.encrypt(&XNonce::from(nonce), packet).expect("it is short");
    [&nonce[..], &ciphertext].concat()
}

/// v0.1's format with the whole keystream drawn, for want of another way to begin at block 1.
fn chacha20_by_oracle(nonce: [u8; 12], packet: &[u8]) -> Vec<u8> {
    let (header, body) = packet.split_at(HEADER_LEN);
    let mut stream = [vec![0; 64], body.to_vec()].concat();
    ChaCha20::new(&KEY.into(), &nonce.into()).apply_keystream(&mut stream);
    [header, &nonce, &stream[64..]].concat()
}

fn packets(max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), HEADER_LEN..=max)
}

// What datagrams look like

#[test]
fn golden_sealed_datagram() {
    // Key 00 01 … 1F; a PING with a transaction id; computed by a program that shares no code.
    let key = std::array::from_fn(|index| index as u8);
    let datagram = hex("40 41 42 43 44 45 46 47 48 49 4A 4B 4C 4D 4E 4F 50 51 52 53 54 55 56 57
         01 56 3C 50 30 22 C1 39 F7 76 DD 5C 56 25 05 25 C8 B3 67 63 AD 27 C5 D2
         C4 20 72 28 75 CF AB 14 77 77 DA 2F A2 31 9D FF DC CF 31 22 FF 82 9E 72
         C7 B8 B2 A9 14 C2 9B F2 FB 83 5E 9D 26 70 DF");
    let packet = hex("00 11*32 4B 50 01 01 00 08 C1 C2 C3 C4 C5 C6 C7 C8");
    assert_eq!(open(&seal_of(&sealed(key)), &datagram), Some(packet));
}

#[test]
fn golden_chacha20_datagram() {
    // Key 00 01 … 1F; v0.1's FIND_NODE; computed by a program that shares no code.
    let key = std::array::from_fn(|index| index as u8);
    let datagram = hex("02 11*32 40 41 42 43 44 45 46 47 48 49 4A 4B DA 76 5E A3 50 68 CC 23
         7A ED D4 22 99 CD 4F EF 96 EE 41 3A 66 DE 63 4D DC 2E F0 79 C8 05 18 48");
    assert_eq!(open(&seal_of(&chacha20(key)), &datagram), Some(hex("02 11*32 22*32")));
}

#[test]
fn a_seal_adds_40_bytes_and_v01s_12() {
    for (network, overhead) in
        [(Network::Public, 0), (sealed(KEY), NONCE_LEN + TAG_LEN), (chacha20(KEY), 12)]
    {
        let mut seal = seal_of(&network);
        assert_eq!(seal.overhead(), overhead);
        assert_eq!(datagram(&mut seal, &packet(100)).len(), 100 + overhead);
    }
}

#[test]
fn packets_of_every_length_are_sealed_as_another_implementation_does() {
    let (mut seal, oracle) = (seal_of(&sealed(KEY)), oracle());
    for len in HEADER_LEN..=MAX_SENT - NONCE_LEN - TAG_LEN {
        let packet = packet(len);
        let datagram = datagram(&mut seal, &packet);
        let nonce = datagram[..NONCE_LEN].try_into().unwrap();
        assert_eq!(datagram, sealed_by_oracle(&oracle, nonce, &packet), "{len} bytes");
    }
}

#[test]
fn packets_of_every_length_open_that_another_implementation_sealed() {
    let (seal, oracle) = (seal_of(&sealed(KEY)), oracle());
    for len in HEADER_LEN..=MAX_READ - NONCE_LEN - TAG_LEN {
        let packet = packet(len);
        let datagram = sealed_by_oracle(&oracle, [len as u8; NONCE_LEN], &packet);
        assert_eq!(open(&seal, &datagram), Some(packet), "{len} bytes");
    }
}

proptest! {
    #[test]
    fn any_packet_is_sealed_as_another_implementation_does(
        packet in packets(MAX_SENT - NONCE_LEN - TAG_LEN),
        seed: u64,
    ) {
        let datagram = datagram(&mut seeded(&sealed(KEY), seed), &packet);
        let nonce: [u8; NONCE_LEN] = datagram[..NONCE_LEN].try_into().expect("24 bytes");
        let opened = oracle().decrypt(&XNonce::from(nonce), &datagram[NONCE_LEN..]);
        prop_assert_eq!(opened, Ok(packet));
    }

    #[test]
    fn any_packet_opens_that_another_implementation_sealed(
        packet in packets(MAX_READ - NONCE_LEN - TAG_LEN),
        nonce: [u8; NONCE_LEN],
    ) {
        let datagram = sealed_by_oracle(&oracle(), nonce, &packet);
        prop_assert_eq!(open(&seal_of(&sealed(KEY)), &datagram), Some(packet));
    }

    #[test]
    fn v01s_cipher_leaves_the_header_and_puts_a_nonce_before_the_body(
        packet in packets(MAX_SENT - 12),
        seed: u64,
    ) {
        let datagram = datagram(&mut seeded(&chacha20(KEY), seed), &packet);
        let nonce = datagram[HEADER_LEN..][..12].try_into().expect("12 bytes");
        prop_assert_eq!(datagram, chacha20_by_oracle(nonce, &packet));
    }

    #[test]
    fn v01s_cipher_opens_what_another_implementation_encrypted(
        packet in packets(MAX_READ - 12),
        nonce: [u8; 12],
    ) {
        let datagram = chacha20_by_oracle(nonce, &packet);
        prop_assert_eq!(open(&seal_of(&chacha20(KEY)), &datagram), Some(packet));
    }

    #[test]
    fn any_bytes_open_or_do_not_under_any_network(
        bytes in prop::collection::vec(any::<u8>(), 0..2_000),
    ) {
        let older = vec![key(OTHER_KEY); 2];
        let networks = [
            Network::Public,
            sealed(KEY),
            Network::Sealed { key: key(KEY), older },
            chacha20(KEY),
        ];
        for network in networks {
            let seal = seal_of(&network);
            let opened = open(&seal, &bytes);
            if let Some(packet) = &opened {
                prop_assert_eq!(packet.len() + seal.overhead(), bytes.len());
            }
            prop_assert!(opened.is_none() || !seal.proves_members());
        }
    }
}

// What opens

#[test]
fn what_a_seal_makes_it_opens() {
    for network in [Network::Public, sealed(KEY), chacha20(KEY)] {
        let mut seal = seal_of(&network);
        for len in [HEADER_LEN, 47, 65, 456, MAX_SENT - seal.overhead()] {
            let datagram = datagram(&mut seal, &packet(len));
            assert_eq!(open(&seal, &datagram), Some(packet(len)), "{network:?}");
        }
    }
}

#[test]
fn only_a_sealed_network_proves_its_members() {
    let proves = |network| seal_of(&network).proves_members();
    assert!(proves(sealed(KEY)));
    assert!(!proves(chacha20(KEY)));
    assert!(!proves(Network::Public));
}

#[test]
fn a_sealed_datagram_with_any_bit_flipped_does_not_open() {
    let mut seal = seal_of(&sealed(KEY));
    for (len, masks) in [
        (HEADER_LEN, &[0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff][..]),
        (65, &[0x01, 0x80, 0xff]),
        (1_160, &[0x40]),
    ] {
        let datagram = datagram(&mut seal, &packet(len));
        for at in 0..datagram.len() {
            for mask in masks {
                let mut flipped = datagram.clone();
                flipped[at] ^= mask;
                assert!(is_refused(&seal, &flipped), "byte {at} of {len} by {mask:#x}");
            }
        }
    }
}

#[test]
fn a_sealed_datagram_cut_or_lengthened_at_either_end_does_not_open() {
    let mut seal = seal_of(&sealed(KEY));
    let datagram = datagram(&mut seal, &packet(200));
    for cut in 1..=datagram.len() {
        assert!(is_refused(&seal, &datagram[cut..]), "{cut} bytes off the start");
        assert!(is_refused(&seal, &datagram[..datagram.len() - cut]), "{cut} bytes off the end");
    }
    for more in 1..=64 {
        for byte in [0, 0x80] {
            let added = vec![byte; more];
            assert!(is_refused(&seal, &[&added[..], &datagram].concat()), "{more} bytes before");
            assert!(is_refused(&seal, &[&datagram[..], &added].concat()), "{more} bytes after");
        }
    }
}

#[test]
fn parts_of_two_sealed_datagrams_do_not_open_together() {
    let mut seal = seal_of(&sealed(KEY));
    let [a, b] = [packet(65), vec![7; 65]].map(|packet| datagram(&mut seal, &packet));
    let parts = |datagram: &[u8]| {
        let (nonce, rest) = datagram.split_at(NONCE_LEN);
        let (ciphertext, tag) = rest.split_at(rest.len() - TAG_LEN);
        [nonce, ciphertext, tag].map(<[u8]>::to_vec)
    };
    for swapped in 0..3 {
        let (mut a, mut b) = (parts(&a), parts(&b));
        std::mem::swap(&mut a[swapped], &mut b[swapped]);
        assert!(is_refused(&seal, &a.concat()), "part {swapped}");
        assert!(is_refused(&seal, &b.concat()), "part {swapped}");
    }
}

#[test]
fn a_sealed_network_opens_nothing_of_other_networks() {
    let seal = seal_of(&sealed(KEY));
    for network in [sealed(OTHER_KEY), chacha20(KEY), chacha20(OTHER_KEY), Network::Public] {
        for len in [HEADER_LEN, 47, 65, 456, MAX_SENT - 40] {
            let datagram = datagram(&mut seal_of(&network), &packet(len));
            assert!(is_refused(&seal, &datagram), "{len} bytes of {network:?}");
        }
    }
}

#[test]
fn the_network_key_itself_seals_nothing() {
    let raw = XChaCha20Poly1305::new(&KEY.into());
    let datagram = sealed_by_oracle(&raw, [1; NONCE_LEN], &packet(65));
    assert!(is_refused(&seal_of(&sealed(KEY)), &datagram));
}

#[test]
fn what_is_sealed_but_no_packet_by_its_length_does_not_open() {
    let (seal, oracle) = (seal_of(&sealed(KEY)), oracle());
    let lengths = (0..HEADER_LEN).chain(MAX_READ + 1..MAX_READ + 400).chain([65_000]);
    for len in lengths {
        let datagram = sealed_by_oracle(&oracle, [1; NONCE_LEN], &packet(len));
        assert!(is_refused(&seal, &datagram), "{len} bytes");
    }
}

#[test]
fn what_is_too_short_for_v01s_cipher_does_not_open() {
    let seal = seal_of(&chacha20(KEY));
    let datagram = chacha20_by_oracle([1; 12], &packet(HEADER_LEN));
    assert!((0..datagram.len()).all(|len| is_refused(&seal, &datagram[..len])));
    assert_eq!(open(&seal, &datagram), Some(packet(HEADER_LEN)), "a PING has no body");
}

// Nonces

/// The nonces of `count` datagrams.
fn nonces(seal: &mut Seal, at: usize, len: usize, count: usize) -> BTreeSet<Vec<u8>> {
    let mut out = Vec::new();
    let packet = packet(HEADER_LEN);
    let nonce = |_| {
        out.clear();
        seal.append(&mut out, |out| {
            out.extend_from_slice(&packet);
            Some(packet.len())
        })
        .expect("a header is a packet");
        out[at..at + len].to_vec()
    };
    (0..count).map(nonce).collect()
}

/// Each cipher with where its nonce stands and how long it is.
fn ciphers() -> [(Network, usize, usize); 2] {
    [(sealed(KEY), 0, NONCE_LEN), (chacha20(KEY), HEADER_LEN, 12)]
}

#[test]
fn no_nonce_of_ten_thousand_comes_twice() {
    for (network, at, len) in ciphers() {
        assert_eq!(nonces(&mut seal_of(&network), at, len, 10_000).len(), 10_000);
    }
}

#[test]
fn seals_of_one_key_share_no_nonce() {
    for (network, at, len) in ciphers() {
        let [a, b] = [1, 2].map(|seed| nonces(&mut seeded(&network, seed), at, len, 1_000));
        assert!(a.is_disjoint(&b), "{network:?}");
    }
}

#[test]
fn a_seal_that_begins_anew_shares_no_nonce_with_a_copy_that_goes_on() {
    for (network, at, len) in ciphers() {
        let [mut one, mut copy] = [1, 1].map(|seed| seeded(&network, seed));
        one.restart(start(2));
        let [a, b] = [&mut one, &mut copy].map(|seal| nonces(seal, at, len, 1_000));
        assert!(a.is_disjoint(&b), "{network:?}");
        let packet = packet(HEADER_LEN);
        let mut datagram = datagram(&mut one, &packet);
        assert_eq!(copy.open(&mut datagram), Some(&mut packet.clone()[..]), "{network:?}");
    }
}

#[test]
fn prefix_and_count_of_the_nonces_come_from_the_start() {
    for (network, at, len) in ciphers() {
        let mut prefixes = BTreeSet::new();
        let mut counts = BTreeSet::new();
        for seed in 0..8 {
            let datagram = datagram(&mut seeded(&network, seed), &packet(HEADER_LEN));
            let (prefix, count) = datagram[at..at + len].split_at(len - 8);
            prefixes.insert(prefix.to_vec());
            counts.insert(count.to_vec());
        }
        assert_eq!((prefixes.len(), counts.len()), (8, 8), "{network:?}");
    }
}

// Several keys

#[test]
fn the_first_key_seals_and_every_key_opens() {
    let keys = [KEY, OTHER_KEY, [3; 32]];
    let older = vec![key(keys[1]), key(keys[2])];
    let mut seal = seal_of(&Network::Sealed { key: key(keys[0]), older });
    for bytes in keys {
        let theirs = datagram(&mut seeded(&sealed(bytes), 2), &packet(65));
        assert_eq!(open(&seal, &theirs), Some(packet(65)));
    }
    assert!(is_refused(&seal, &datagram(&mut seal_of(&sealed([4; 32])), &packet(65))));

    let ours = datagram(&mut seal, &packet(65));
    let opens = keys.map(|bytes| open(&seal_of(&sealed(bytes)), &ours).is_some());
    assert_eq!(opens, [true, false, false]);
}

// Keys

#[test]
fn a_key_of_another_length_is_none() {
    for len in [0, 1, 16, 31, 33, 64] {
        assert_eq!(NetworkKey::new(&vec![1; len]).err(), Some(KeyError::Length(len)));
    }
    assert!(NetworkKey::new(&[1; 32]).is_ok());
}

#[test]
fn an_all_zero_key_is_none() {
    assert_eq!(NetworkKey::new(&[0; 32]).err(), Some(KeyError::Zero));
    for at in 0..32 {
        let mut bytes = [0; 32];
        bytes[at] = 1;
        assert!(NetworkKey::new(&bytes).is_ok());
    }
}

#[test]
fn no_byte_of_a_key_is_shown() {
    // What is the same for two keys without a byte in common tells nothing of either.
    let shown = |byte: u8| {
        let key = key([byte; 32]);
        let network = Network::Sealed { key: key.clone(), older: vec![key.clone()] };
        let v01 = Network::ChaCha20(key.clone());
        format!("{key:?} {key:#?} {network:?} {network:#?} {v01:?} {v01:#?}")
    };
    assert!((2..=255).all(|byte| shown(byte) == shown(1)));
}

#[test]
fn an_error_about_a_key_shows_no_byte_of_it() {
    let shown = |byte: u8| {
        let error = NetworkKey::new(&[byte; 31]).expect_err("31 bytes are no key");
        format!("{error} {error:?}")
    };
    assert!((1..=255).all(|byte| shown(byte) == shown(0)));
}

// Writing

fn every_network() -> [Network; 3] {
    [Network::Public, sealed(KEY), chacha20(KEY)]
}

#[test]
fn a_datagram_is_put_after_what_is_there() {
    for network in every_network() {
        let mut seal = seal_of(&network);
        let mut out = b"before".to_vec();
        let mut put = |len| {
            seal.append(&mut out, |out| {
                out.extend_from_slice(&packet(len));
                Some(len)
            })
            .expect("it fits")
        };
        let (first, second) = (put(65), put(456));
        assert_eq!(out.len(), 6 + first + second);
        let (before, datagrams) = out.split_at(6);
        assert_eq!(before, b"before");
        assert_eq!(open(&seal, &datagrams[..first]), Some(packet(65)));
        assert_eq!(open(&seal, &datagrams[first..]), Some(packet(456)));
    }
}

#[test]
fn what_is_no_packet_is_not_written() {
    for network in every_network() {
        let mut seal = seal_of(&network);
        let max = MAX_SENT - seal.overhead();
        assert_eq!(datagram(&mut seal, &packet(max)).len(), MAX_SENT);
        let refused = [
            (HEADER_LEN, None),
            (0, None),
            (0, Some(0)),
            (HEADER_LEN - 1, Some(HEADER_LEN - 1)),
            (max + 1, Some(max + 1)),
            (65_000, Some(65_000)),
        ];
        for (len, result) in refused {
            let mut out = b"before".to_vec();
            let appended = seal.append(&mut out, |out| {
                out.extend_from_slice(&packet(len));
                result
            });
            assert_eq!((appended, &out[..]), (None, &b"before"[..]), "{len} bytes");
        }
    }
}
