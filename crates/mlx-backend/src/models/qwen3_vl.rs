//! Qwen3-VL: the Qwen3 decoder, dense or with experts, whose first layers are also given what early
//! blocks of the tower saw. Patches have learned positions, stretched to the image, beside
//! those that turn queries and keys.
//!
//! ```text
//! patches -> + positions -> block 0 .. block i .. block j .. block n -> merger ---> features
//!                                        |          |
//!                                      merger     merger -----------> after layers 0, 1 of the decoder
//! ```
//!
//! Sources: arXiv:2511.21631; transformers `modeling_qwen3_vl.py`, `modeling_qwen3_vl_moe.py`.
//!
//! `T` frames, `N` patches of a frame, `E` values of a patch between blocks.

use mlx_rs::{Array, error::Result as MlxResult, ops};
use serde::Deserialize;
use vision_preproc::Grid;

use super::{
    Media, Seen,
    decoder::{Axes, Spec},
    qwen_vl, qwen3,
    text_config::Defaults,
    vision::{Encoder, EncoderSpec, Heads, Names, PatchEmbed, frame_rotation, patch_places},
    vlm::{self, Choices, Family, TowerConfig},
};
use crate::{
    Result,
    guard::TowerFootprint,
    nn::{Activation, LayerNorm, TwoLayerMlp},
    rope::Positions,
    weights::Scope,
};

const EPS: f32 = 1e-6;
const DEFAULTS: Defaults =
    Defaults { eps: 1e-6, rope_base: 5e6, context_tokens: 128_000, tied: false };
/// Frequencies of time, height and width, where a configuration does not say.
const SECTIONS: [usize; 3] = [24, 20, 20];

const CHOICES: Choices = Choices { places: positions, ..qwen_vl::CHOICES };

pub(super) const FAMILY: Family = Family {
    text: |text| on_axes(qwen3::spec_with(text, DEFAULTS)?),
    tower: vlm::vision_fields::<Config>,
    choices: CHOICES,
};

pub(super) const FAMILY_OF_EXPERTS: Family = Family {
    text: |text| on_axes(qwen3::spec_of_experts_with(text, DEFAULTS)?),
    tower: vlm::vision_fields::<Config>,
    choices: CHOICES,
};

/// Returns the positions of a prompt in which each patch of a video stands by itself, after its time, as an image does.
fn positions(ids: &[u32], seen: &[Seen], media: &Media) -> Result<Positions> {
    let frames = |seen: &Seen| {
        let one = Seen { grid: Grid { t: 1, ..seen.grid }, ..*seen };
        std::iter::repeat_n(one, seen.grid.t)
    };
    qwen_vl::positions(ids, &seen.iter().flat_map(frames).collect::<Vec<_>>(), media)
}

/// Has the frequencies turn with time, height and width by turns.
fn on_axes(mut spec: Spec) -> Result<Spec, String> {
    for layer in &mut spec.layers {
        layer.rope.axes = match layer.rope.axes {
            Axes::One if layer.rope.dims == 128 => Axes::Interleaved(SECTIONS),
            Axes::One => return Err("expected `mrope_section`, found none".to_owned()),
            Axes::Sections(sections) | Axes::Interleaved(sections) => Axes::Interleaved(sections),
        };
    }
    Ok(spec)
}

/// The fields of `vision_config`, with upstream's defaults.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct Config {
    depth: usize,
    hidden_size: i32,
    intermediate_size: i32,
    out_hidden_size: i32,
    num_heads: i32,
    in_channels: i32,
    patch_size: i32,
    spatial_merge_size: i32,
    temporal_patch_size: i32,
    /// A square: so many rows of so many positions.
    num_position_embeddings: i32,
    /// The blocks whose outputs go to the first layers of the decoder.
    deepstack_visual_indexes: Vec<usize>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            depth: 27,
            hidden_size: 1152,
            intermediate_size: 4304,
            out_hidden_size: 3584,
            num_heads: 16,
            in_channels: 3,
            patch_size: 16,
            spatial_merge_size: 2,
            temporal_patch_size: 2,
            num_position_embeddings: 2304,
            deepstack_visual_indexes: vec![8, 16, 24],
        }
    }
}

