//! Benchmarks of the workspace beside their peers: `preproc/` measures preprocessing, `generate/`
//! generation, `cache/` the second question about a picture.

pub mod python;
