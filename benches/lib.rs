//! End-to-end benchmarks of the workspace.
