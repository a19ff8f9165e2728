//! Qwen2.5-VL: the vision tower's features take the places of image tokens in the prompt, and the
//! Qwen2 decoder reads them at positions of three axes.
//!
//! Sources: arXiv:2502.13923; transformers `modeling_qwen2_5_vl.py`, `Qwen2_5_VLModel`.

use std::path::Path;

use mlx_rs::{Array, error::Result as MlxResult, ops};
use serde::Deserialize;
use vision_preproc::Grid;

use super::{
    Media, VisionLanguageModel,
    decoder::{Decoder, Spec},
    qwen2, qwen2_5_vision,
    text_config::{Defaults, TextConfig},
};
use crate::{Error, Result, device::Backend, guard::Footprint, rope::Positions, weights::Weights};

/// Upstream's: the 3B checkpoint says nothing of a head and has none of its own.
const DEFAULTS: Defaults =
    Defaults { eps: 1e-6, rope_base: 1e6, context_tokens: 128_000, tied: true };

/// The fields of `config.json` that are neither the decoder's nor the tower's.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Config {
    vision_config: qwen2_5_vision::Config,
    #[serde(default = "default_image_token")]
    image_token_id: u32,
    #[serde(default = "default_video_token")]
    video_token_id: u32,
}

/// The whole model.
#[derive(Debug)]
pub(crate) struct Model {
    vision_tower: qwen2_5_vision::Tower,
    language_model: Decoder,
    media: Media,
    context_tokens: usize,
}

