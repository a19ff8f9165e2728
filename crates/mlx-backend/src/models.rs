//! The architectures, one file each, and the table that finds one by `model_type`.

mod decoder;
#[cfg(test)]
pub(crate) mod fragile;
mod gemma;
mod gemma3;
mod gemma3_vision;
mod idefics3;
mod llama;
mod llava;
mod paligemma;
mod qwen2;
mod qwen2_5_vl;
mod qwen2_vl;
mod qwen3;
mod qwen3_vl;
mod qwen_vl;
mod sizes;
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
use vision_preproc::{Grid, VideoFamily};

use crate::{
    Error, Result,
    device::Backend,
    guard::Footprint,
    image_reader::Tiles,
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
    /// Patches `[P, patch_values]` of one image, or the values of its frames, to features
    /// `[P / merge², E]`.
    fn encode(&self, _patches: &Array, _grid: Grid) -> MlxResult<Array> {
        Err(no_tower())
    }
    /// Returns the position of each token of a prompt with the images and videos `seen`.
    fn positions(&self, ids: &[u32], _seen: &[Seen]) -> Result<Positions> {
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

/// An image or a video as a prompt has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) grid: Grid,
    /// Of a video, from one patch to the next.
    pub(crate) seconds: Option<f32>,
}

impl From<Grid> for Seen {
    fn from(grid: Grid) -> Self {
        Self { grid, seconds: None }
    }
}

/// How images appear in a prompt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Media {
    /// The token that stands for a feature of an image.
    pub(crate) image_token: u32,
    /// The token that stands for a feature of a video, if the model reads such.
    pub(crate) video_token: Option<u32>,
    /// Positions that a second of a video takes; `None` if each patch takes one.
    pub(crate) tokens_per_second: Option<f32>,
    /// Patches that a feature joins, along each side.
    pub(crate) merge: usize,
    /// What stands for an image in the text of a prompt, if that is more than an image token.
    pub(crate) wrap: Option<Wrap>,
    /// Whether all tokens of a prompt see each other, so that no part of it is the beginning of another.
    pub(crate) whole_prompt: bool,
}

/// A text that takes the place of what the chat template writes for an image, with an image token for
/// each frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wrap {
    /// What the template writes.
    pub(crate) marker: &'static str,
    pub(crate) text: fn(Tiles) -> String,
}

/// The positions of the Qwen-VL families, for tests.
#[cfg(test)]
pub(crate) fn qwen_positions(
    ids: &[u32],
    seen: &[Seen],
    tokens_per_second: Option<f32>,
) -> Result<Positions> {
    let media = Media {
        image_token: 900,
        video_token: Some(901),
        tokens_per_second,
        merge: 2,
        wrap: None,
        whole_prompt: false,
    };
    (qwen_vl::CHOICES.places)(ids, seen, &media)
}

/// Most patches of a video that are in the tower at a time, unless a frame has more: frames do not see each other.
const MOST_TOWER_PATCHES: usize = 8192;

/// Returns how many frames of a video of `grid` are in the tower at a time; those of an image all are.
pub(crate) fn frames_at_a_time(grid: Grid, is_video: bool) -> usize {
    match is_video {
        true => (MOST_TOWER_PATCHES / (grid.h * grid.w).max(1)).clamp(1, grid.t.max(1)),
        false => grid.t,
    }
}

impl Media {
    /// Returns whether `id` stands for a feature.
    pub(crate) fn is_placeholder(&self, id: u32) -> bool {
        id == self.image_token || Some(id) == self.video_token
    }

    /// Returns the token that stands for a feature of `seen`.
    ///
    /// # Errors
    /// [`Error::Prompt`] if there is none for videos.
    pub(crate) fn token(&self, seen: &Seen) -> Result<u32> {
        match seen.seconds {
            None => Ok(self.image_token),
            Some(_) => self
                .video_token
                .ok_or_else(|| Error::Prompt("the model has no token for videos".to_owned())),
        }
    }

    /// Returns how many tokens an image of `grid` takes.
    pub(crate) fn tokens(&self, grid: Grid) -> usize {
        grid.t * grid.h * grid.w / (self.merge * self.merge)
    }
}

