//! What can be said about keys and values.

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
    /// Returns option, key and value of each that was given.
    pub(crate) fn settings(&self) -> impl Iterator<Item = (&'static str, &'static str, String)> {
        let size = |value: Option<usize>| value.map(|value| value.to_string());
        let said = [
            ("--kv-bits", "kv_bits", self.kv_bits.map(|bits| bits.to_string())),
            ("--kv-group-size", "kv_group_size", self.kv_group_size.map(|n| n.to_string())),
            ("--quantized-kv-start", "quantized_kv_start", size(self.quantized_kv_start)),
            ("--max-kv-size", "max_kv_size", size(self.max_kv_size)),
        ];
        said.into_iter().filter_map(|(option, key, value)| Some((option, key, value?)))
    }
}
