//! Benchmarks, which live in the package `benches` so that nobody else compiles what they need.

use std::time::SystemTime;

use crate::{
    ci::{Result, cargo, run},
    table,
};

/// All criterion benches of the workspace, and a table of what they measured.
pub(crate) fn all(options: &[&str]) -> Result {
    let started = SystemTime::now();
    run(cargo("bench --workspace --bench * --").args(options))?;
    table::write(started)
}

/// Each stage of preprocessing by itself.
pub(crate) fn stages(options: &[&str]) -> Result {
    run(cargo("bench -p benches --bench stages --").args(options))
}

/// Generation, by itself or beside mlx-vlm; the options are those of `benches/generate`.
pub(crate) fn generate(options: &[&str]) -> Result {
    run(cargo("run --release -p benches --bin generate -- run").args(options))
}

/// Writes a checkpoint of true size with random weights.
pub(crate) fn checkpoint(options: &[&str]) -> Result {
    run(cargo("run --release -p benches --bin generate -- make").args(options))
}

/// Whole jobs beside the programs that others use.
pub(crate) fn peers(options: &[&str]) -> Result {
    run(cargo("run --release -p benches --bin preproc -- peers").args(options))
}

/// Each stage of a letterbox by itself, and the whole.
pub(crate) fn floors(options: &[&str]) -> Result {
    run(cargo("run --release -p benches --bin preproc -- floors").args(options))
}

/// Two images on two threads beside two on one.
pub(crate) fn threads(options: &[&str]) -> Result {
    run(cargo("run --release -p benches --bin preproc -- threads").args(options))
}

/// The second question about a picture beside mlx-vlm.
pub(crate) fn cache(options: &[&str]) -> Result {
    run(cargo("run --release -p benches --bin cache -- run").args(options))
}
