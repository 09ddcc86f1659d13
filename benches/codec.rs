//! What reading and writing one packet costs: `cargo bench --bench codec`.

use divan::{Bencher, black_box};
use kadepy::wire::message::{Body, Message, Trailer, TxId};
use kadepy::wire::native::{self, Lists};
use kadepy::{Contact, Endpoint, NodeId};

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