/// Returns the name that this file uses for a tensor, whatever layout the checkpoint is in.
pub(crate) fn rename(name: &str) -> Option<String> {
    if name.contains("position_ids") || name.contains("rotary_emb.inv_freq") {
        return None;
    }
    // From the most to the least specific: classic names are prefixes of the newer ones.
    const LAYOUTS: [(&str, &str); 7] = [
        ("vision_tower.", "vision_tower."),
        ("language_model.", "language_model."),
        ("model.visual.", "vision_tower."),
        ("model.language_model.", "language_model.model."),
        ("visual.", "vision_tower."),
        ("model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
    ];
    let renamed = LAYOUTS
        .iter()
        .find_map(|(from, to)| name.strip_prefix(from).map(|rest| format!("{to}{rest}")));
    Some(renamed.unwrap_or_else(|| name.to_owned()))
}

/// Reads what the decoder, the tower and this file need of `config`, the JSON of the file at `path`.
fn configs(config: &serde_json::Value, path: &Path) -> Result<(Config, Spec)> {
    let bad = |reason: String| Error::Config { path: path.to_owned(), reason };
    let text = TextConfig::read(config).and_then(|text| qwen2::spec_with(&text, DEFAULTS));
    let text = text.map_err(bad)?;
    let own: Config = serde_json::from_value(config.clone()).map_err(|e| bad(e.to_string()))?;
    text.validate().map_err(bad)?;
    own.vision_config.validate().map_err(bad)?;
    if own.vision_config.out_hidden_size != text.hidden {
        return Err(bad(format!(
            "the tower's out_hidden_size {} is not the decoder's hidden_size {}",
            own.vision_config.out_hidden_size, text.hidden
        )));
    }
    Ok((own, text))
}

/// Returns the sizes that decide how much memory the model takes.
pub(crate) fn footprint(config: &serde_json::Value, path: &Path) -> Result<Footprint> {
    let (own, text) = configs(config, path)?;
    Ok(Footprint { tower: own.vision_config.footprint(), decoder: text.footprint() })
}

impl Model {
    /// Reads `config` (the JSON of the file at `path`) and takes the tensors of `weights`.
    pub(crate) fn load(
        config: &serde_json::Value,
        path: &Path,
        weights: &Weights,
        backend: Backend,
    ) -> Result<Self> {
        let (own, text) = configs(config, path)?;
        let media = Media {
            image_token: own.image_token_id,
            video_token: own.video_token_id,
            merge: own.vision_config.spatial_merge_size as usize,
            patch_values: own.vision_config.patch_values() as usize,
        };
        let root = weights.root();
        Ok(Self {
            vision_tower: qwen2_5_vision::Tower::load(
                own.vision_config,
                &root.sub("vision_tower"),
                backend,
            )?,
            language_model: Decoder::load(&text, &root.sub("language_model"), backend)?,
            media,
            context_tokens: text.context_tokens,
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
        &self.language_model
    }

    fn encode(&self, patches: &Array, grid: Grid) -> MlxResult<Array> {
        self.vision_tower.encode(patches, grid)
    }

    fn positions(&self, ids: &[u32], grids: &[Grid]) -> Result<Positions> {
        positions(ids, grids, &self.media)
    }

    fn merge(&self, embeddings: &Array, ids: &[u32], features: &[Array]) -> MlxResult<Array> {
        merge(embeddings, ids, features, &self.media)
    }
}

/// Puts the rows of `features`, one array per image, at the image tokens of `[1, L, E]` embeddings.
///
/// Image tokens of one image stand side by side, so the result is a concatenation of runs.
fn merge(embeddings: &Array, ids: &[u32], features: &[Array], media: &Media) -> MlxResult<Array> {
    use mlx_rs::ops::indexing::TryIndexOp;
    let dtype = embeddings.dtype();
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

/// Returns the positions of a prompt whose image tokens stand for `grids`, in order.
///
/// Text counts up on all axes. An image that starts at `s` has time `s` plus its frame, height `s`
/// plus the row and width `s` plus the column of its merged cells; the text after it goes on from
/// the largest position so far.
fn positions(ids: &[u32], grids: &[Grid], media: &Media) -> Result<Positions> {
    let placeholders = ids.iter().filter(|&&id| media.is_placeholder(id)).count();
    let features: usize = grids.iter().map(|&grid| media.tokens(grid)).sum();
    if placeholders != features {
        return Err(Error::PlaceholderMismatch { placeholders, features });
    }
    let mut axes = [const { Vec::new() }; 3];
    let mut grids = grids.iter();
    let (mut at, mut next) = (0, 0);
    while at < ids.len() {
        if !media.is_placeholder(ids[at]) {
            axes.iter_mut().for_each(|axis| axis.push(next));
            (at, next) = (at + 1, next + 1);
            continue;
        }
        let Some(grid) = grids.next() else { break };
        let (t, h, w) = (grid.t, grid.h / media.merge, grid.w / media.merge);
        if !ids[at..].iter().take(t * h * w).all(|&id| media.is_placeholder(id)) {
            return Err(Error::Prompt("the image tokens of an image are torn apart".to_owned()));
        }
        for (frame, row, column) in
            (0..t).flat_map(|f| (0..h).flat_map(move |r| (0..w).map(move |c| (f, r, c))))
        {
            for (axis, offset) in axes.iter_mut().zip([frame, row, column]) {
                axis.push(next + offset as i32);
            }
        }
        at += t * h * w;
        next += t.max(h).max(w) as i32;
    }
    Ok(Positions { axes, delta: next - ids.len() as i32 })
}

fn default_image_token() -> u32 {
    151_655
}

fn default_video_token() -> u32 {
    151_656
}

#[cfg(test)]
mod tests {
    use super::*;

    const I: u32 = 900;
    const MEDIA: Media = Media { image_token: I, video_token: 901, merge: 2, patch_values: 1176 };

    fn grid(h: usize, w: usize) -> Grid {
        Grid { t: 1, h, w }
    }

    /// Values of the reference for one image of 2 x 3 cells.
    #[test]
    fn one_image() {
        let ids = [5, 6, 800, I, I, I, I, I, I, 801, 7, 8];
        let found = positions(&ids, &[grid(4, 6)], &MEDIA).unwrap();
        assert_eq!(found.axes[0], [0, 1, 2, 3, 3, 3, 3, 3, 3, 6, 7, 8]);
        assert_eq!(found.axes[1], [0, 1, 2, 3, 3, 3, 4, 4, 4, 6, 7, 8]);
        assert_eq!(found.axes[2], [0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7, 8]);
        assert_eq!(found.delta, -3);
    }

    /// Values of the reference for images of 2 x 2 and 2 x 3 cells.
    #[test]
    fn two_images() {
        let ids = [5, 800, I, I, I, I, 7, 800, I, I, I, I, I, I, 9];
        let found = positions(&ids, &[grid(4, 4), grid(4, 6)], &MEDIA).unwrap();
        assert_eq!(found.axes[0], [0, 1, 2, 2, 2, 2, 4, 5, 6, 6, 6, 6, 6, 6, 9]);
        assert_eq!(found.axes[1], [0, 1, 2, 2, 3, 3, 4, 5, 6, 6, 6, 7, 7, 7, 9]);
        assert_eq!(found.axes[2], [0, 1, 2, 3, 2, 3, 4, 5, 6, 7, 8, 6, 7, 8, 9]);
        assert_eq!(found.delta, -5);
    }

    #[test]
    fn a_count_that_does_not_fit_is_an_error() {
        let error = positions(&[5, I, I, 6], &[grid(4, 4)], &MEDIA).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the prompt has 2 image placeholder tokens for 4 image features"
        );
        assert!(positions(&[I, I, 5, I, I], &[grid(4, 4)], &MEDIA).is_err());
    }

    #[test]
    fn every_layout_leads_to_the_same_names() {
        let expected = "language_model.model.layers.0.mlp.up_proj.weight";
        for name in [
            "model.layers.0.mlp.up_proj.weight",
            "model.language_model.layers.0.mlp.up_proj.weight",
            "language_model.model.layers.0.mlp.up_proj.weight",
        ] {
            assert_eq!(rename(name).as_deref(), Some(expected));
        }
        let expected = "vision_tower.blocks.0.norm1.weight";
        for name in ["visual.", "model.visual.", "vision_tower."] {
            assert_eq!(rename(&format!("{name}blocks.0.norm1.weight")).as_deref(), Some(expected));
        }
        assert_eq!(rename("lm_head.weight").as_deref(), Some("language_model.lm_head.weight"));
        assert_eq!(rename("visual.position_ids"), None);
    }
}
