//! A vision transformer on frames of one size, as CLIP and SigLIP.
//!
//! ```text
//!          class? .
//! frame -> patches |-> + positions -> norm? -> block * depth -> norm? -> [F, N, E]
//! ```
//!
//! Sources: arXiv:2010.11929; arXiv:2103.00020 (CLIP), arXiv:2303.15343 (SigLIP).
//!
//! `F` frames, `N` patches of a frame and the class if there is one, `E` hidden.

use mlx_rs::{Array, error::Result as MlxResult, ops, ops::indexing::TryIndexOp};
use serde::Deserialize;

use super::{Encoder, EncoderSpec, Heads, Names, PatchEmbed};
use crate::{
    Result,
    guard::{FrameFootprint, TowerFootprint},
    models::{
        sizes::{self, MAX_JOINED},
        vlm,
    },
    nn::{Activation, LayerNorm},
    weights::Scope,
};

/// The fields of `vision_config`; the defaults are those that published checkpoints rely on.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(in crate::models) struct VitConfig {
    model_type: String,
    hidden_size: i32,
    intermediate_size: i32,
    num_hidden_layers: usize,
    num_attention_heads: i32,
    num_channels: i32,
    image_size: i32,
    patch_size: i32,
    layer_norm_eps: Option<f32>,
    hidden_act: Option<String>,
}

impl Default for VitConfig {
    fn default() -> Self {
        Self {
            model_type: String::new(),
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 16,
            layer_norm_eps: None,
            hidden_act: None,
        }
    }
}

impl VitConfig {
    /// Whether it is CLIP, which has a class, a norm before the blocks and no bias of patches.
    pub(in crate::models) fn is_clip(&self) -> bool {
        self.model_type == "clip_vision_model"
    }

    /// Blocks.
    pub(in crate::models) fn depth(&self) -> usize {
        self.num_hidden_layers
    }

    pub(in crate::models) fn hidden(&self) -> i32 {
        self.hidden_size
    }

    /// What norms add to a variance.
    pub(in crate::models) fn eps(&self) -> f32 {
        self.layer_norm_eps.unwrap_or(if self.is_clip() { 1e-5 } else { 1e-6 })
    }

    /// Patches along a side of a frame.
    pub(in crate::models) fn side(&self) -> i32 {
        self.image_size / self.patch_size
    }

    fn heads(&self) -> Heads {
        let count = self.num_attention_heads;
        Heads { count, dim: self.hidden_size / count }
    }

    fn activation(&self) -> Result<Activation, String> {
        match (self.hidden_act.as_deref(), self.is_clip()) {
            (Some("quick_gelu"), _) | (None, true) => Ok(Activation::GeluQuick),
            (Some("gelu_pytorch_tanh"), _) | (None, false) => Ok(Activation::GeluTanh),
            (Some("gelu"), _) => Ok(Activation::Gelu),
            (Some(other), _) => Err(format!(
                "vision_config: expected `hidden_act` quick_gelu, gelu or gelu_pytorch_tanh, found \
                 {other}"
            )),
        }
    }

    /// Returns the sizes that decide how much memory it takes, where `merge * merge` patches become a
    /// feature of `features` values.
    pub(in crate::models) fn footprint(&self, merge: i32, features: i32) -> TowerFootprint {
        // Validated to be positive.
        let size = |value: i32| u64::from(value.unsigned_abs());
        TowerFootprint {
            patch_values: size(self.num_channels * self.patch_size * self.patch_size),
            hidden: size(self.hidden_size),
            inner: size(self.intermediate_size),
            heads: size(self.num_attention_heads),
            head_dim: size(self.heads().dim),
            merge: size(merge),
            features: size(features),
            window_patches: 0,
            frame: Some(FrameFootprint {
                side: self.image_size.unsigned_abs(),
                patch: self.patch_size.unsigned_abs(),
            }),
            together: 0,
        }
    }

