//! The C interface of MLX for [mlx-rs](https://docs.rs/mlx-rs), on Linux as well as on Apple
//! systems.
//!
//! On Apple systems this crate is the published mlx-sys 0.7.0: its sources, built by its own build
//! script. On Linux the bindings are the same, mlx-c is compiled against the headers of a Python
//! wheel, and [`linux::load`] opens the `libmlx.so` of that wheel or of another. The repository's
//! `docs/mlx-on-linux.md` tells how to choose between CPU and CUDA.

#[cfg(target_os = "linux")]
pub mod linux;

#[cfg_attr(target_os = "linux", path = "generated/linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "generated/published.rs")]
#[allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::doc_markdown,
    clippy::undocumented_unsafe_blocks,
    rustdoc::all,
    reason = "bindgen writes this module after C headers"
)]
mod bindings;

pub use bindings::*;
