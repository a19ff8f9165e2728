//! Benchmarks of the workspace; `preproc/` measures preprocessing, by stages and beside its peers.
