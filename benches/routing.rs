//! What finding the 20 nearest contacts costs, by ids seen: `cargo bench --bench routing`.

use std::time::Duration;

use arrayvec::ArrayVec;
use chacha20::ChaCha20Rng;
use divan::{Bencher, black_box};
use kadepy::dht::routing::{MAX_CLOSEST, Table};
use kadepy::{Config, Contact, Endpoint, NodeId, Time};
use rand_core::{Rng, SeedableRng};

fn main() {
    divan::main();
}

#[divan::bench(args = [300, 10_000, 100_000])]
fn closest_20(bencher: Bencher<'_, '_>, ids_seen: u32) {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let mut random_id = || {
        let mut id = NodeId::ZERO;
        rng.fill_bytes(&mut id.0);
        id
    };
    let mut table = Table::new(Time::ZERO, random_id(), &Config::default());
    for index in 0..ids_seen {
        let [a, b, c, d] = (0x3200_0000 + index).to_be_bytes();
        let contact = Contact { id: random_id(), endpoint: Endpoint::new([a, b, c, d], 4_000) };
        let _ = table.answered(Time::ZERO, contact, Duration::from_millis(1));
    }
    let targets: Vec<NodeId> = (0..1_024).map(|_| random_id()).collect();
    let mut turn = 0;
    bencher.bench_local(|| {
        turn = (turn + 1) % targets.len();
        let mut closest = ArrayVec::<Contact, MAX_CLOSEST>::new();
        let target = black_box(&targets[turn]);
        table.append_closest(target, 20, |entry| entry.is_reliable(), &mut closest);
        black_box(closest.len())
    });
}
