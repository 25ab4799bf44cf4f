//! What needs root: BPF programs are loaded.

mod bpf;
mod choose;
mod decide;
mod rows;

use rand::SeedableRng;
use rand::rngs::StdRng;

/// A generator whose seed is printed, or comes from `BEELINE_SEED`.
fn seeded(test: &str) -> StdRng {
    let seed = match std::env::var("BEELINE_SEED") {
        Ok(text) => text.parse().expect("BEELINE_SEED is a number"),
        Err(_) => rand::random::<u64>(),
    };
    println!("{test}: BEELINE_SEED={seed}");
    StdRng::seed_from_u64(seed)
}
