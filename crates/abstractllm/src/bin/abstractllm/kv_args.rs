//! What can be said about keys and values.

use abstractllm::mlx::{KvCacheOptions, KvQuantize, KvWindow};
use clap::Args;

/// How the keys and values of long conversations are kept.
#[derive(Debug, Args)]
#[command(next_help_heading = "Long contexts")]
pub(crate) struct KvArgs {
    /// Packs keys and values into this many bits, 8 or 4: less memory, rounded
    #[arg(long, value_name = "BITS", conflicts_with = "max_kv_size")]
    kv_bits: Option<i32>,
    /// Values that share a scale: 32, 64 or 128 [default: 64]
    #[arg(long, value_name = "N", requires = "kv_bits")]
    kv_group_size: Option<i32>,
    /// Tokens up to which nothing is packed [default: 5000]
    #[arg(long, value_name = "N", requires = "kv_bits")]
    quantized_kv_start: Option<usize>,
    /// Most tokens that are kept: the first four and the last ones. The model forgets what is between
    #[arg(long, value_name = "N")]
    max_kv_size: Option<usize>,
}

impl KvArgs {
    pub(crate) fn options(&self) -> KvCacheOptions {
        let usual = KvQuantize::default();
        let quantize = self.kv_bits.map(|bits| KvQuantize {
            bits,
            group_size: self.kv_group_size.unwrap_or(usual.group_size),
            start_tokens: self.quantized_kv_start.unwrap_or(usual.start_tokens),
        });
        KvCacheOptions { quantize, window: self.max_kv_size.map(KvWindow::new) }
    }
}
