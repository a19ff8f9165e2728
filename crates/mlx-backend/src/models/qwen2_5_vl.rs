//! Qwen2.5-VL: the Qwen2 decoder, and a tower of which most blocks attend within windows of 8 x 8
//! patches, a few over the whole frame.
//!
//! Sources: arXiv:2502.13923, section 2.1.1; transformers `modeling_qwen2_5_vl.py`.
//!
//! `T` frames, `N` patches of a frame, `E` hidden, `D` head size. Patches come in groups of `merge²`
//! that become one feature each; a group is never torn apart.

use mlx_rs::{Array, error::Result as MlxResult};
use serde::Deserialize;
use vision_preproc::Grid;

use super::{
    qwen_vl, qwen2,
    text_config::Defaults,
    vision::{Attention, Heads, Pass, PatchEmbed, Windows, patch_places, rotation},
    vlm::{self, Choices, Family, TowerConfig},
};
use crate::{
    Result,
    device::Backend,
    guard::TowerFootprint,
    nn::{Activation, Mlp, RmsNorm, TwoLayerMlp},
    weights::Scope,
};

const EPS: f32 = 1e-6;
/// Upstream's: the 3B checkpoint says nothing of a head and has none of its own.
const DEFAULTS: Defaults =
    Defaults { eps: 1e-6, rope_base: 1e6, context_tokens: 128_000, tied: true };

pub(super) const FAMILY: Family = Family {
    text: |text| qwen2::spec_with(text, DEFAULTS),
    tower: vlm::vision_fields::<Config>,
    choices: Choices { tokens_per_second: Some(4.0), ..qwen_vl::CHOICES },
};

/// The fields of `vision_config` that the tower reads, with upstream's defaults.
#[derive(Clone, Debug, Deserialize)]
struct Config {
    #[serde(default = "default_depth")]
    depth: usize,
    #[serde(default = "default_hidden")]
    hidden_size: i32,
    #[serde(default = "default_intermediate")]
    intermediate_size: i32,
    #[serde(default = "default_heads")]
    num_heads: i32,
    #[serde(default = "default_patch")]
    patch_size: i32,
    #[serde(default = "default_two")]
    temporal_patch_size: i32,
    /// Checkpoints name this `in_channels`, `in_chans` or both.
    #[serde(default)]
    in_channels: Option<i32>,
    #[serde(default)]
    in_chans: Option<i32>,
    #[serde(default = "default_two")]
    spatial_merge_size: i32,
    #[serde(default = "default_window")]
    window_size: i32,
    #[serde(default = "default_full_blocks")]
    fullatt_block_indexes: Vec<usize>,
    out_hidden_size: i32,
}

impl Config {
    fn kernel(&self) -> [i32; 4] {
        [self.channels(), self.temporal_patch_size, self.patch_size, self.patch_size]
    }

    fn channels(&self) -> i32 {
        self.in_channels.or(self.in_chans).unwrap_or(3)
    }

    fn head_dim(&self) -> i32 {
        self.hidden_size / self.num_heads
    }

    /// Side of a window in merged cells.
    fn window_cells(&self) -> usize {
        (self.window_size / self.patch_size / self.spatial_merge_size).max(1) as usize
    }
}

impl TowerConfig for Config {
    fn footprint(&self, _hidden: i32) -> TowerFootprint {
        // Validated to be positive.
        let size = |value: i32| u64::from(value.unsigned_abs());
        TowerFootprint {
            patch_values: size(self.channels() * self.patch_size * self.patch_size),
            hidden: size(self.hidden_size),
            inner: size(self.intermediate_size),
            heads: size(self.num_heads),
            head_dim: size(self.head_dim()),
            merge: size(self.spatial_merge_size),
            features: size(self.out_hidden_size),
            window_patches: {
                let side = self.window_cells() as u64 * size(self.spatial_merge_size);
                side * side
            },
            frame: None,
            together: 0,
        }
    }

    fn validate(&self, hidden: i32) -> Result<(), String> {
        let sizes = [self.hidden_size, self.num_heads, self.patch_size, self.spatial_merge_size];
        vlm::positive(&sizes)?;
        vlm::even_heads("hidden_size", self.hidden_size, self.num_heads)?;
        vlm::same_width("out_hidden_size", self.out_hidden_size, hidden)
    }

    fn load(&self, root: &Scope<'_>, _hidden: i32) -> Result<Box<dyn vlm::Tower>> {
        Ok(Box::new(Tower::load(self.clone(), &root.sub("vision_tower"))?))
    }
}

/// The tower.
#[derive(Debug)]
struct Tower {
    patch_embed: PatchEmbed,
    blocks: Vec<Block>,
    merger: Merger,
    config: Config,
    /// Whether MLX has a fused attention kernel for this head size on this device.
    fused: bool,
    backend: Backend,
}