impl Config {
    /// Channel, time, y and x of a patch.
    fn kernel(&self) -> [i32; 4] {
        [self.in_channels, self.temporal_patch_size, self.patch_size, self.patch_size]
    }

    fn heads(&self) -> Heads {
        Heads { count: self.num_heads, dim: self.hidden_size / self.num_heads }
    }

    /// Values of the patches that become one feature.
    fn group(&self) -> i32 {
        self.hidden_size * self.spatial_merge_size * self.spatial_merge_size
    }

    /// Rows, and columns, of learned positions.
    fn position_side(&self) -> i32 {
        f64::from(self.num_position_embeddings).sqrt() as i32
    }
}

impl TowerConfig for Config {
    fn footprint(&self, _hidden: i32) -> TowerFootprint {
        // Validated to be positive.
        let size = |value: i32| u64::from(value.unsigned_abs());
        TowerFootprint {
            patch_values: size(self.in_channels * self.patch_size * self.patch_size),
            hidden: size(self.hidden_size),
            inner: size(self.intermediate_size),
            heads: size(self.num_heads),
            head_dim: size(self.heads().dim),
            merge: size(self.spatial_merge_size),
            features: size(self.out_hidden_size) * (1 + self.deepstack_visual_indexes.len() as u64),
            window_patches: 0,
            frame: None,
            together: 0,
        }
    }

    fn validate(&self, hidden: i32) -> Result<(), String> {
        let sizes =
            [self.hidden_size, self.num_heads, self.intermediate_size, self.spatial_merge_size];
        vlm::positive(&[&sizes[..], &self.kernel()].concat())?;
        vlm::even_heads("hidden_size", self.hidden_size, self.num_heads)?;
        let (positions, side) = (self.num_position_embeddings, self.position_side());
        if side <= 0 || side * side != positions {
            return Err(format!(
                "vision_config: expected a square as `num_position_embeddings`, found {positions}"
            ));
        }
        if let Some(at) = self.deepstack_visual_indexes.iter().find(|&&at| at >= self.depth) {
            return Err(format!(
                "vision_config: expected `deepstack_visual_indexes` below {}, found {at}",
                self.depth
            ));
        }
        vlm::same_width("out_hidden_size", self.out_hidden_size, hidden)
    }

    fn load(&self, root: &Scope<'_>, _hidden: i32) -> Result<Box<dyn vlm::Tower>> {
        Ok(Box::new(Tower::load(self, &root.sub("vision_tower"))?))
    }
}

#[derive(Debug)]
struct Tower {
    patch_embed: PatchEmbed,
    /// `[side * side, E]`.
    pos_embed: Array,
    blocks: Encoder,
    merger: Merger,
    deepstack: Vec<Merger>,
    config: Config,
}

impl Tower {
    fn load(config: &Config, scope: &Scope<'_>) -> Result<Self> {
        let (hidden, kernel) = (config.hidden_size, config.kernel());
        let spec = EncoderSpec {
            depth: config.depth,
            heads: config.heads(),
            inner: config.intermediate_size,
            activation: Activation::GeluTanh,
            eps: EPS,
            names: Names::qwen(["linear_fc1", "linear_fc2"]),
        };
        let deepstack = (0..config.deepstack_visual_indexes.len()).map(|i| {
            Merger::load(config, &scope.sub(format!("deepstack_merger_list.{i}")), config.group())
        });
        let positions = [config.num_position_embeddings, hidden];
        Ok(Self {
            patch_embed: PatchEmbed::load(&scope.sub("patch_embed.proj"), hidden, &kernel, true)?,
            pos_embed: scope.take("pos_embed.weight", &positions)?,
            blocks: Encoder::load(&spec, &scope.sub("blocks"))?,
            merger: Merger::load(config, &scope.sub("merger"), hidden)?,
            deepstack: deepstack.collect::<Result<_>>()?,
            config: config.clone(),
        })
    }

