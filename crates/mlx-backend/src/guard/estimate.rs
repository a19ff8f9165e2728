//! How much memory a request will take, term by term, from sizes alone.
//!
//! A request goes through stages, and what one stage needs is gone in the next, so what is required
//! is the largest stage on top of what the process holds anyway:
//!
//! ```text
//! required = weights + what else is held
//!          + max(images: decode and resize one, with the patches of those before,
//!                vision: patches, one image in the tower and the next decoded, features,
//!                prompt: features, embeddings, keys and values, one step of the prompt,
//!                answer: keys and values, one token; and copies that caches keep)
//! ```
//!
//! Every term is an upper bound, and `docs/memory.md` has what was measured beside it.

mod sizes;

use serde::Serialize;

use self::sizes::{F32, LAZY_LAYERS};
use super::{
    footprint::{DecoderFootprint, Footprint, product, sum},
    reservation::Promise,
};
use crate::{
    caches::CacheLimits,
    device::Backend,
    kv_cache::{KvCacheOptions, padded_tokens},
};

/// A stage of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MemoryStage {
    /// All of them.
    Always,
    /// An image is decoded and resized.
    Images,
    /// An image goes through the vision tower.
    Vision,
    /// The prompt is read.
    Prompt,
    /// Tokens are generated.
    Answer,
}

/// A part of an estimate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MemoryTerm {
    /// When it is needed.
    pub stage: MemoryStage,
    /// What it is.
    pub name: &'static str,
    /// How large it is at most.
    pub bytes: u64,
    /// Whether it is in the memory of the machine, also where the device has its own.
    pub host: bool,
}

impl MemoryTerm {
    /// The same, in the memory of the machine if `host`.
    fn on_host(self, host: bool) -> Self {
        Self { host, ..self }
    }
}

/// Returns what makes a term of `stage` of a name and bytes, on the device.
fn terms_of(stage: MemoryStage) -> impl Fn(&'static str, u64) -> MemoryTerm {
    move |name, bytes| MemoryTerm { stage, name, bytes, host: false }
}

/// What the sizes of a model are multiplied with here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) footprint: Footprint,
    pub(crate) backend: Backend,
    /// Bytes of a value that is computed.
    pub(crate) value_bytes: u64,
    /// As [`Backend::on_host`].
    pub(crate) on_host: bool,
    /// Bytes of all weights, loaded.
    pub(crate) weight_bytes: u64,
    /// Whether the scores of the tower are never held.
    pub(crate) fused_tower: bool,
    /// Whether the scores of the decoder are never held.
    pub(crate) fused_decoder: bool,
    /// Whether packed weights are unpacked, a product at a time, while a prompt is read.
    pub(crate) unpacks: bool,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Work {
    /// In the order of the prompt.
    pub(crate) images: Vec<ImageWork>,
    /// Tokens of the prompt that stand for no image.
    pub(crate) text_tokens: u64,
    /// Most tokens of the answer.
    pub(crate) new_tokens: u64,
    /// Tokens of the prompt read at a time.
    pub(crate) prefill_step_tokens: u64,
    pub(crate) kept: Kept,
    pub(crate) kv_cache: KvCacheOptions,
    /// Whether an adapter changes the model.
    pub(crate) adapted: bool,
}

/// Most bytes that caches keep of what a request makes, while it is still used or after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) images: u64,
    pub(crate) features: u64,
    pub(crate) prefixes: u64,
}

impl From<&CacheLimits> for Kept {
    fn from(limits: &CacheLimits) -> Self {
        Self {
            images: limits.image_bytes,
            features: limits.feature_bytes,
            prefixes: limits.prefix_bytes,
        }
    }
}

/// An image or a video of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ImageWork {
    /// Pixels of the image file.
    pub(crate) source_pixels: u64,
    /// What its decoder holds, if it is a video, besides a frame.
    pub(crate) decoder_bytes: u64,
    /// Pixels after resizing; of a video, of one frame.
    pub(crate) pixels: u64,
    /// Patches of the tower.
    pub(crate) patches: u64,
    /// Frames of a patch that are held: one of a still image, where they are equal.
    pub(crate) patch_frames: u64,
    /// Those that are in the tower at a time.
    pub(crate) tower_patches: u64,
}

