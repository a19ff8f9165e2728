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
    Media, Seen, VisionLanguageModel, Wrap,
    decoder::{Decoder, Spec},
    sizes,
    text_config::TextConfig,
};
use crate::{
    Error, Result,
    guard::{Footprint, TowerFootprint},
    kv_cache::LayerCaches,
    rope::{Positions, Rotation},
    weights::{Scope, Weights},
};

/// What turns an image into features.
pub(super) trait Tower: fmt::Debug {
    /// Patches `[T * N, patch_values]` of one image, or the values of `T` frames, to features
    /// `[T * N / merge², features]`.
    fn encode(&self, pixels: &Array, grid: Grid) -> MlxResult<Array>;
}

/// The fields of `config.json` that a tower, and what joins it to the decoder, reads.
pub(super) trait TowerConfig {
    /// Returns the sizes that decide how much memory the tower takes; `hidden` is the decoder's.
    fn footprint(&self, hidden: i32) -> TowerFootprint;
    /// Checks what later arithmetic relies on.
    ///
    /// # Errors
    /// A sentence with both values that do not fit.
    fn validate(&self, hidden: i32) -> Result<(), String>;
    /// Takes the tensors of the tower, and of what is between it and the decoder, from all.
    fn load(&self, root: &Scope<'_>, hidden: i32) -> Result<Box<dyn Tower>>;
}

/// A family: its decoder, its tower and its choices.
#[derive(Clone, Copy)]
pub(super) struct Family {
    /// Says what the decoder is made of.
    pub(super) text: fn(&TextConfig) -> Result<Spec, String>,
    /// Reads `config.json`.
    pub(super) tower: fn(&Value) -> Result<Box<dyn TowerConfig>, String>,
    pub(super) choices: Choices,
}

/// How a family names its tensors, and how images appear in its prompts.
#[derive(Clone, Copy)]
pub(super) struct Choices {
    /// Returns the name that the model uses for a tensor, whatever layout the checkpoint is in.
    pub(super) rename: fn(&str) -> Option<String>,
    /// Where the configuration does not say.
    pub(super) image_token: u32,
    /// Likewise.
    pub(super) video_token: Option<u32>,
    pub(super) wrap: Option<Wrap>,
    /// Positions that a second of a video takes, where the configuration does not say; `None` if each patch takes one.
    pub(super) tokens_per_second: Option<f32>,
    /// Where the tokens of a prompt stand.
    pub(super) places: fn(&[u32], &[Seen], &Media) -> Result<Positions>,
    /// As [`Media::whole_prompt`].
    pub(super) whole_prompt: bool,
}

/// Reads a part of `config.json`, or all of it, as a `T`.
///
/// # Errors
/// A sentence with the field that is missing or of another type.
pub(super) fn fields<T: DeserializeOwned + TowerConfig + 'static>(
    config: &Value,
) -> Result<Box<dyn TowerConfig>, String> {
    let read: T = serde_json::from_value(config.clone()).map_err(|e| e.to_string())?;
    Ok(Box::new(read))
}

/// As [`fields`], of `vision_config`.
pub(super) fn vision_fields<T: DeserializeOwned + TowerConfig + 'static>(
    config: &Value,
) -> Result<Box<dyn TowerConfig>, String> {
    let found = config.get("vision_config");
    fields::<T>(found.ok_or("expected `vision_config`, found none")?)
}

/// Returns the name of a tensor by the first of `layouts` whose beginning it has.
pub(super) fn rename(layouts: &[(&str, &str)], name: &str) -> Option<String> {
    if name.contains("position_ids") || name.contains("rotary_emb.inv_freq") {
        return None;
    }
    let renamed = layouts
        .iter()
        .find_map(|(from, to)| name.strip_prefix(from).map(|rest| format!("{to}{rest}")));
    Some(renamed.unwrap_or_else(|| name.to_owned()))
}