/// Maps the name of a tensor in a file to the model's; `None` drops it.
pub(crate) type Rename = fn(&str) -> Option<String>;
type Load = fn(&Value, &Path, &Weights, Backend) -> Result<Box<dyn VisionLanguageModel>>;

/// An architecture that this crate runs.
#[derive(Debug)]
pub(crate) struct Architecture {
    /// `model_type` in `config.json`.
    pub(crate) model_type: &'static str,
    /// The models of it, in the words of docs/model-support.md.
    #[cfg(test)]
    pub(crate) about: &'static str,
    reads_images: bool,
    /// The chat template of checkpoints that have none.
    pub(crate) template: Option<&'static str>,
    reads_videos: Option<VideoFamily>,
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

    /// Returns how models of it read videos, if they do.
    pub(crate) fn reads_videos(&self) -> Option<VideoFamily> {
        self.reads_videos
    }
}

/// An architecture of text alone, from its file's function of the configuration.
macro_rules! text {
    ($model_type:literal, $about:literal, $family:expr) => {
        Architecture {
            model_type: $model_type,
            #[cfg(test)]
            about: $about,
            reads_images: false,
            template: None,
            reads_videos: None,
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
    ($model_type:literal, $about:literal, $family:expr) => {
        images!($model_type, $about, $family, videos: None)
    };
    ($model_type:literal, $about:literal, $family:expr, videos: $videos:expr) => {
        Architecture {
            model_type: $model_type,
            #[cfg(test)]
            about: $about,
            reads_images: true,
            template: None,
            reads_videos: $videos,
            rename: $family.choices.rename,
            footprint: |config, path| $family.footprint(config, path),
            load: |config, path, weights, _| Ok(Box::new($family.load(config, path, weights)?)),
        }
    };
}

static ARCHITECTURES: [Architecture; 15] = [
    images!("qwen2_vl", "Qwen2-VL", qwen2_vl::FAMILY, videos: Some(VideoFamily::Qwen2Vl)),
    images!("qwen2_5_vl", "Qwen2.5-VL", qwen2_5_vl::FAMILY, videos: Some(VideoFamily::Qwen2Vl)),
    images!("qwen3_vl", "Qwen3-VL, dense", qwen3_vl::FAMILY, videos: Some(VideoFamily::Qwen3Vl)),
    images!("qwen3_vl_moe", "Qwen3-VL with experts", qwen3_vl::FAMILY_OF_EXPERTS, videos: Some(VideoFamily::Qwen3Vl)),
    images!("gemma3", "Gemma 3 from 4B on", gemma3_vision::FAMILY),
    Architecture {
        template: Some(paligemma::TEMPLATE),
        ..images!("paligemma", "PaliGemma, the first", paligemma::FAMILY)
    },
    images!("llava", "LLaVA 1.5", llava::FAMILY),
    images!("idefics3", "Idefics 3", idefics3::FAMILY),
    images!("smolvlm", "SmolVLM", idefics3::FAMILY),
    text!("gemma", "Gemma, the first", gemma::spec),
    text!("gemma3_text", "Gemma 3, text alone", gemma3::spec),
    text!("llama", "Llama 2 and 3, SmolLM2 and others of their shape", llama::spec),
    text!("qwen2", "Qwen2, Qwen2.5", qwen2::spec),
    text!("qwen3", "Qwen3, dense", qwen3::spec),
    text!("qwen3_moe", "Qwen3 with experts", qwen3::spec_of_experts),
];

/// Iterates over all architectures.
#[cfg(any(test, fuzzing))]
pub(crate) fn architectures() -> impl Iterator<Item = &'static Architecture> {
    ARCHITECTURES.iter()
}

/// Returns the architecture of `model_type`.
///
/// # Errors
/// [`Error::UnsupportedArchitecture`], with those known.
pub(crate) fn architecture(model_type: &str) -> Result<&'static Architecture> {
    #[cfg(test)]
    if model_type == fragile::ARCHITECTURE.model_type {
        return Ok(&fragile::ARCHITECTURE);
    }
    ARCHITECTURES.iter().find(|a| a.model_type == model_type).ok_or_else(|| {
        Error::UnsupportedArchitecture {
            model_type: model_type.to_owned(),
            known: ARCHITECTURES.iter().map(|a| a.model_type).collect(),
        }
    })
}
