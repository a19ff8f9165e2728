//! Benchmarks of the workspace: `preproc/` measures preprocessing, `cache/` the second question
//! about a picture, both beside their peers.

pub mod python;
