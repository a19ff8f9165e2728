//! Qwen3, dense and with experts: the plain decoder, whose queries and keys are normalised head by head
//! instead of having biases. In the larger ones, most MLPs are many small ones of which a token takes a
//! few.
//!
//! Sources: arXiv:2505.09388; transformers `modeling_qwen3.py`, `modeling_qwen3_moe.py`.

use super::{
    decoder::Spec,
    text_config::{Defaults, TextConfig, need},
};
use crate::nn::Experts;

const DEFAULTS: Defaults =
    Defaults { eps: 1e-6, rope_base: 10_000.0, context_tokens: 32_768, tied: false };

/// Returns the dense decoder of a configuration.
pub(super) fn spec(config: &TextConfig) -> Result<Spec, String> {
    spec_with(config, DEFAULTS)
}

/// As [`spec`], with what a configuration leaves out.
pub(super) fn spec_with(config: &TextConfig, defaults: Defaults) -> Result<Spec, String> {
    config.has_no_window()?;
    let bias = config.attention_bias.unwrap_or(false);
    let plain = config.spec(defaults)?;
    Ok(Spec { head_norms: true, attention_bias: bias, output_bias: bias, ..plain })
}

/// Returns the decoder with experts of a configuration.
pub(super) fn spec_of_experts(config: &TextConfig) -> Result<Spec, String> {
    spec_of_experts_with(config, DEFAULTS)
}

/// As [`spec_of_experts`], with what a configuration leaves out.
pub(super) fn spec_of_experts_with(
    config: &TextConfig,
    defaults: Defaults,
) -> Result<Spec, String> {
    let experts = Experts {
        count: need(config.num_experts, "num_experts")?,
        per_token: need(config.num_experts_per_tok, "num_experts_per_tok")?,
        inner: need(config.moe_intermediate_size, "moe_intermediate_size")?,
        normalised: config.norm_topk_prob.unwrap_or(false),
    };
    let step = config.decoder_sparse_step.unwrap_or(1).max(1);
    let dense = config.mlp_only_layers.as_deref().unwrap_or_default();
    let mut spec = spec_with(config, defaults)?;
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        let sparse = experts.count > 0 && (i + 1) % step == 0 && !dense.contains(&i);
        layer.experts = sparse.then_some(experts);
    }
    Ok(spec)
}
