//! Qwen2 and Qwen2.5: the plain decoder with biases on queries, keys and values. It is the text half of
//! Qwen2-VL and Qwen2.5-VL, where positions have three axes.
//!
//! Sources: arXiv:2407.10671; transformers `modeling_qwen2.py`.

use super::{
    decoder::Spec,
    text_config::{Defaults, TextConfig},
};

const DEFAULTS: Defaults =
    Defaults { eps: 1e-6, rope_base: 10_000.0, context_tokens: 32_768, tied: false };

/// Returns the decoder of a configuration.
pub(super) fn spec(config: &TextConfig) -> Result<Spec, String> {
    spec_with(config, DEFAULTS)
}

/// As [`spec`], with what a configuration leaves out.
pub(super) fn spec_with(config: &TextConfig, defaults: Defaults) -> Result<Spec, String> {
    config.has_no_window()?;
    Ok(Spec { attention_bias: true, ..config.spec(defaults)? })
}
