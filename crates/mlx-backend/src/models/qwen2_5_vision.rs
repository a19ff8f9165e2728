//! Qwen2.5-VL vision tower: patches in, features in decoder space out. Most blocks attend within
//! windows of 8 x 8 patches, a few over the whole frame.
//!
//! Sources: arXiv:2502.13923, section 2.1.1; transformers `modeling_qwen2_5_vl.py`,
//! `Qwen2_5_VisionTransformerPretrainedModel`.
//!
//! `T` frames, `N` patches of a frame, `E` hidden, `H` heads, `D` head size. Patches come in groups
//! of `merge²` that become one feature each; a group is never torn apart.

use mlx_rs::{Array, Dtype, error::Result as MlxResult, ops, ops::indexing::TryIndexOp};
use serde::Deserialize;
use vision_preproc::Grid;

use super::windows::Windows;
use crate::{
    LoadError, Result,
    device::Backend,
    guard::TowerFootprint,
    nn::{Activation, Linear, Mlp, RmsNorm, attention, gelu, mlx_error, settle},
    rope::{cos_sin, rotate},
    weights::{Scope, cast},
};

const EPS: f32 = 1e-6;
const ROPE_BASE: f32 = 10_000.0;

/// The fields of `vision_config` that the tower reads, with upstream's defaults.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Config {
    #[serde(default = "default_depth")]
    pub(crate) depth: usize,
    #[serde(default = "default_hidden")]
    pub(crate) hidden_size: i32,
    #[serde(default = "default_intermediate")]
    pub(crate) intermediate_size: i32,
    #[serde(default = "default_heads")]
    pub(crate) num_heads: i32,
    #[serde(default = "default_patch")]
    pub(crate) patch_size: i32,
    #[serde(default = "default_two")]
    pub(crate) temporal_patch_size: i32,
    /// Checkpoints name this `in_channels`, `in_chans` or both.
    #[serde(default)]
    in_channels: Option<i32>,
    #[serde(default)]
    in_chans: Option<i32>,
    #[serde(default = "default_two")]
    pub(crate) spatial_merge_size: i32,
    #[serde(default = "default_window")]
    pub(crate) window_size: i32,
    #[serde(default = "default_full_blocks")]
    pub(crate) fullatt_block_indexes: Vec<usize>,
    pub(crate) out_hidden_size: i32,
}

impl Config {
    /// Values of one patch: channel, time, y, x.
    pub(crate) fn patch_values(&self) -> i32 {
        self.channels() * self.temporal_patch_size * self.patch_size * self.patch_size
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

    /// Returns the sizes that decide how much memory the tower takes.
    pub(crate) fn footprint(&self) -> TowerFootprint {
        // Validated to be positive.
        let size = |value: i32| u64::from(value.unsigned_abs());
        TowerFootprint {
            patch_values: size(self.patch_values()),
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
        }
    }

    /// Checks what later arithmetic relies on.
    ///
    /// # Errors
    /// A sentence with both values that do not fit.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let positive = [self.hidden_size, self.num_heads, self.patch_size, self.spatial_merge_size];
        if positive.iter().any(|&v| v <= 0) {
            return Err("vision_config: sizes and heads must be positive".into());
        }
        if self.hidden_size % self.num_heads != 0 || self.head_dim() % 4 != 0 {
            return Err(format!(
                "vision_config: hidden_size {} does not divide into {} heads of a multiple of 4",
                self.hidden_size, self.num_heads
            ));
        }
        Ok(())
    }
}

/// The tower.
#[derive(Debug)]
pub(crate) struct Tower {
    /// `[patch_values, E]`.
    patch_embed: Array,
    blocks: Vec<Block>,
    merger: Merger,
    config: Config,
    dtype: Dtype,
    /// Whether MLX has a fused attention kernel for this head size on this device.
    fused: bool,
    compiles: bool,
    settle_bytes: usize,
}

impl Tower {
    /// Takes the tensors of `vision_tower`.
    pub(crate) fn load(config: Config, scope: &Scope<'_>, backend: Backend) -> Result<Self> {
        Ok(Self {
            patch_embed: load_patch_embed(&config, &scope.sub("patch_embed.proj"))?,
            blocks: (0..config.depth)
                .map(|i| Block::load(&config, &scope.sub(format!("blocks.{i}")), backend))
                .collect::<Result<_>>()?,
            merger: Merger::load(&config, &scope.sub("merger"))?,
            dtype: scope.dtype(),
            fused: backend.fuses_attention(config.head_dim(), scope.dtype()),
            compiles: backend.compiles(),
            settle_bytes: backend.settle_bytes(),
            config,
        })
    }

