//! Benchmarks, which live in the package `benches` so that nobody else compiles what they need.

use crate::ci::{Result, cargo, run};

/// Each stage of preprocessing by itself.
pub(crate) fn stages(options: &[&str]) -> Result {
    run(cargo("bench -p benches --bench stages --").args(options))
}

/// Whole jobs beside the programs that others use.
pub(crate) fn peers(options: &[&str]) -> Result {
    run(cargo("run --release -p benches --bin preproc -- peers").args(options))
}

/// The second question about a picture beside mlx-vlm.
pub(crate) fn cache(options: &[&str]) -> Result {
    run(cargo("run --release -p benches --bin cache -- run").args(options))
}
