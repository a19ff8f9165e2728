//! What only Linux needs: opening `libmlx.so`, a better BLAS for it, and a clock for mlx-rs.

mod blas;
mod clock;
mod loader;

pub use blas::{Sgemm, replace_sgemm};
pub use loader::{LoadError, load};