    /// Patches `[T * N, patch_values]` of one image to features `[T * N / merge², out_hidden]`.
    pub(crate) fn encode(&self, patches: &Array, grid: Grid) -> MlxResult<Array> {
        let merge = self.config.spatial_merge_size as usize;
        let windows = Windows::new(grid.h / merge, grid.w / merge, self.config.window_cells());
        let group = (merge * merge) as i32;
        let order = windows.patch_order(group as usize);
        let frames = grid.t as i32;

        let x = ops::matmul(patches.as_dtype(self.dtype)?, &self.patch_embed)?;
        let x = x.reshape(&[frames, -1, self.config.hidden_size])?; // [T, N, E]
        let mut x = x.take_axis(Array::from_slice(&order, &[order.len() as i32]), 1)?;

        let (cos, sin) = self.rotations(grid, &order)?;
        let Self { fused, compiles, settle_bytes, .. } = *self;
        let pass = Pass { cos, sin, fused, compiles, settle_bytes };
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

    /// Cosines and sines `[N, D]` of the patches in `order`: half of the angles turn with the row,
    /// half with the column. In f32, as upstream.
    fn rotations(&self, grid: Grid, order: &[i32]) -> MlxResult<(Array, Array)> {
        let merge = self.config.spatial_merge_size as usize;
        let quarter = self.config.head_dim() as usize / 4;
        let frequencies: Vec<f32> =
            (0..quarter).map(|i| ROPE_BASE.powf(-(i as f32) / quarter as f32)).collect();
        let columns = grid.w / merge;
        let mut angles = Vec::with_capacity(order.len() * 2 * quarter);
        for &patch in order {
            let (cell, inner) =
                (patch as usize / (merge * merge), patch as usize % (merge * merge));
            let row = cell / columns * merge + inner / merge;
            let column = cell % columns * merge + inner % merge;
            angles.extend(frequencies.iter().map(|f| row as f32 * f));
            angles.extend(frequencies.iter().map(|f| column as f32 * f));
        }
        cos_sin(&angles, order.len(), Dtype::Float32)
    }
}

/// Takes the patch projection, a 3-D convolution whose stride is its size, as a matrix
/// `[channel * time * y * x, E]`; the file has `[E, channel, time, y, x]` (PyTorch) or
/// `[E, time, y, x, channel]` (MLX).
fn load_patch_embed(config: &Config, scope: &Scope<'_>) -> Result<Array> {
    let (e, c, t, p) =
        (config.hidden_size, config.channels(), config.temporal_patch_size, config.patch_size);
    let weight = scope.take_any_shape("weight")?;
    let torch_layout = [e, c, t, p, p];
    let run = || match weight.shape() {
        shape if shape == torch_layout => weight.reshape(&[e, -1]),
        shape if shape == [e, t, p, p, c] => {
            weight.transpose_axes(&[0, 4, 1, 2, 3])?.reshape(&[e, -1])
        }
        _ => Ok(weight.clone()),
    };
    let rows = run().map_err(|error| mlx_error("patch_embed", &error))?;
    if rows.shape() != [e, config.patch_values()] {
        let (name, found) = (scope.path("weight"), weight.shape().to_vec());
        return Err(LoadError::Shape { name, expected: torch_layout.to_vec(), found }.into());
    }
    let columns = ops::transpose(&rows).map_err(|error| mlx_error("patch_embed", &error))?;
    scope.keep(cast(columns, scope.dtype())?)
}

/// What all blocks share for one image.
struct Pass {
    /// `[N, D]`, f32.
    cos: Array,
    /// `[N, D]`, f32.
    sin: Array,
    fused: bool,
    compiles: bool,
    settle_bytes: usize,
}

impl Pass {
    fn settle(&self, x: Array) -> MlxResult<Array> {
        settle(x, self.settle_bytes)
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
    fn load(config: &Config, scope: &Scope<'_>, backend: Backend) -> Result<Self> {
        Ok(Self {
            norm1: RmsNorm::load(&scope.sub("norm1"), config.hidden_size, EPS)?,
            norm2: RmsNorm::load(&scope.sub("norm2"), config.hidden_size, EPS)?,
            attn: Attention::load(config, &scope.sub("attn"))?,
            mlp: Mlp::load(
                &scope.sub("mlp"),
                config.hidden_size,
                config.intermediate_size,
                true,
                Activation::Silu,
                backend,
            )?,
        })
    }

    fn forward(&self, x: Array, pass: &Pass, runs: Option<&[(i32, i32)]>) -> MlxResult<Array> {
        let attended = self.attn.forward(&self.norm1.forward(&x)?, pass, runs)?;
        let x = pass.settle(x.add(attended)?)?;
        let inner = self.mlp.forward(&self.norm2.forward(&x)?)?;
        pass.settle(x.add(inner)?)
    }
}

#[derive(Debug)]
struct Attention {
    qkv: Linear,
    proj: Linear,
    heads: i32,
    head_dim: i32,
}

impl Attention {
    fn load(config: &Config, scope: &Scope<'_>) -> Result<Self> {
        let hidden = config.hidden_size;
        Ok(Self {
            qkv: Linear::load(&scope.sub("qkv"), 3 * hidden, hidden, true)?,
            proj: Linear::load(&scope.sub("proj"), hidden, hidden, true)?,
            heads: config.num_heads,
            head_dim: config.head_dim(),
        })
    }

