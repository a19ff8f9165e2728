//! Properties that hold for any input, tried on random ones.
//!
//! The random numbers start from a fixed seed, so that a run today and one tomorrow try the same inputs. To look
//! further: `PROPTEST_CASES=100000 PROPTEST_RNG_SEED=7 cargo test -p vision-preproc --test properties`.

mod config;
mod decode;
mod geometry;
mod resize;

use proptest::test_runner::{Config, RngSeed};

/// `cases` from a fixed seed, unless the environment asks for other ones.
fn cases(cases: u32) -> Config {
    let mut config = Config { failure_persistence: None, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    if std::env::var_os("PROPTEST_RNG_SEED").is_none() {
        config.rng_seed = RngSeed::Fixed(1);
    }
    config
}
