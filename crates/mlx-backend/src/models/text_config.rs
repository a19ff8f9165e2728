//! The fields of `config.json` that decoders of all families share, under the names of transformers.

use serde::Deserialize;
use serde_json::Value;

use super::{
    decoder::{Axes, LayerSpec, RopeSpec, Scaling, Spec},
    sizes,
};
use crate::nn::Activation;

/// What a decoder reads of `config.json`. What is absent has the default of its family, which the
/// family's file fills in.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct TextConfig {
    pub(crate) model_type: Option<String>,
    /// That of `text_config` alone.
    #[serde(skip)]
    pub(crate) text_model_type: Option<String>,
    pub(crate) hidden_size: Option<i32>,
    pub(crate) num_hidden_layers: Option<usize>,
    pub(crate) intermediate_size: Option<i32>,
    pub(crate) num_attention_heads: Option<i32>,
    pub(crate) num_key_value_heads: Option<i32>,
    pub(crate) head_dim: Option<i32>,
    pub(crate) rms_norm_eps: Option<f32>,
    pub(crate) vocab_size: Option<i32>,
    pub(crate) max_position_embeddings: Option<usize>,
    pub(crate) rope_theta: Option<f32>,
    rope_scaling: Option<RopeParameters>,
    /// The newer name, which holds the base too.
    rope_parameters: Option<RopeParameters>,
    pub(crate) tie_word_embeddings: Option<bool>,
    hidden_act: Option<String>,
    hidden_activation: Option<String>,
    pub(crate) attention_bias: Option<bool>,
    pub(crate) mlp_bias: Option<bool>,
    use_sliding_window: Option<bool>,
    pub(crate) num_experts: Option<i32>,
    pub(crate) num_experts_per_tok: Option<i32>,
    pub(crate) moe_intermediate_size: Option<i32>,
    pub(crate) norm_topk_prob: Option<bool>,
    pub(crate) decoder_sparse_step: Option<usize>,
    pub(crate) mlp_only_layers: Option<Vec<usize>>,
    pub(crate) attn_logit_softcapping: Option<f32>,
    pub(crate) final_logit_softcapping: Option<f32>,
    pub(crate) query_pre_attn_scalar: Option<f32>,
    pub(crate) rope_local_base_freq: Option<f32>,
    pub(crate) sliding_window: Option<i32>,
    #[serde(alias = "_sliding_window_pattern")]
    pub(crate) sliding_window_pattern: Option<usize>,
    /// The newer form of the pattern: `sliding_attention` or `full_attention` for each layer.
    pub(crate) layer_types: Option<Vec<String>>,
}

/// How positions turn queries and keys.
#[derive(Clone, Debug, Default, Deserialize)]
struct RopeParameters {
    rope_theta: Option<f32>,
    #[serde(alias = "type")]
    rope_type: Option<String>,
    factor: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
    original_max_position_embeddings: Option<f32>,
    mrope_section: Option<[usize; 3]>,
    mrope_interleaved: Option<bool>,
}

/// What a family takes where `config.json` says nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Defaults {
    pub(crate) eps: f32,
    pub(crate) rope_base: f32,
    pub(crate) context_tokens: usize,
    pub(crate) tied: bool,
}

/// Returns the field `name`, which has no default.
///
/// # Errors
/// A sentence that says that it is missing.
pub(crate) fn need<T>(value: Option<T>, name: &str) -> Result<T, String> {
    value.ok_or_else(|| format!("expected `{name}`, found none"))
}

impl TextConfig {
    /// Reads the decoder's fields of a whole `config.json`: newer ones nest them in `text_config`,
    /// and fields outside fill in.
    ///
    /// # Errors
    /// A sentence with the field that is of another type.
    pub(crate) fn read(config: &Value) -> Result<Self, String> {
        let mut fields = config.clone();
        if let (Some(outer), Some(inner)) = (fields.as_object_mut(), config.get("text_config"))
            && let Some(inner) = inner.as_object()
        {
            outer.extend(inner.clone());
        }
        let mut read: Self = serde_json::from_value(fields).map_err(|e| e.to_string())?;
        let inner = config.get("text_config").and_then(|text| text.get("model_type"));
        read.text_model_type = inner.and_then(Value::as_str).map(str::to_owned);
        Ok(read)
    }

    /// Leaves the activation to the family.
    pub(crate) fn forget_activation(&mut self) {
        (self.hidden_act, self.hidden_activation) = (None, None);
    }

