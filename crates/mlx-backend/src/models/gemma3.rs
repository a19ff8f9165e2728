//! Gemma 3: most layers are local, where a token sees the last ones only, and every sixth is global,
//! where it sees all. Norms stand before and after attention and MLP, and the gate of the MLP is a GELU.
//!
//! ```text
//! local local local local local global local ..    each turns queries and keys in its own way
//! ```
//!
//! Sources: arXiv:2503.19786; transformers `modeling_gemma3.py`.

use super::{
    decoder::{Axes, LayerSpec, RopeSpec, Scaling, Spec},
    text_config::{Defaults, TextConfig},
};
use crate::nn::Activation;

const DEFAULTS: Defaults =
    Defaults { eps: 1e-6, rope_base: 1e6, context_tokens: 131_072, tied: true };
const LOCAL_ROPE_BASE: f32 = 1e4;
/// Upstream's sizes, which published checkpoints of the larger models leave out.
const HEADS: i32 = 8;
const KEY_VALUE_HEADS: i32 = 4;
const HEAD_DIM: i32 = 256;
const VOCABULARY: i32 = 262_208;
const WINDOW: i32 = 4096;
/// Every so many layers one is global.
const PATTERN: usize = 6;

/// Returns the decoder of a configuration.
pub(super) fn spec(config: &TextConfig) -> Result<Spec, String> {
    let head_dim = config.head_dim.unwrap_or(HEAD_DIM);
    let mut complete = config.clone();
    complete.num_attention_heads.get_or_insert(HEADS);
    complete.num_key_value_heads.get_or_insert(KEY_VALUE_HEADS);
    complete.head_dim = Some(head_dim);
    complete.vocab_size.get_or_insert(VOCABULARY);
    let mut spec = complete.spec(DEFAULTS)?;
    let local = LayerSpec {
        rope: RopeSpec {
            dims: head_dim,
            base: config.rope_local_base_freq.unwrap_or(LOCAL_ROPE_BASE),
            scaling: Scaling::None,
            axes: Axes::One,
        },
        window: Some(config.sliding_window.unwrap_or(WINDOW)),
        experts: None,
    };
    for (layer, is_local) in spec.layers.iter_mut().zip(locals(config)?) {
        if is_local {
            *layer = local;
        }
    }
    // As it was trained: the square root of 1152 is 34 in bfloat16.
    let scale = rounded_to_bfloat16((spec.hidden as f32).sqrt());
    let queries = config.query_pre_attn_scalar.unwrap_or(256.0);
    Ok(Spec {
        attention_scale: queries.powf(-0.5),
        head_norms: true,
        after_norms: true,
        norms_add_one: true,
        activation: Activation::GeluTanh,
        embedding_scale: Some(scale),
        ..spec
    })
}

/// Returns the nearest bfloat16; of two, the even one.
pub(super) fn rounded_to_bfloat16(value: f32) -> f32 {
    let bits = value.to_bits();
    f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}

/// Returns for each layer whether it is local.
fn locals(config: &TextConfig) -> Result<Vec<bool>, String> {
    let layers = config.num_hidden_layers.unwrap_or_default();
    let Some(types) = &config.layer_types else {
        let pattern = config.sliding_window_pattern.unwrap_or(PATTERN).max(1);
        return Ok((1..=layers).map(|layer| layer % pattern != 0).collect());
    };
    if types.len() != layers {
        return Err(format!("expected {layers} `layer_types`, found {}", types.len()));
    }
    let is_local = |kind: &String| match kind.as_str() {
        "sliding_attention" => Ok(true),
        "full_attention" => Ok(false),
        other => Err(format!(
            "expected sliding_attention or full_attention in `layer_types`, found {other}"
        )),
    };
    types.iter().map(is_local).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embeddings_are_scaled_as_in_training() {
        for (hidden, scale) in [(64.0, 8.0), (640.0, 25.25), (1152.0, 34.0), (2560.0, 50.5)] {
            assert_eq!(rounded_to_bfloat16(f32::sqrt(hidden)), scale);
        }
    }

    #[test]
    fn layers_are_local_by_pattern_or_by_name() {
        let config = |more: serde_json::Value| {
            let mut config = serde_json::json!({"hidden_size": 64, "intermediate_size": 64});
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            TextConfig::read(&config).unwrap()
        };
        let windows = |config: &TextConfig| {
            let layers = spec(config).unwrap().layers;
            layers.iter().map(|layer| layer.window).collect::<Vec<_>>()
        };
        let pattern = serde_json::json!({"num_hidden_layers": 7, "sliding_window": 512});
        let local = Some(512);
        assert_eq!(windows(&config(pattern)), [local, local, local, local, local, None, local]);
        let types = serde_json::json!({
            "num_hidden_layers": 2,
            "layer_types": ["full_attention", "sliding_attention"],
        });
        assert_eq!(windows(&config(types)), [None, Some(4096)]);
        let short = serde_json::json!({"num_hidden_layers": 2, "layer_types": []});
        assert_eq!(spec(&config(short)).unwrap_err(), "expected 2 `layer_types`, found 0");
    }
}
