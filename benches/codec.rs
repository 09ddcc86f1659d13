//! What reading and writing one packet costs: `cargo bench --bench codec`.

use divan::{Bencher, black_box};
use kadepy::wire::message::{Body, Message, Trailer, TxId};
use kadepy::wire::native::{self, Lists};
use kadepy::wire::seal::Seal;
use kadepy::{Contact, Endpoint, Network, NetworkKey, NodeId};

fn main() {
    divan::main();
}

fn contacts() -> Vec<Contact> {
    let contact =
        |i: u8| Contact { id: NodeId([i; 32]), endpoint: Endpoint::new([50, 0, i, 1], 4_000) };
    (1..=20).map(contact).collect()
}

fn trailer(endpoint: Option<Endpoint>) -> Option<Trailer<'static>> {
    Some(Trailer { txid: Some(TxId([7; 8])), endpoint, ..Trailer::default() })
}

fn encoded(message: &Message<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    native::encode(message, native::MAX_SENT, 0, &mut out).expect("it fits");
    out
}

fn read(bencher: Bencher<'_, '_>, packet: &[u8]) {
    bencher.bench_local(|| {
        let mut lists = Lists::default();
        black_box(native::decode(black_box(packet), &mut lists)).is_ok()
    });
}

fn write(bencher: Bencher<'_, '_>, message: &Message<'_>) {
    let mut out = Vec::with_capacity(native::MAX_SENT);
    bencher.bench_local(|| {
        out.clear();
        native::encode(black_box(message), native::MAX_SENT, 0, &mut out)
    });
}

#[divan::bench]
fn read_ping(bencher: Bencher<'_, '_>) {
    read(bencher, &encoded(&Message::new(NodeId([1; 32]), Body::Ping, trailer(None))));
}

#[divan::bench]
fn read_found_nodes_of_20(bencher: Bencher<'_, '_>) {
    let nodes = contacts();
    let reply =
        Message { nodes: &nodes, ..Message::new(NodeId([1; 32]), Body::FoundNodes, trailer(None)) };
    read(bencher, &encoded(&reply));
}

#[divan::bench]
fn write_pong(bencher: Bencher<'_, '_>) {
    let endpoint = Some(Endpoint::new([50, 0, 0, 1], 4_000));
    write(bencher, &Message::new(NodeId([1; 32]), Body::Pong, trailer(endpoint)));
}

#[divan::bench]
fn write_found_nodes_of_20(bencher: Bencher<'_, '_>) {
    let nodes = contacts();
    let reply =
        Message { nodes: &nodes, ..Message::new(NodeId([1; 32]), Body::FoundNodes, trailer(None)) };
    write(bencher, &reply);
}

fn seal() -> Seal {
    let key = NetworkKey::new(&[7; 32]).expect("a key");
    let network = Network::Sealed { key, older: Vec::new() };
    Seal::new(&network, [1; 24])
}

/// What sealing adds to a packet of so many bytes.
#[divan::bench(args = [33, 65, 416, 817])]
fn seal_bytes(bencher: Bencher<'_, '_>, len: usize) {
    let (mut seal, packet) = (seal(), vec![1; len]);
    let mut out = Vec::with_capacity(native::MAX_SENT);
    bencher.bench_local(|| {
        out.clear();
        seal.append(&mut out, |out| {
            out.extend_from_slice(black_box(&packet));
            Some(len)
        })
    });
}

/// What opening adds to it.
#[divan::bench(args = [33, 65, 416, 817])]
fn open_bytes(bencher: Bencher<'_, '_>, len: usize) {
    let (mut seal, packet) = (seal(), vec![1; len]);
    let mut sealed = Vec::new();
    let write = |out: &mut Vec<u8>| {
        out.extend_from_slice(&packet);
        Some(len)
    };
    seal.append(&mut sealed, write).expect("it fits");
    let mut datagram = sealed.clone();
    bencher.bench_local(|| {
        datagram.copy_from_slice(black_box(&sealed));
        seal.open(&mut datagram).is_some()
    });
}
