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

use serde::Serialize;

use super::{
    footprint::{DecoderFootprint, Footprint, TowerFootprint, product, sum, whole_score_bytes},
    reservation::Promise,
};
use crate::{
    caches::CacheLimits,
    device::Backend,
    kv_cache::{KvCacheOptions, STEP_TOKENS, padded_tokens},
    nn::MAX_SCORE_BYTES,
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

/// An image of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ImageWork {
    /// Pixels of the image file.
    pub(crate) source_pixels: u64,
    /// Pixels after resizing.
    pub(crate) pixels: u64,
    /// Patches of the tower.
    pub(crate) patches: u64,
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
        let mut terms: Vec<MemoryTerm> = always
            .map(|(name, bytes)| MemoryTerm {
                stage: MemoryStage::Always,
                name,
                bytes,
                host: false,
            })
            .into();
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
/// Bytes of an f32.
const F32: u64 = 4;
/// Scores that attention holds at a time: those of the product and after softmax.
const SCORE_COPIES: u64 = 2;
/// As [`SCORE_COPIES`], where they are masked in between.
const MASKED_SCORE_COPIES: u64 = 3;

/// Tokens that buffers for `tokens` have room for.
fn capacity(tokens: u64) -> u64 {
    let step = u64::from(STEP_TOKENS.unsigned_abs());
    tokens.div_ceil(step).saturating_mul(step)
}

impl Setting {
    /// While image `i` is decoded and resized.
    fn decode(&self, work: &Work, i: usize) -> Vec<MemoryTerm> {
        let image = work.images[i];
        let host = |name, bytes| MemoryTerm { stage: MemoryStage::Images, name, bytes, host: true };
        vec![
            // Three bytes a pixel; beside them a progressive JPEG keeps coefficients of two bytes for
            // each of three channels, and what is turned upright the three bytes that it was.
            host("decoded image", product(&[image.source_pixels, 9])),
            // Between the passes and after them.
            host("resized image", product(&[sum([image.source_pixels, image.pixels]), 3])),
            host(PATCHES, sum(work.images[..=i].iter().map(|i| self.patch_bytes(*i)))),
        ]
    }

    /// While image `i` is in the tower.
    fn encode(&self, work: &Work, i: usize) -> Vec<MemoryTerm> {
        let (tower, image) = (&self.footprint.tower, work.images[i]);
        let term =
            |name, bytes| MemoryTerm { stage: MemoryStage::Vision, name, bytes, host: false };
        // While one is in the tower, the next are prepared.
        let next = |at: usize| if work.images.len() > 1 { self.decode(work, at) } else { vec![] };
        let next = largest((0..work.images.len()).map(next));
        let next = sum(next.iter().filter(|t| t.name != PATCHES).map(|term| term.bytes));
        let cast = product(&[image.patches, tower.patch_values, self.value_bytes]);
        vec![
            MemoryTerm { host: true, ..term(PATCHES, self.all_patch_bytes(work)) },
            MemoryTerm { host: true, ..term("next image", next) },
            term("patches on the device", self.patch_bytes(image)),
            term(
                "patches in the type of the tower",
                if self.value_bytes == F32 { 0 } else { cast },
            ),
            term("tower activations", self.tower_activations(image.patches)),
            MemoryTerm {
                host: self.on_host,
                ..term("tower scores", self.tower_scores(image.patches))
            },
            MemoryTerm {
                host: true,
                ..term(
                    "rows outside of MLX",
                    self.host_rows(image.patches, tower.hidden, tower.inner),
                )
            },
            term("features", sum(work.images[..=i].iter().map(|i| self.feature_bytes(*i)))),
        ]
    }

    /// While the last step of the prompt is read, when most is held.
    fn prompt(&self, work: &Work) -> Vec<MemoryTerm> {
        let term =
            |name, bytes| MemoryTerm { stage: MemoryStage::Prompt, name, bytes, host: false };
        let tokens = self.prompt_tokens(work);
        let embeddings = self.embeddings(tokens);
        vec![
            term("features", self.all_feature_bytes(work)),
            term("embeddings", embeddings),
            term("keys and values", self.read_prompt(work)),
            term("keys and values that grow", self.growing(tokens, work)),
            term("decoder activations", self.decoder_activations(work)),
            MemoryTerm {
                host: self.scores_on_host(work),
                ..term("decoder scores", self.decoder_scores(work))
            },
            MemoryTerm {
                host: true,
                ..term("rows outside of MLX", {
                    let DecoderFootprint { hidden, inner, .. } = self.footprint.decoder;
                    self.host_rows(self.step(work).min(tokens), hidden, inner)
                })
            },
            term("weights unpacked", self.unpacked_weights()),
            term("logits", self.logits()),
            MemoryTerm { host: true, ..term("patches in the cache", self.kept_patches(work)) },
            term("prefix in the cache", self.kept_prefix(tokens, work)),
        ]
    }

    /// While the last token is generated.
    fn answer(&self, work: &Work) -> Vec<MemoryTerm> {
        let term =
            |name, bytes| MemoryTerm { stage: MemoryStage::Answer, name, bytes, host: false };
        let tokens = self.prompt_tokens(work).saturating_add(work.new_tokens);
        vec![
            term("keys and values", self.made_answer(work)),
            term("keys and values that grow", self.growing(tokens, work)),
            term("logits", self.logits()),
            MemoryTerm { host: true, ..term("patches in the cache", self.kept_patches(work)) },
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

    fn prompt_tokens(&self, work: &Work) -> u64 {
        let tower = &self.footprint.tower;
        let merged = product(&[tower.merge, tower.merge]).max(1);
        sum(work.images.iter().map(|i| i.patches / merged).chain([work.text_tokens]))
    }

    fn patch_bytes(&self, image: ImageWork) -> u64 {
        product(&[image.patches, self.footprint.tower.patch_values, F32])
    }

    fn all_patch_bytes(&self, work: &Work) -> u64 {
        sum(work.images.iter().map(|image| self.patch_bytes(*image)))
    }

    fn all_feature_bytes(&self, work: &Work) -> u64 {
        sum(work.images.iter().map(|image| self.feature_bytes(*image)))
    }

    fn kept_patches(&self, work: &Work) -> u64 {
        self.all_patch_bytes(work).min(work.kept.images)
    }

    /// A copy of keys and values, block by block.
    fn kept_prefix(&self, tokens: u64, work: &Work) -> u64 {
        let tokens = work.kv_cache.held_tokens(tokens);
        let bytes = product(&[tokens, self.footprint.decoder.token_bytes(self.value_bytes)]);
        bytes.min(work.kept.prefixes)
    }

    /// Those of the text, and with features in their places, which may be wider than what the decoder
    /// reads.
    fn embeddings(&self, tokens: u64) -> u64 {
        let Footprint { tower, decoder } = &self.footprint;
        product(&[tokens, decoder.hidden.max(tower.features), self.value_bytes, 2])
    }

    fn feature_bytes(&self, image: ImageWork) -> u64 {
        let tower = &self.footprint.tower;
        let merged = product(&[tower.merge, tower.merge]).max(1);
        product(&[image.patches / merged, tower.features, self.value_bytes])
    }

    fn tower_activations(&self, patches: u64) -> u64 {
        let TowerFootprint { hidden, inner, head_dim, .. } = self.footprint.tower;
        let values = |per_patch| product(&[patches, per_patch, self.value_bytes]);
        // Cosines and sines of rows and columns, with the angles that they are made of.
        let tables = product(&[patches, head_dim, F32, 3]);
        let inner_bytes = values(inner);
        if values(hidden) <= self.backend.settle_bytes() as u64 {
            // Everything that the blocks in flight make.
            let block =
                sum([values(LAZY_VALUES * hidden), product(&[inner_bytes, self.inner_values()])]);
            return sum([product(&[block, LAZY_BLOCKS]), tables]);
        }
        let attention = sum([
            values(ATTENTION_VALUES * hidden),
            // The rotation is computed in f32.
            product(&[patches, ROTATION_VALUES * hidden, F32 - self.value_bytes.min(F32)]),
        ]);
        let piece = inner_bytes.min(self.backend.max_inner_bytes() as u64);
        let mlp = sum([values(MLP_VALUES * hidden), product(&[piece, self.inner_values()])]);
        sum([attention.max(mlp), tables])
    }

    /// Of a block that attends over the image or over windows, whichever is more.
    fn tower_scores(&self, patches: u64) -> u64 {
        let TowerFootprint { heads, window_patches, .. } = self.footprint.tower;
        match self.fused_tower {
            true => 0,
            // In pieces; all of them would be `whole_score_bytes`.
            false => {
                let whole = whole_score_bytes(heads, patches.max(window_patches), F32);
                let copies = if self.on_host { 1 } else { SCORE_COPIES };
                product(&[whole.min(MAX_SCORE_BYTES), copies])
            }
        }
    }

    /// What linear layers outside of MLX hold beside their results: normalised rows, gates and what they open.
    fn host_rows(&self, rows: u64, hidden: u64, inner: u64) -> u64 {
        if !self.on_host {
            return 0;
        }
        let both = product(&[rows, 2, inner, F32]).min(self.backend.max_inner_bytes() as u64);
        sum([product(&[rows, hidden, F32]), both])
    }

    fn key_values(&self, tokens: u64) -> u64 {
        product(&[capacity(tokens), self.footprint.decoder.token_bytes(self.value_bytes)])
    }

    /// Keys and values while the last step of the prompt is read.
    fn read_prompt(&self, work: &Work) -> u64 {
        let (tokens, how) = (self.prompt_tokens(work), &work.kv_cache);
        let step = self.step(work);
        let held = match how.window {
            // What a step reads is seen together with what was kept before.
            Some(_) => tokens.min(how.held_tokens(tokens).saturating_add(step)),
            // Packed after the step that made them enough.
            None => tokens.min(how.exact_tokens().saturating_add(step)),
        };
        sum([self.key_values(held), self.packed_key_values(tokens, work)])
    }

    /// Keys and values when the answer is complete.
    fn made_answer(&self, work: &Work) -> u64 {
        let (prompt, how) = (self.prompt_tokens(work), &work.kv_cache);
        let tokens = prompt.saturating_add(work.new_tokens);
        let exact = match prompt < how.exact_tokens() {
            true => how.held_tokens(tokens).min(how.exact_tokens()),
            false => 0,
        };
        sum([self.key_values(exact), self.packed_key_values(tokens, work)])
    }

    /// Those that are packed, of a sequence of `tokens`.
    fn packed_key_values(&self, tokens: u64, work: &Work) -> u64 {
        let Some(how) = work.kv_cache.quantize.filter(|_| tokens >= work.kv_cache.exact_tokens())
        else {
            return 0;
        };
        let values = self.footprint.decoder.token_bytes(1);
        let [bits, group] = [how.bits, how.group_size].map(|n| u64::from(n.unsigned_abs()).max(1));
        let token = sum([
            product(&[values, bits]).div_ceil(8),
            product(&[values / group, 2, self.value_bytes]),
        ]);
        product(&[capacity(tokens), token])
    }

    /// Old buffers of the layers in flight, while new ones are made; or what is unpacked of them.
    fn growing(&self, tokens: u64, work: &Work) -> u64 {
        let layers = self.footprint.decoder.layers.max(1);
        let tokens = work.kv_cache.held_tokens(tokens);
        product(&[self.key_values(tokens) / layers, layers.min(LAZY_LAYERS)])
    }

    /// Tokens of the prompt read at a time, at most.
    fn step(&self, work: &Work) -> u64 {
        work.prefill_step_tokens.max(self.footprint.tower.together)
    }

    fn decoder_activations(&self, work: &Work) -> u64 {
        let decoder = &self.footprint.decoder;
        let step = self.step(work).min(self.prompt_tokens(work));
        let values = |per_token| product(&[step, per_token, self.value_bytes]);
        let inner = values(decoder.inner).min(self.backend.max_inner_bytes() as u64);
        let inner = product(&[inner, self.inner_values()]);
        let layer = sum([values(DECODER_VALUES * decoder.hidden), inner]);
        let in_flight = match values(decoder.hidden) <= self.backend.decoder_settle_bytes() as u64 {
            true => LAZY_LAYERS,
            false => self.backend.decoder_settle_layers() as u64,
        };
        product(&[layer, in_flight.min(decoder.layers)])
    }

    fn inner_values(&self) -> u64 {
        if self.on_host { HOST_INNER_VALUES } else { INNER_VALUES }
    }

    /// Of the layers in flight, the largest part.
    fn unpacked_weights(&self) -> u64 {
        let DecoderFootprint { layers, hidden, inner, .. } = self.footprint.decoder;
        let in_flight = layers.min(self.backend.decoder_settle_layers() as u64);
        // Gate, up and down, and of attention no more than another two.
        let layer = product(&[hidden, inner, 5, self.value_bytes]);
        if self.unpacks { product(&[layer, in_flight]) } else { 0 }
    }

    /// Whether the attention of the decoder is outside of MLX; that of a window is not.
    fn scores_on_host(&self, work: &Work) -> bool {
        self.on_host && work.kv_cache.window.is_none()
    }

    fn decoder_scores(&self, work: &Work) -> u64 {
        let tokens = self.prompt_tokens(work);
        let step = self.step(work).min(tokens);
        match self.fused_decoder {
            true => 0,
            false => {
                let whole = product(&[self.footprint.decoder.heads, step, tokens, F32]);
                let copies = if self.scores_on_host(work) { 1 } else { MASKED_SCORE_COPIES };
                product(&[whole.min(MAX_SCORE_BYTES), copies])
            }
        }
    }

    /// Those of the last token only, with what the sampler makes of them.
    fn logits(&self) -> u64 {
        product(&[self.footprint.decoder.vocabulary, F32, LOGIT_COPIES])
    }
}

/// Values of a patch, in multiples of the hidden size, that are alive at most in the attention of a
/// tower block: input, qkv, queries, keys, their rotation, what is folded into windows, results.
const ATTENTION_VALUES: u64 = 12;
/// Those of them that are f32 whatever the type.
const ROTATION_VALUES: u64 = 4;
/// As [`ATTENTION_VALUES`], around an MLP.
const MLP_VALUES: u64 = 5;
/// Inner activations alive in an MLP: gate, its sigmoid, their product, up, and the product of both.
const INNER_VALUES: u64 = 5;
/// The same outside of MLX: gate and up, and the product of both.
const HOST_INNER_VALUES: u64 = 3;
/// As [`ATTENTION_VALUES`], of all that a block of the tower makes.
const LAZY_VALUES: u64 = 30;
/// Blocks that MLX may have in flight: about a hundred operations.
const LAZY_BLOCKS: u64 = 2;
/// Values of a token, in multiples of the hidden size, that a layer of the decoder makes.
const DECODER_VALUES: u64 = 16;
/// Layers that MLX may have in flight: about a hundred operations.
const LAZY_LAYERS: u64 = 4;
/// Copies of logits: as computed, in f32, as probabilities, sorted.
const LOGIT_COPIES: u64 = 6;
