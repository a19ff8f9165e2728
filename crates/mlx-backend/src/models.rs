//! The architectures, one file each, and the table that finds one by `model_type`.

mod decoder;
mod llama;
mod qwen2;
mod qwen2_5_vl;
mod qwen2_vl;
mod qwen3;
mod qwen3_vl;
mod qwen_vl;
mod text;
mod text_config;
mod vision;
mod vlm;

#[cfg(test)]
pub(crate) use self::decoder::{Axes, RopeSpec};

use std::{fmt, ops::Range, path::Path};

use self::decoder::Decoder;
use mlx_rs::{
    Array,
    error::{Exception, Result as MlxResult},
};
use serde_json::Value;
use vision_preproc::Grid;

use crate::{
    Error, Result,
    device::Backend,
    guard::Footprint,
    kv_cache::LayerCaches,
    rope::{Positions, Rotation},
    weights::Weights,
};

/// A model that reads text and, if it has a tower, images.
///
/// Every method is pure but for the caches it is given: positions and caches belong to a request,
/// so that requests cannot disturb each other.
pub(crate) trait VisionLanguageModel: fmt::Debug {
    /// Returns how images appear in a prompt; `None` if the model reads text only.
    fn media(&self) -> Option<&Media> {
        None
    }
    /// Returns the most tokens of prompt and answer together.
    fn context_tokens(&self) -> usize;
    /// Returns what reads tokens.
    fn decoder(&self) -> &Decoder;
    /// Returns the number of layers that have keys and values.
    fn layers(&self) -> usize {
        self.decoder().layers()
    }
    /// Patches `[P, patch_values]` of one image to features `[P / merge², E]`.
    fn encode(&self, _patches: &Array, _grid: Grid) -> MlxResult<Array> {
        Err(no_tower())
    }
    /// Returns the position of each token of a prompt with images of `grids`.
    fn positions(&self, ids: &[u32], _grids: &[Grid]) -> Result<Positions> {
        Ok(Positions::of_text(ids.len()))
    }
    /// Token ids `[B, L]` to embeddings `[B, L, E]`.
    fn embed(&self, ids: &Array) -> MlxResult<Array> {
        self.decoder().embed(ids)
    }
    /// Puts the features of each image at its image tokens.
    fn merge(&self, _embeddings: &Array, _ids: &[u32], _features: &[Array]) -> MlxResult<Array> {
        Err(no_tower())
    }
    /// Returns the rotation of the tokens of a prompt in `range`.
    fn prompt_rotation(&self, positions: &Positions, range: Range<usize>) -> MlxResult<Rotation> {
        self.decoder().rotation(positions, range)
    }
    /// Embeddings `[B, L, E]` to hidden states `[B, L, E]`, adding the tokens to the caches. With
    /// [`Rotation::Rows`], `[1, B, E]` are a token of each of `B` sequences: side by side, since a
    /// product of many rows is one only then.
    fn forward(
        &self,
        x: Array,
        rotation: &Rotation,
        caches: &mut dyn LayerCaches,
    ) -> MlxResult<Array> {
        self.decoder().forward(x, rotation, caches)
    }
    /// Hidden states `[.., E]` to logits `[.., V]`.
    fn logits(&self, hidden: &Array) -> MlxResult<Array> {
        self.decoder().logits(hidden)
    }
}

fn no_tower() -> Exception {
    Exception::custom("the model reads no images")
}

/// How images appear in a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Media {
    /// The token that stands for a feature of an image.
    pub(crate) image_token: u32,
    /// The token that stands for a feature of a video.
    pub(crate) video_token: u32,
    /// Patches that a feature joins, along each side.
    pub(crate) merge: usize,
    /// Values of a patch.
    pub(crate) patch_values: usize,
}

impl Media {
    /// Returns whether `id` stands for a feature.
    pub(crate) fn is_placeholder(&self, id: u32) -> bool {
        id == self.image_token || id == self.video_token
    }

    /// Returns how many tokens an image of `grid` takes.
    pub(crate) fn tokens(&self, grid: Grid) -> usize {
        grid.t * grid.h * grid.w / (self.merge * self.merge)
    }
}

type Rename = fn(&str) -> Option<String>;
type Load = fn(&Value, &Path, &Weights, Backend) -> Result<Box<dyn VisionLanguageModel>>;

/// An architecture that this crate runs.
#[derive(Debug)]
pub(crate) struct Architecture {
    /// `model_type` in `config.json`.
    model_type: &'static str,
    reads_images: bool,
    /// Maps the name of a tensor in a checkpoint to the model's; `None` drops it.
    pub(crate) rename: Rename,
    /// Says how large its parts are, from the JSON of the `config.json` at a path.
    pub(crate) footprint: fn(&Value, &Path) -> Result<Footprint>,
    /// Builds the model.
    pub(crate) load: Load,
}

impl Architecture {
    /// Returns whether models of it read images.
    pub(crate) fn reads_images(&self) -> bool {
        self.reads_images
    }
}

/// An architecture of text alone, from its file's function of the configuration.
macro_rules! text {
    ($model_type:literal, $family:expr) => {
        Architecture {
            model_type: $model_type,
            reads_images: false,
            rename: text::rename,
            footprint: |config, path| text::footprint($family, config, path),
            load: |config, path, weights, backend| {
                Ok(Box::new(text::Model::load($family, config, path, weights, backend)?))
            },
        }
    };
}

/// An architecture that reads images, from its file's choices.
macro_rules! images {
    ($model_type:literal, $family:expr) => {
        Architecture {
            model_type: $model_type,
            reads_images: true,
            rename: qwen_vl::rename,
            footprint: |config, path| $family.footprint(config, path),
            load: |config, path, weights, _| Ok(Box::new($family.load(config, path, weights)?)),
        }
    };
}

const ARCHITECTURES: [Architecture; 8] = [
    images!("qwen2_vl", qwen2_vl::FAMILY),
    images!("qwen2_5_vl", qwen2_5_vl::FAMILY),
    images!("qwen3_vl", qwen3_vl::FAMILY),
    images!("qwen3_vl_moe", qwen3_vl::FAMILY_OF_EXPERTS),
    text!("llama", llama::spec),
    text!("qwen2", qwen2::spec),
    text!("qwen3", qwen3::spec),
    text!("qwen3_moe", qwen3::spec_of_experts),
];

/// Returns the architecture of `model_type`.
///
/// # Errors
/// [`Error::UnsupportedArchitecture`], with those known.
pub(crate) fn architecture(model_type: &str) -> Result<&'static Architecture> {
    ARCHITECTURES.iter().find(|a| a.model_type == model_type).ok_or_else(|| {
        Error::UnsupportedArchitecture {
            model_type: model_type.to_owned(),
            known: ARCHITECTURES.iter().map(|a| a.model_type).collect(),
        }
    })
}
