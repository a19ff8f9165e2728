//! Gemma, the first: as Llama, with a GELU in the MLP, heads of a size of their own, embeddings that are
//! multiplied, and norms that are stored as their distance from 1.
//!
//! Sources: arXiv:2403.08295; transformers `modeling_gemma.py`.

use super::{
    decoder::Spec,
    gemma3::rounded_to_bfloat16,
    text_config::{Defaults, TextConfig},
};
use crate::nn::Activation;

const DEFAULTS: Defaults = Defaults { eps: 1e-6, rope_base: 1e4, context_tokens: 8192, tied: true };
/// Upstream's size, which published checkpoints leave out.
const HEAD_DIM: i32 = 256;

/// Returns the decoder of a configuration.
pub(super) fn spec(config: &TextConfig) -> Result<Spec, String> {
    if config.attn_logit_softcapping.is_some() || config.final_logit_softcapping.is_some() {
        return Err(
            "expected no `attn_logit_softcapping` and no `final_logit_softcapping`, found one: \
                    Gemma 2 is not supported"
                .to_owned(),
        );
    }
    let mut complete = config.clone();
    complete.head_dim.get_or_insert(HEAD_DIM);
    // Whatever is written there: it was trained with this one.
    complete.forget_activation();
    let spec = complete.spec(DEFAULTS)?;
    let scale = rounded_to_bfloat16((spec.hidden as f32).sqrt());
    Ok(Spec {
        norms_add_one: true,
        activation: Activation::GeluTanh,
        embedding_scale: Some(scale),
        ..spec
    })
}