    /// Checks what later arithmetic relies on; `merge` patches along each side become a feature.
    ///
    /// # Errors
    /// A sentence with both values that do not fit.
    pub(in crate::models) fn validate(&self, merge: i32) -> Result<(), String> {
        vlm::positive(&[
            self.hidden_size,
            self.intermediate_size,
            self.num_attention_heads,
            self.num_channels,
            self.image_size,
            self.patch_size,
            merge,
        ])?;
        sizes::check(&[("scale_factor", merge, MAX_JOINED)])?;
        vlm::even_heads("hidden_size", self.hidden_size, self.num_attention_heads)?;
        self.activation()?;
        match self.image_size % (self.patch_size * merge) {
            0 => Ok(()),
            _ => Err(format!(
                "vision_config: image_size {} is no multiple of {merge} patches of {}",
                self.image_size, self.patch_size
            )),
        }
    }
}

/// The transformer.
#[derive(Debug)]
pub(in crate::models) struct Vit {
    patch_embed: PatchEmbed,
    /// `[1, 1, E]`.
    class: Option<Array>,
    /// `[N, E]`.
    positions: Array,
    pre_norm: Option<LayerNorm>,
    blocks: Encoder,
    post_norm: Option<LayerNorm>,
    channels: i32,
    side: i32,
    patch: i32,
}

impl Vit {
    /// Takes `embeddings`, `encoder` and the norms. Of the blocks the first `depth` are used; what comes
    /// after all of them, only if `post_norm`.
    pub(in crate::models) fn load(
        config: &VitConfig,
        scope: &Scope<'_>,
        depth: usize,
        post_norm: bool,
    ) -> Result<Self> {
        let (hidden, clip) = (config.hidden_size, config.is_clip());
        let eps = config.eps();
        let spec = EncoderSpec {
            depth,
            heads: config.heads(),
            inner: config.intermediate_size,
            // Validated.
            activation: config.activation().unwrap_or(Activation::GeluTanh),
            eps,
            names: Names::HUGGING_FACE,
        };
        let norm = |name| LayerNorm::load(&scope.sub(name), hidden, eps);
        let (embeddings, layers) = (scope.sub("embeddings"), scope.sub("encoder.layers"));
        let kernel = [config.num_channels, config.patch_size, config.patch_size];
        let places = config.side() * config.side() + i32::from(clip);
        let class = || -> Result<Array> {
            let class = embeddings.take("class_embedding", &[hidden])?;
            class.reshape(&[1, 1, hidden]).map_err(|e| crate::nn::mlx_error("class", &e))
        };
        let vit = Self {
            patch_embed: PatchEmbed::load(
                &embeddings.sub("patch_embedding"),
                hidden,
                &kernel,
                !clip,
            )?,
            class: clip.then(class).transpose()?,
            positions: embeddings.take("position_embedding.weight", &[places, hidden])?,
            pre_norm: clip.then(|| norm("pre_layrnorm")).transpose()?,
            blocks: Encoder::load(&spec, &layers)?,
            post_norm: post_norm.then(|| norm("post_layernorm")).transpose()?,
            channels: config.num_channels,
            side: config.side(),
            patch: config.patch_size,
        };
        // What only those need who want more of it than features of patches.
        (depth..config.depth()).for_each(|i| layers.sub(i.to_string()).forget());
        ["post_layernorm", "head"].into_iter().for_each(|name| scope.sub(name).forget());
        Ok(vit)
    }

    /// The values of `F` frames, channel by channel, to `[F, N, E]` without the class.
    pub(in crate::models) fn forward(&self, pixels: &Array) -> MlxResult<Array> {
        let Self { channels: c, side: n, patch: p, .. } = *self;
        let x = pixels.reshape(&[-1, c, n, p, n, p])?.transpose_axes(&[0, 2, 4, 1, 3, 5])?;
        let x = self.patch_embed.forward(&x.reshape(&[x.dim(0), n * n, c * p * p])?)?;
        let x = match &self.class {
            None => x,
            Some(class) => {
                let class = ops::broadcast_to(class, &[x.dim(0), 1, x.dim(2)])?;
                ops::concatenate(&[class, x], 1)?
            }
        };
        let x = x.add(&self.positions)?;
        let norm = |norm: &Option<LayerNorm>, x: Array| match norm {
            Some(norm) => norm.forward(&x),
            None => Ok(x),
        };
        let x = self.blocks.forward(norm(&self.pre_norm, x)?, None, |_, _| Ok(()))?;
        let x = norm(&self.post_norm, x)?;
        if self.class.is_some() { x.try_index((.., 1.., ..)) } else { Ok(x) }
    }
}
