//! Llama 2 and 3, and models of their shape such as `SmolLM2`: the plain decoder, with frequencies that
//! are stretched for long contexts from Llama 3.1 on.
//!
//! Sources: arXiv:2407.21783; transformers `modeling_llama.py`.

use super::{
    decoder::Spec,
    text_config::{Defaults, TextConfig},
};

const DEFAULTS: Defaults =
    Defaults { eps: 1e-6, rope_base: 10_000.0, context_tokens: 2048, tied: false };

/// Returns the decoder of a configuration.
pub(super) fn spec(config: &TextConfig) -> Result<Spec, String> {
    let attention_bias = config.attention_bias.unwrap_or(false);
    Ok(Spec {
        attention_bias,
        output_bias: attention_bias,
        mlp_bias: config.mlp_bias.unwrap_or(false),
        ..config.spec(DEFAULTS)?
    })
}