    /// Returns a plain decoder of these sizes: no biases, and every layer alike.
    ///
    /// # Errors
    /// A sentence with what is missing, or with both values that do not fit.
    pub(crate) fn spec(&self, defaults: Defaults) -> Result<Spec, String> {
        let hidden = need(self.hidden_size, "hidden_size")?;
        let layers = need(self.num_hidden_layers, "num_hidden_layers")?;
        sizes::check_layers(layers)?;
        let heads = need(self.num_attention_heads, "num_attention_heads")?;
        let head_dim = match self.head_dim {
            Some(head_dim) => head_dim,
            None if heads > 0 && hidden % heads == 0 => hidden / heads,
            None => {
                return Err(format!(
                    "hidden_size {hidden} does not divide into {heads} even heads"
                ));
            }
        };
        let rope = self.rope(head_dim, defaults.rope_base)?;
        let layer = LayerSpec { rope, window: None, experts: None };
        Ok(Spec {
            hidden,
            inner: need(self.intermediate_size, "intermediate_size")?,
            heads,
            key_value_heads: self.num_key_value_heads.unwrap_or(heads),
            head_dim,
            vocabulary: need(self.vocab_size, "vocab_size")?,
            context_tokens: self.max_position_embeddings.unwrap_or(defaults.context_tokens),
            layers: vec![layer; layers],
            eps: self.rms_norm_eps.unwrap_or(defaults.eps),
            attention_scale: (head_dim as f32).powf(-0.5),
            attention_bias: false,
            output_bias: false,
            mlp_bias: false,
            head_norms: false,
            after_norms: false,
            norms_add_one: false,
            activation: self.activation()?,
            embedding_scale: None,
            tied: self.tie_word_embeddings.unwrap_or(defaults.tied),
        })
    }

    /// Refuses windows where a family has them as an option that published checkpoints do not use.
    ///
    /// # Errors
    /// A sentence that says that there is one.
    pub(crate) fn has_no_window(&self) -> Result<(), String> {
        match self.use_sliding_window {
            Some(true) => Err("expected `use_sliding_window` false, found true".to_owned()),
            Some(false) | None => Ok(()),
        }
    }

    fn activation(&self) -> Result<Activation, String> {
        match self.hidden_activation.as_deref().or(self.hidden_act.as_deref()) {
            None | Some("silu") => Ok(Activation::Silu),
            Some("gelu_pytorch_tanh") => Ok(Activation::GeluTanh),
            Some(other) => {
                Err(format!("expected `hidden_act` silu or gelu_pytorch_tanh, found {other}"))
            }
        }
    }

    fn rope(&self, dims: i32, base: f32) -> Result<RopeSpec, String> {
        let given = || self.rope_scaling.iter().chain(&self.rope_parameters);
        let theta = self.rope_theta.or_else(|| given().find_map(|p| p.rope_theta));
        let sections = given().find_map(|p| p.mrope_section);
        let interleaved = given().find_map(|p| p.mrope_interleaved).unwrap_or(false);
        let sum = |sections: [usize; 3]| sections.into_iter().fold(0, usize::saturating_add);
        let axes = match sections {
            None => Axes::One,
            Some(sections) if sum(sections).saturating_mul(2) != dims.unsigned_abs() as usize => {
                return Err(format!(
                    "mrope_section sums to {}, expected half the head size of {dims}",
                    sum(sections)
                ));
            }
            Some(sections) if interleaved => Axes::Interleaved(sections),
            Some(sections) => Axes::Sections(sections),
        };
        let scaled = given().find_map(|p| p.rope_type.as_deref().map(|kind| (kind, p)));
        let scaling = match scaled {
            None | Some(("default" | "mrope", _)) => Scaling::None,
            Some((kind @ ("linear" | "llama3"), p)) => {
                let factor = p.factor.filter(|&f| f > 0.0).ok_or_else(|| {
                    format!("expected a positive `factor` for rope_scaling {kind}, found none")
                })?;
                match kind {
                    "linear" => Scaling::Linear(factor),
                    _ => Scaling::Llama3 {
                        factor,
                        low: p.low_freq_factor.unwrap_or(1.0),
                        high: p.high_freq_factor.unwrap_or(4.0),
                        original: p.original_max_position_embeddings.unwrap_or(8192.0),
                    },
                }
            }
            Some((other, _)) => {
                return Err(format!(
                    "expected rope_scaling default, linear, llama3 or mrope, found {other}"
                ));
            }
        };
        Ok(RopeSpec { dims, base: theta.unwrap_or(base), scaling, axes })
    }
}