    /// `[T, N, E]` to `[T, N, E]`. With `runs` (windows, patches of each window) patches attend
    /// within their window, all windows of a run in one call; without, over the frame.
    fn forward(&self, x: &Array, pass: &Pass, runs: Option<&[(i32, i32)]>) -> MlxResult<Array> {
        let (t, n, scale) = (x.dim(0), x.dim(1), (self.head_dim as f32).powf(-0.5));
        let (q, k, v) = self.queries_keys_values(x, pass)?; // [T, H, N, D]
        let attend = |q: &Array, k: &Array, v: &Array| attention(q, k, v, scale, false, pass.fused);

        let out = match runs {
            None => attend(&q, &k, &v)?,
            Some(runs) => {
                let mut outs = Vec::with_capacity(runs.len());
                let mut start = 0;
                for &(windows, patches) in runs {
                    let end = start + windows * patches;
                    // [T, H, W * P, D] to [T * W, H, P, D]
                    let fold = |x: &Array| {
                        x.try_index((.., .., start..end, ..))?
                            .reshape(&[t, self.heads, windows, patches, self.head_dim])?
                            .transpose_axes(&[0, 2, 1, 3, 4])?
                            .reshape(&[t * windows, self.heads, patches, self.head_dim])
                    };
                    let out = attend(&fold(&q)?, &fold(&k)?, &fold(&v)?)?;
                    outs.push(
                        out.reshape(&[t, windows, self.heads, patches, self.head_dim])?
                            .transpose_axes(&[0, 2, 1, 3, 4])?
                            .reshape(&[t, self.heads, windows * patches, self.head_dim])?,
                    );
                    start = end;
                }
                ops::concatenate(&outs, 2)?
            }
        };
        self.proj.forward(&out.transpose_axes(&[0, 2, 1, 3])?.reshape(&[t, n, -1])?)
    }

    /// `[T, N, E]` to three of `[T, H, N, D]`, the first two rotated.
    fn queries_keys_values(&self, x: &Array, pass: &Pass) -> MlxResult<(Array, Array, Array)> {
        let qkv = pass.settle(self.qkv.forward(x)?)?;
        let qkv = qkv.reshape(&[x.dim(0), x.dim(1), 3, self.heads, self.head_dim])?;
        let part = |i: i32| qkv.try_index((.., .., i, .., ..))?.transpose_axes(&[0, 2, 1, 3]);
        let turn = |x: Array| pass.settle(rotate(&x, &pass.cos, &pass.sin, pass.compiles)?);
        // A view would keep all of `qkv`, and be copied for each piece of the attention.
        Ok((turn(part(0)?)?, turn(part(1)?)?, pass.settle(part(2)?.contiguous()?)?))
    }
}

/// Joins each group of patches into one feature of the decoder's width.
#[derive(Debug)]
struct Merger {
    ln_q: RmsNorm,
    /// `mlp.0` and `mlp.2`; `mlp.1` is the GELU between.
    mlp: (Linear, Linear),
    group_values: i32,
}

impl Merger {
    fn load(config: &Config, scope: &Scope<'_>) -> Result<Self> {
        let inner = config.hidden_size * config.spatial_merge_size * config.spatial_merge_size;
        Ok(Self {
            ln_q: RmsNorm::load(&scope.sub("ln_q"), config.hidden_size, EPS)?,
            mlp: (
                Linear::load(&scope.sub("mlp.0"), inner, inner, true)?,
                Linear::load(&scope.sub("mlp.2"), config.out_hidden_size, inner, true)?,
            ),
            group_values: inner,
        })
    }

    /// `[T, N, E]` to `[T, N / merge², out_hidden]`.
    fn forward(&self, x: &Array) -> MlxResult<Array> {
        let x = self.ln_q.forward(x)?.reshape(&[x.dim(0), -1, self.group_values])?;
        self.mlp.1.forward(&gelu(&self.mlp.0.forward(&x)?)?)
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
