//! A model that reads images: what a tower makes of them takes the places of image tokens in the
//! prompt, which a decoder reads.
//!
//! ```text
//! image -> tower -> features [n, E]  .
//! tokens ---------> embeddings [L, E] |-> merged [L, E] -> decoder -> logits
//! ```
//!
//! A tower may give more than `E` values for a feature: what comes after the first `E` is added to
//! what leaves the first layers, `E` values each. Source: arXiv:2406.04334.

use std::{fmt, path::Path};

use mlx_rs::{
    Array,
    error::Result as MlxResult,
    ops::{
        self,
        indexing::{Ellipsis, TryIndexOp},
    },
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use vision_preproc::Grid;

use super::{
    Media, VisionLanguageModel,
    decoder::{Decoder, Spec},
    qwen_vl,
    text_config::TextConfig,
};
use crate::{
    Error, Result,
    guard::{Footprint, TowerFootprint},
    kv_cache::LayerCaches,
    rope::{Positions, Rotation},
    weights::{Scope, Weights},
};

/// What turns the patches of an image into features.
pub(super) trait Tower: fmt::Debug {
    /// Patches `[T * N, patch_values]` of one image to features `[T * N / merge², features]`.
    fn encode(&self, patches: &Array, grid: Grid) -> MlxResult<Array>;
}

/// The fields of `vision_config` that a tower reads.
pub(super) trait TowerConfig {
    /// Returns the sizes that decide how much memory the tower takes.
    fn footprint(&self) -> TowerFootprint;
    /// Checks what later arithmetic relies on, before a decoder of `hidden` values.
    ///
    /// # Errors
    /// A sentence with both values that do not fit.
    fn validate(&self, hidden: i32) -> Result<(), String>;
    /// Takes the tensors of the tower.
    fn load(&self, scope: &Scope<'_>) -> Result<Box<dyn Tower>>;
}

/// The choices of a family.
#[derive(Clone, Copy)]
pub(super) struct Family {
    /// Says what the decoder is made of.
    pub(super) text: fn(&TextConfig) -> Result<Spec, String>,
    /// Reads `vision_config`.
    pub(super) tower: fn(&Value) -> Result<Box<dyn TowerConfig>, String>,
}

/// Reads `vision_config`, or any other JSON, as a `T`.
///
/// # Errors
/// A sentence with the field that is missing or of another type.
pub(super) fn fields<T: DeserializeOwned + TowerConfig + 'static>(
    config: &Value,
) -> Result<Box<dyn TowerConfig>, String> {
    let read: T = serde_json::from_value(config.clone()).map_err(|e| e.to_string())?;
    Ok(Box::new(read))
}

/// Refuses sizes of a tower of which one is not above 0.
pub(super) fn positive(sizes: &[i32]) -> Result<(), String> {
    match sizes.iter().any(|&size| size <= 0) {
        true => Err("vision_config: sizes and heads must be positive".to_owned()),
        false => Ok(()),
    }
}

/// Refuses heads that do not share `hidden` values, or whose positions do not come in rows and columns
/// of pairs.
pub(super) fn even_heads(name: &str, hidden: i32, heads: i32) -> Result<(), String> {
    match hidden % heads == 0 && hidden / heads % 4 == 0 {
        true => Ok(()),
        false => Err(format!(
            "vision_config: {name} {hidden} does not divide into {heads} heads of a multiple of 4"
        )),
    }
}

/// Refuses features that are not as wide as what the decoder reads.
pub(super) fn same_width(name: &str, features: i32, hidden: i32) -> Result<(), String> {
    match features == hidden {
        true => Ok(()),
        false => {
            Err(format!("the tower's {name} {features} is not the decoder's hidden_size {hidden}"))
        }
    }
}

/// The fields of `config.json` that are neither the decoder's nor the tower's.
#[derive(Clone, Debug, Deserialize)]
struct Config {
    vision_config: Value,
    #[serde(default = "default_image_token")]
    image_token_id: u32,
    #[serde(default = "default_video_token")]
    video_token_id: u32,
}

/// The whole model.
#[derive(Debug)]
pub(super) struct Model {
    tower: Box<dyn Tower>,
    decoder: Decoder,
    media: Media,
    context_tokens: usize,
    hidden: i32,
}

impl Family {
    /// Reads what the decoder, the tower and this file need of `config`, the JSON of the file at `path`.
    fn read(&self, config: &Value, path: &Path) -> Result<(Config, Spec, Box<dyn TowerConfig>)> {
        let read = || {
            let text = (self.text)(&TextConfig::read(config)?)?;
            let own = Config::deserialize(config).map_err(|e| e.to_string())?;
            let tower = (self.tower)(&own.vision_config)?;
            text.validate()?;
            tower.validate(text.hidden)?;
            Ok((own, text, tower))
        };
        read().map_err(|reason| Error::Config { path: path.to_owned(), reason })
    }

    /// Returns the sizes that decide how much memory the model takes.
    pub(super) fn footprint(&self, config: &Value, path: &Path) -> Result<Footprint> {
        let (_, text, tower) = self.read(config, path)?;
        Ok(Footprint { tower: tower.footprint(), decoder: text.footprint() })
    }

    /// Reads `config` (the JSON of the file at `path`) and takes the tensors of `weights`.
    pub(super) fn load(&self, config: &Value, path: &Path, weights: &Weights) -> Result<Model> {
        let (own, text, tower) = self.read(config, path)?;
        let sizes = tower.footprint();
        let media = Media {
            image_token: own.image_token_id,
            video_token: own.video_token_id,
            merge: sizes.merge as usize,
            patch_values: sizes.patch_values as usize,
        };
        let root = weights.root();
        Ok(Model {
            tower: tower.load(&root.sub("vision_tower"))?,
            decoder: Decoder::load(&text, &root.sub("language_model"), root.backend())?,
            media,
            context_tokens: text.context_tokens,
            hidden: text.hidden,
        })
    }
}

impl VisionLanguageModel for Model {
    fn media(&self) -> Option<&Media> {
        Some(&self.media)
    }

    fn context_tokens(&self) -> usize {
        self.context_tokens
    }

    fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    fn encode(&self, patches: &Array, grid: Grid) -> MlxResult<Array> {
        self.tower.encode(patches, grid)
    }

    fn positions(&self, ids: &[u32], grids: &[Grid]) -> Result<Positions> {
        qwen_vl::positions(ids, grids, &self.media)
    }

    fn merge(&self, embeddings: &Array, ids: &[u32], features: &[Array]) -> MlxResult<Array> {
        merge(embeddings, ids, features, &self.media)
    }

    fn forward(
        &self,
        x: Array,
        rotation: &Rotation,
        caches: &mut dyn LayerCaches,
    ) -> MlxResult<Array> {
        let part = |i: i32| x.try_index((Ellipsis, i * self.hidden..(i + 1) * self.hidden));
        match x.dim(-1) / self.hidden {
            1 => self.decoder.forward(x, rotation, caches),
            parts => self.decoder.forward_with(part(0)?, rotation, caches, &|x, layer| {
                let next = layer as i32 + 1;
                if next < parts { x.add(part(next)?) } else { Ok(x) }
            }),
        }
    }
}

/// Puts the rows of `features`, one array per image, at the image tokens of `[1, L, E]` embeddings;
/// where features are wider, tokens have zeros behind.
///
/// Image tokens of one image stand side by side, so the result is a concatenation of runs.
fn merge(embeddings: &Array, ids: &[u32], features: &[Array], media: &Media) -> MlxResult<Array> {
    let dtype = embeddings.dtype();
    let more = features.iter().map(|rows| rows.dim(1)).max().unwrap_or(0) - embeddings.dim(2);
    let embeddings = match more {
        ..=0 => embeddings.clone(),
        more => {
            let zeros = ops::zeros_dtype(&[1, embeddings.dim(1), more], dtype)?;
            ops::concatenate(&[embeddings, &zeros], 2)?
        }
    };
    let mut parts = Vec::new();
    let (mut at, mut text_from) = (0, 0);
    for rows in features {
        let start = at + ids[at..].iter().take_while(|&&id| !media.is_placeholder(id)).count();
        if start > text_from {
            parts.push(embeddings.try_index((.., text_from as i32..start as i32, ..))?);
        }
        parts.push(rows.as_dtype(dtype)?.expand_dims(0)?);
        at = start + rows.dim(0) as usize;
        text_from = at;
    }
    if text_from < ids.len() {
        parts.push(embeddings.try_index((.., text_from as i32.., ..))?);
    }
    ops::concatenate(&parts, 1)
}

fn default_image_token() -> u32 {
    151_655
}

fn default_video_token() -> u32 {
    151_656
}
