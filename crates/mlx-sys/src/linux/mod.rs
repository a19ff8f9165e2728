//! What only Linux needs: opening `libmlx.so`, and a clock that mlx-rs expects.

mod clock;
mod loader;

pub use loader::{LoadError, load};
