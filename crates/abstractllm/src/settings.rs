//! How the settings of each provider become its typed options.

#[cfg(any(feature = "anthropic", feature = "openai"))]
pub(crate) mod http;
#[cfg(feature = "mlx")]
mod kv_cache;
#[cfg(feature = "mlx")]
pub(crate) mod mlx;
