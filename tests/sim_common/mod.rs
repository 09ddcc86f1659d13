//! What every test of the simulator begins with: its seed.

/// The seed of a run: `KADEPY_SEED` where it is set, else `default`. It is printed, so that a
/// failure shows it.
pub fn seed(default: u64) -> u64 {
    let seed =
        std::env::var("KADEPY_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    println!("KADEPY_SEED={seed}");
    seed
}