    /// The learned positions at the patches of a frame, `[N, E]`: each between the four nearest, of a
    /// square that is stretched over the frame.
    fn positions(&self, grid: Grid) -> MlxResult<Array> {
        let (merge, side) = (self.config.spatial_merge_size as usize, self.config.position_side());
        let patches = (grid.h * grid.w) as i32;
        let (mut indices, mut shares) = (Vec::new(), Vec::new());
        for patch in 0..grid.h * grid.w {
            let (row, column) = patch_places(patch, grid.w, merge);
            let rows = between(row, grid.h, side);
            for (column, of_column) in between(column, grid.w, side) {
                for (row, of_row) in rows {
                    indices.push(row * side + column);
                    shares.push(of_row * of_column);
                }
            }
        }
        let corners = self.pos_embed.take_axis(Array::from_slice(&indices, &[patches, 4]), 0)?;
        let shares = Array::from_slice(&shares, &[patches, 4, 1]).as_dtype(corners.dtype())?;
        corners.multiply(shares)?.sum_axis(1, false)
    }
}

/// Returns the two positions of `side` that place `at` of `length` is between, and the share of each.
fn between(at: usize, length: usize, side: i32) -> [(i32, f32); 2] {
    let step = (side - 1) as f32 / (length - 1).max(1) as f32;
    let exact = if at + 1 == length && length > 1 { (side - 1) as f32 } else { at as f32 * step };
    let low = exact as i32;
    let share = exact - low as f32;
    [(low, 1.0 - share), ((low + 1).min(side - 1), share)]
}

impl vlm::Tower for Tower {
    fn encode(&self, patches: &Array, grid: Grid) -> MlxResult<Array> {
        let merge = self.config.spatial_merge_size as usize;
        let rotation = frame_rotation(self.config.heads().dim, grid, merge)?;

        let x = self.patch_embed.forward(patches)?;
        let x = x.reshape(&[grid.t as i32, -1, self.config.hidden_size])?; // [T, N, E]
        let x = x.add(self.positions(grid)?)?;
        let mut early = vec![None; self.deepstack.len()];
        let x = self.blocks.forward(x, Some(rotation), |x, block| {
            let indexes = &self.config.deepstack_visual_indexes;
            if let Some(i) = indexes.iter().position(|&index| index == block) {
                early[i] = Some(self.deepstack[i].forward(x)?);
            }
            Ok(())
        })?;
        let last = self.merger.forward(&x)?;
        ops::concatenate(
            &std::iter::once(last).chain(early.into_iter().flatten()).collect::<Vec<_>>(),
            1,
        )
    }
}

/// Joins each group of patches into one feature; the norm is of patches, or of groups.
#[derive(Debug)]
struct Merger {
    norm: LayerNorm,
    norm_values: i32,
    mlp: TwoLayerMlp,
    group: i32,
}

impl Merger {
    fn load(config: &Config, scope: &Scope<'_>, norm_values: i32) -> Result<Self> {
        let group = config.group();
        let dims = (group, group, config.out_hidden_size);
        Ok(Self {
            norm: LayerNorm::load(&scope.sub("norm"), norm_values, EPS)?,
            norm_values,
            mlp: TwoLayerMlp::load(scope, ["linear_fc1", "linear_fc2"], dims, Activation::Gelu)?,
            group,
        })
    }

    /// `[T, N, E]` to `[T * N / merge², out_hidden]`.
    fn forward(&self, x: &Array) -> MlxResult<Array> {
        let x = self.norm.forward(&x.reshape(&[-1, self.norm_values])?)?;
        self.mlp.forward(&x.reshape(&[-1, self.group])?)
    }
}