impl Tower {
    fn load(config: Config, scope: &Scope<'_>) -> Result<Self> {
        let (hidden, backend) = (config.hidden_size, scope.backend());
        let blocks =
            (0..config.depth).map(|i| Block::load(&config, &scope.sub(format!("blocks.{i}"))));
        Ok(Self {
            patch_embed: PatchEmbed::load(
                &scope.sub("patch_embed.proj"),
                hidden,
                &config.kernel(),
                false,
            )?,
            blocks: blocks.collect::<Result<_>>()?,
            merger: Merger::load(&config, &scope.sub("merger"))?,
            fused: backend.fuses_attention(config.head_dim(), scope.dtype()),
            backend,
            config,
        })
    }
}

impl vlm::Tower for Tower {
    fn encode(&self, patches: &Array, grid: Grid) -> MlxResult<Array> {
        let merge = self.config.spatial_merge_size as usize;
        let windows = Windows::new(grid.h / merge, grid.w / merge, self.config.window_cells());
        let group = (merge * merge) as i32;
        let order = windows.patch_order(group as usize);

        let x = self.patch_embed.forward(patches)?;
        let x = x.reshape(&[grid.t as i32, -1, self.config.hidden_size])?; // [T, N, E]
        let mut x = x.take_axis(Array::from_slice(&order, &[order.len() as i32]), 1)?;

        let places = order.iter().map(|&patch| patch_places(patch as usize, grid.w, merge));
        let rotation = rotation(self.config.head_dim(), places)?;
        let pass = Pass::new(self.backend, self.fused, Some(rotation));
        for (i, block) in self.blocks.iter().enumerate() {
            let runs = match self.config.fullatt_block_indexes.contains(&i) {
                true => None,
                false => Some(windows.runs(group)),
            };
            x = block.forward(x, &pass, runs.as_deref())?;
        }
        let features = self.merger.forward(&x)?; // [T, N / merge², out]
        let back = windows.cell_positions();
        let features = features.take_axis(Array::from_slice(&back, &[back.len() as i32]), 1)?;
        features.reshape(&[-1, self.config.out_hidden_size])
    }
}

#[derive(Debug)]
struct Block {
    norm1: RmsNorm,
    norm2: RmsNorm,
    attn: Attention,
    mlp: Mlp,
}

impl Block {
    fn load(config: &Config, scope: &Scope<'_>) -> Result<Self> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let heads = Heads { count: config.num_heads, dim: config.head_dim() };
        let mlp = &scope.sub("mlp");
        Ok(Self {
            norm1: RmsNorm::load(&scope.sub("norm1"), hidden, EPS)?,
            norm2: RmsNorm::load(&scope.sub("norm2"), hidden, EPS)?,
            attn: Attention::load(&scope.sub("attn"), &["qkv"], "proj", heads)?,
            mlp: Mlp::load(mlp, hidden, inner, true, Activation::Silu, scope.backend())?,
        })
    }

    fn forward(&self, x: Array, pass: &Pass, runs: Option<&[(i32, i32)]>) -> MlxResult<Array> {
        let attended = self.attn.forward(&self.norm1.forward(&x)?, pass, runs)?;
        let x = pass.settle(x.add(attended)?)?;
        let inner = self.mlp.forward(&self.norm2.forward(&x)?)?;
        pass.settle(x.add(inner)?)
    }
}

/// Joins each group of patches into one feature of the decoder's width.
#[derive(Debug)]
struct Merger {
    ln_q: RmsNorm,
    mlp: TwoLayerMlp,
    group_values: i32,
}

impl Merger {
    fn load(config: &Config, scope: &Scope<'_>) -> Result<Self> {
        let group = config.hidden_size * config.spatial_merge_size * config.spatial_merge_size;
        let dims = (group, group, config.out_hidden_size);
        Ok(Self {
            ln_q: RmsNorm::load(&scope.sub("ln_q"), config.hidden_size, EPS)?,
            mlp: TwoLayerMlp::load(scope, ["mlp.0", "mlp.2"], dims, Activation::Gelu)?,
            group_values: group,
        })
    }

    /// `[T, N, E]` to `[T, N / merge², out_hidden]`.
    fn forward(&self, x: &Array) -> MlxResult<Array> {
        self.mlp.forward(&self.ln_q.forward(x)?.reshape(&[x.dim(0), -1, self.group_values])?)
    }
}

fn default_depth() -> usize {
    32
}

fn default_hidden() -> i32 {
    1280
}

fn default_intermediate() -> i32 {
    3420
}

fn default_heads() -> i32 {
    16
}

fn default_patch() -> i32 {
    14
}

fn default_two() -> i32 {
    2
}

fn default_window() -> i32 {
    112
}

fn default_full_blocks() -> Vec<usize> {
    vec![7, 15, 23, 31]
}
