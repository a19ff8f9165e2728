//! Qwen2-VL: the Qwen2 decoder, and a tower in which every patch of a frame attends to every other.
//!
//! Sources: arXiv:2409.12191; transformers `modeling_qwen2_vl.py`.
//!
//! `T` frames, `N` patches of a frame, `E` values of a patch between blocks. Patches come in groups of
//! `merge²` that become one feature each.

use mlx_rs::{Array, error::Result as MlxResult};
use serde::Deserialize;
use vision_preproc::Grid;

use super::{
    qwen_vl, qwen2,
    text_config::Defaults,
    vision::{Encoder, EncoderSpec, Heads, Names, PatchEmbed, frame_rotation},
    vlm::{self, Family, TowerConfig},
};
use crate::{
    Result,
    guard::TowerFootprint,
    nn::{Activation, LayerNorm, TwoLayerMlp},
    weights::Scope,
};

const EPS: f32 = 1e-6;
const DEFAULTS: Defaults =
    Defaults { eps: 1e-6, rope_base: 1e6, context_tokens: 32_768, tied: false };

pub(super) const FAMILY: Family = Family {
    text: |text| qwen2::spec_with(text, DEFAULTS),
    tower: vlm::vision_fields::<Config>,
    choices: qwen_vl::CHOICES,
};

/// The fields of `vision_config`, with upstream's defaults.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct Config {
    depth: usize,
    embed_dim: i32,
    /// Values of a feature.
    hidden_size: i32,
    mlp_ratio: f32,
    num_heads: i32,
    #[serde(alias = "in_chans")]
    in_channels: i32,
    patch_size: i32,
    spatial_merge_size: i32,
    temporal_patch_size: i32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            depth: 32,
            embed_dim: 1280,
            hidden_size: 3584,
            mlp_ratio: 4.0,
            num_heads: 16,
            in_channels: 3,
            patch_size: 14,
            spatial_merge_size: 2,
            temporal_patch_size: 2,
        }
    }
}

impl Config {
    /// Channel, time, y and x of a patch.
    fn kernel(&self) -> [i32; 4] {
        [self.in_channels, self.temporal_patch_size, self.patch_size, self.patch_size]
    }

    fn heads(&self) -> Heads {
        Heads { count: self.num_heads, dim: self.embed_dim / self.num_heads }
    }

    fn inner(&self) -> i32 {
        (self.embed_dim as f32 * self.mlp_ratio) as i32
    }
}

impl TowerConfig for Config {
    fn footprint(&self, _hidden: i32) -> TowerFootprint {
        // Validated to be positive.
        let size = |value: i32| u64::from(value.unsigned_abs());
        TowerFootprint {
            patch_values: size(self.in_channels * self.patch_size * self.patch_size),
            hidden: size(self.embed_dim),
            inner: size(self.inner()),
            heads: size(self.num_heads),
            head_dim: size(self.heads().dim),
            merge: size(self.spatial_merge_size),
            features: size(self.hidden_size),
            window_patches: 0,
            frame: None,
            together: 0,
        }
    }

    fn validate(&self, hidden: i32) -> Result<(), String> {
        let sizes = [self.embed_dim, self.num_heads, self.spatial_merge_size, self.inner()];
        vlm::positive(&[&sizes[..], &self.kernel()].concat())?;
        vlm::even_heads("embed_dim", self.embed_dim, self.num_heads)?;
        vlm::same_width("hidden_size", self.hidden_size, hidden)
    }

    fn load(&self, root: &Scope<'_>, _hidden: i32) -> Result<Box<dyn vlm::Tower>> {
        Ok(Box::new(Tower::load(self, &root.sub("vision_tower"))?))
    }
}

#[derive(Debug)]
struct Tower {
    patch_embed: PatchEmbed,
    blocks: Encoder,
    ln_q: LayerNorm,
    merger: TwoLayerMlp,
    config: Config,
}

impl Tower {
    fn load(config: &Config, scope: &Scope<'_>) -> Result<Self> {
        let (hidden, kernel) = (config.embed_dim, config.kernel());
        let spec = EncoderSpec {
            depth: config.depth,
            heads: config.heads(),
            inner: config.inner(),
            activation: Activation::GeluQuick,
            eps: EPS,
            names: Names::qwen(["fc1", "fc2"]),
        };
        let group = hidden * config.spatial_merge_size * config.spatial_merge_size;
        let (merger, dims) = (scope.sub("merger"), (group, group, config.hidden_size));
        Ok(Self {
            patch_embed: PatchEmbed::load(&scope.sub("patch_embed.proj"), hidden, &kernel, false)?,
            blocks: Encoder::load(&spec, &scope.sub("blocks"))?,
            ln_q: LayerNorm::load(&merger.sub("ln_q"), hidden, EPS)?,
            merger: TwoLayerMlp::load(&merger, ["mlp.0", "mlp.2"], dims, Activation::Gelu)?,
            config: config.clone(),
        })
    }
}

impl vlm::Tower for Tower {
    fn encode(&self, patches: &Array, grid: Grid) -> MlxResult<Array> {
        let merge = self.config.spatial_merge_size;
        let rotation = frame_rotation(self.config.heads().dim, grid, merge as usize)?;

        let x = self.patch_embed.forward(patches)?;
        let x = x.reshape(&[grid.t as i32, -1, self.config.embed_dim])?; // [T, N, E]
        let x = self.blocks.forward(x, Some(rotation), |_, _| Ok(()))?;
        let group = merge * merge * self.config.embed_dim;
        self.merger.forward(&self.ln_q.forward(&x)?.reshape(&[-1, group])?)
    }
}