/// The terms of a request; see the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Estimate {
    /// Those of [`MemoryStage::Always`], then those of each stage.
    pub(crate) terms: Vec<MemoryTerm>,
}

impl Estimate {
    /// Estimates `work`, while the process holds `other_bytes` besides the weights.
    pub(crate) fn new(setting: &Setting, work: &Work, other_bytes: u64) -> Self {
        let always = [("weights", setting.weight_bytes), ("all else that is held", other_bytes)];
        let mut terms: Vec<MemoryTerm> =
            always.map(|(name, bytes)| terms_of(MemoryStage::Always)(name, bytes)).into();
        let images = 0..work.images.len();
        terms.extend(largest(images.clone().map(|i| setting.decode(work, i))));
        terms.extend(largest(images.map(|i| setting.encode(work, i))));
        terms.extend(setting.prompt(work));
        terms.extend(setting.answer(work));
        Self { terms }
    }

    /// Returns the stage that needs most, and the bytes required in it.
    pub(crate) fn required(&self) -> (MemoryStage, u64) {
        self.most(|_| true)
    }

    /// As [`required`](Self::required), of what is in the memory of the machine only.
    pub(crate) fn required_host(&self) -> u64 {
        self.most(|term| term.host).1
    }

    /// Returns the largest term of the stage that needs most.
    pub(crate) fn largest_term(&self) -> Option<MemoryTerm> {
        let stage = self.required().0;
        let terms = self.terms.iter().filter(|t| [MemoryStage::Always, stage].contains(&t.stage));
        terms.max_by_key(|term| term.bytes).copied()
    }

    fn most(&self, counts: impl Fn(&MemoryTerm) -> bool) -> (MemoryStage, u64) {
        let of = |stage| {
            let terms = self.terms.iter().filter(|t| t.stage == stage && counts(t));
            sum(terms.map(|term| term.bytes))
        };
        let always = of(MemoryStage::Always);
        let stages =
            [MemoryStage::Images, MemoryStage::Vision, MemoryStage::Prompt, MemoryStage::Answer];
        let most = stages.map(|stage| (stage, always.saturating_add(of(stage))));
        most.into_iter().max_by_key(|(_, bytes)| *bytes).unwrap_or((MemoryStage::Always, always))
    }
}

/// Returns the terms whose sum is largest.
fn largest(each: impl Iterator<Item = Vec<MemoryTerm>>) -> Vec<MemoryTerm> {
    each.max_by_key(|terms| sum(terms.iter().map(|t| t.bytes))).unwrap_or_default()
}

/// The term of the input of the tower, in the memory of the machine.
const PATCHES: &str = "patches as f32";
/// The term of what linear layers outside of MLX hold beside their results.
const HOST_ROWS: &str = "rows outside of MLX";

impl Setting {
    /// While image `i` is decoded and resized.
    fn decode(&self, work: &Work, i: usize) -> Vec<MemoryTerm> {
        let image = work.images[i];
        let term = terms_of(MemoryStage::Images);
        let host = |name, bytes| term(name, bytes).on_host(true);
        vec![
            // Three bytes a pixel; beside them a progressive JPEG keeps coefficients of two bytes for
            // each of three channels, and what is turned upright the three bytes that it was.
            host("decoded image", sum([product(&[image.source_pixels, 9]), image.decoder_bytes])),
            // Between the passes and after them.
            host("resized image", product(&[sum([image.source_pixels, image.pixels]), 3])),
            host(PATCHES, sum(work.images[..=i].iter().map(|i| self.patch_bytes(*i)))),
        ]
    }