/// Returns the name of a tensor, by the layouts that most families share.
pub(super) fn usual_name(name: &str) -> Option<String> {
    const LAYOUTS: [(&str, &str); 4] = [
        ("model.vision_tower.", "vision_tower."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
    ];
    rename(&LAYOUTS, name)
}

/// The positions of a prompt in which a feature takes as much room as a token of text.
pub(super) fn in_a_row(ids: &[u32], seen: &[Seen], media: &Media) -> Result<Positions> {
    let placeholders = ids.iter().filter(|&&id| media.is_placeholder(id)).count();
    let features: usize = seen.iter().map(|seen| media.tokens(seen.grid)).sum();
    match placeholders == features {
        true => Ok(Positions::of_text(ids.len())),
        false => Err(Error::PlaceholderMismatch { placeholders, features }),
    }
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
    image_token_id: Option<u32>,
    /// The older name.
    image_token_index: Option<u32>,
    video_token_id: Option<u32>,
    vision_config: Option<VisionConfig>,
}

/// The field of `vision_config` that is not the tower's.
#[derive(Clone, Debug, Deserialize)]
struct VisionConfig {
    tokens_per_second: Option<f32>,
}

/// The whole model.
#[derive(Debug)]
pub(super) struct Model {
    tower: Box<dyn Tower>,
    decoder: Decoder,
    media: Media,
    places: fn(&[u32], &[Seen], &Media) -> Result<Positions>,
    context_tokens: usize,
    hidden: i32,
}

impl Family {
    /// Reads what the decoder, the tower and this file need of `config`, the JSON of the file at `path`.
    fn read(&self, config: &Value, path: &Path) -> Result<(Config, Spec, Box<dyn TowerConfig>)> {
        let read = || {
            let text = (self.text)(&TextConfig::read(config)?)?;
            let own = Config::deserialize(config).map_err(|e| e.to_string())?;
            sizes::check_tower(config)?;
            let tower = (self.tower)(config)?;
            text.validate()?;
            tower.validate(text.hidden)?;
            Ok((own, text, tower))
        };
        read().map_err(|reason| Error::Config { path: path.to_owned(), reason })
    }

    /// Returns the sizes that decide how much memory the model takes.
    pub(super) fn footprint(&self, config: &Value, path: &Path) -> Result<Footprint> {
        let (_, text, tower) = self.read(config, path)?;
        Ok(Footprint { tower: tower.footprint(text.hidden), decoder: text.footprint() })
    }

    /// Reads `config` (the JSON of the file at `path`) and takes the tensors of `weights`.
    pub(super) fn load(&self, config: &Value, path: &Path, weights: &Weights) -> Result<Model> {
        let (own, text, tower) = self.read(config, path)?;
        let (sizes, choices) = (tower.footprint(text.hidden), self.choices);
        let image_token = own.image_token_id.or(own.image_token_index);
        let media = Media {
            image_token: image_token.unwrap_or(choices.image_token),
            video_token: own.video_token_id.or(choices.video_token),
            tokens_per_second: choices.tokens_per_second.map(|usual| {
                own.vision_config.and_then(|vision| vision.tokens_per_second).unwrap_or(usual)
            }),
            merge: sizes.merge as usize,
            wrap: choices.wrap,
            whole_prompt: choices.whole_prompt,
        };
        let root = weights.root();
        Ok(Model {
            tower: tower.load(&root, text.hidden)?,
            decoder: Decoder::load(&text, &root.sub("language_model"), root.backend())?,
            media,
            places: choices.places,
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

    fn encode(&self, pixels: &Array, grid: Grid) -> MlxResult<Array> {
        self.tower.encode(pixels, grid)
    }

    fn positions(&self, ids: &[u32], seen: &[Seen]) -> Result<Positions> {
        (self.places)(ids, seen, &self.media)
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
fn merge(embeddings: &Array, ids: &[u32], features: &[Array], media: &Media) -> MlxResult<Array> {
    let dtype = embeddings.dtype();
    let features = ops::concatenate(features, 0)?.as_dtype(dtype)?.expand_dims(0)?;
    let embeddings = match features.dim(2) - embeddings.dim(2) {
        ..=0 => embeddings.clone(),
        more => {
            let zeros = ops::zeros_dtype(&[1, embeddings.dim(1), more], dtype)?;
            ops::concatenate(&[embeddings, &zeros], 2)?
        }
    };
    // Runs of one kind, since there are few.
    let (mut parts, mut token, mut feature) = (Vec::new(), 0, 0);
    for run in ids.chunk_by(|&a, &b| media.is_placeholder(a) == media.is_placeholder(b)) {
        let end = token + run.len() as i32;
        if media.is_placeholder(run[0]) {
            let last = feature + run.len() as i32;
            parts.push(features.try_index((.., feature..last, ..))?);
            feature = last;
        } else {
            parts.push(embeddings.try_index((.., token..end, ..))?);
        }
        token = end;
    }
    ops::concatenate(&parts, 1)
}
