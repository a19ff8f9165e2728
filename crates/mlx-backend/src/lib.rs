//! Runs vision-language models on MLX behind the llm-core provider trait.
#![deny(unsafe_code)]

mod error;

pub use crate::error::{Error, ImageError, LoadError, Result};