    /// While image `i` is in the tower.
    fn encode(&self, work: &Work, i: usize) -> Vec<MemoryTerm> {
        let (tower, image) = (&self.footprint.tower, work.images[i]);
        let term = terms_of(MemoryStage::Vision);
        // While one is in the tower, the next are prepared.
        let next = |at: usize| if work.images.len() > 1 { self.decode(work, at) } else { vec![] };
        let next = largest((0..work.images.len()).map(next));
        let next = sum(next.iter().filter(|t| t.name != PATCHES).map(|term| term.bytes));
        let values = product(&[image.tower_patches, tower.patch_values, image.patch_frames]);
        let cast = product(&[values, self.value_bytes]);
        vec![
            term(PATCHES, self.all_patch_bytes(work)).on_host(true),
            term("next image", next).on_host(true),
            term("patches on the device", product(&[values, F32])),
            term(
                "patches in the type of the tower",
                if self.value_bytes == F32 { 0 } else { cast },
            ),
            term("tower activations", self.tower_activations(image.tower_patches, work.adapted)),
            term("tower scores", self.tower_scores(image.tower_patches)).on_host(self.on_host),
            term(HOST_ROWS, self.host_rows(image.tower_patches, tower.hidden, tower.inner))
                .on_host(true),
            term("features", sum(work.images[..=i].iter().map(|i| self.feature_bytes(*i)))),
        ]
    }

    /// While the last step of the prompt is read, when most is held.
    fn prompt(&self, work: &Work) -> Vec<MemoryTerm> {
        let term = terms_of(MemoryStage::Prompt);
        let (tokens, decoder) = (self.prompt_tokens(work), &self.footprint.decoder);
        let (embeddings, step) = (self.embeddings(tokens), self.step(work).min(tokens));
        vec![
            term("features", self.all_feature_bytes(work)),
            term("embeddings", embeddings),
            term("keys and values", self.read_prompt(work)),
            term("keys and values that grow", self.growing(tokens, work)),
            term("decoder activations", self.decoder_activations(work)),
            term("decoder scores", self.decoder_scores(work)).on_host(self.scores_on_host(work)),
            term(HOST_ROWS, self.host_rows(step, decoder.hidden, decoder.inner)).on_host(true),
            term("weights unpacked", self.unpacked_weights()),
            term("logits", self.logits()),
            term("patches in the cache", self.kept_patches(work)).on_host(true),
            term("prefix in the cache", self.kept_prefix(tokens, work)),
        ]
    }

    /// While the last token is generated.
    fn answer(&self, work: &Work) -> Vec<MemoryTerm> {
        let term = terms_of(MemoryStage::Answer);
        let tokens = self.prompt_tokens(work).saturating_add(work.new_tokens);
        vec![
            term("keys and values", self.made_answer(work)),
            term("keys and values that grow", self.growing(tokens, work)),
            term("logits", self.logits()),
            term("patches in the cache", self.kept_patches(work)).on_host(true),
            term("features in the cache", self.all_feature_bytes(work).min(work.kept.features)),
            term("prefix in the cache", self.kept_prefix(tokens, work)),
        ]
    }

    /// Returns what the request `work` holds between its turns at most; if `batched`, in buffers that
    /// it shares with longer ones.
    pub(crate) fn promise(&self, work: &Work, batched: bool) -> Promise {
        let tokens = self.prompt_tokens(work).saturating_add(work.new_tokens);
        let padded = u64::from(padded_tokens(u32::try_from(tokens).unwrap_or(u32::MAX)));
        let embeddings = self.embeddings(tokens);
        Promise {
            answer: sum([
                match batched {
                    true => self.key_values(padded),
                    false => self.read_prompt(work).max(self.made_answer(work)),
                },
                self.logits(),
            ]),
            prompt: sum([self.all_patch_bytes(work), self.all_feature_bytes(work), embeddings]),
        }
    }

    /// Returns what a step that makes a token for each of `requests` takes besides: packed weights are
    /// unpacked from some number of rows on.
    pub(crate) fn batch_bytes(&self, requests: u64) -> u64 {
        let unpacks = self.backend.unpacks_from_rows().is_some_and(|rows| requests >= rows as u64);
        let DecoderFootprint { layers, hidden, inner, .. } = self.footprint.decoder;
        match unpacks && self.unpacks {
            true => product(&[hidden, inner, 5, self.value_bytes, layers.min(LAZY_LAYERS)]),
            false => 0,
        }
    }
}
