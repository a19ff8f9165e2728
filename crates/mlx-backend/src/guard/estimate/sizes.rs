//! How large each part of a request is, at most.

use super::{ImageWork, Setting, Work};
use crate::{
    guard::footprint::{
        DecoderFootprint, Footprint, TowerFootprint, product, sum, whole_score_bytes,
    },
    kv_cache::STEP_TOKENS,
    nn::MAX_SCORE_BYTES,
};

/// Bytes of an f32.
pub(super) const F32: u64 = 4;
/// Scores that attention holds at a time: those of the product and after softmax.
const SCORE_COPIES: u64 = 2;
/// As [`SCORE_COPIES`], where they are masked in between.
const MASKED_SCORE_COPIES: u64 = 3;

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
/// Values in f32 of an output that an adapter changes: what is added, that times its scale, and the sum.
const ADAPTED_VALUES: u64 = 3;
/// As [`ATTENTION_VALUES`], of all that a block of the tower makes.
const LAZY_VALUES: u64 = 30;
/// Blocks that MLX may have in flight: about a hundred operations.
const LAZY_BLOCKS: u64 = 2;
/// Values of a token, in multiples of the hidden size, that a layer of the decoder makes.
const DECODER_VALUES: u64 = 16;
/// Layers that MLX may have in flight: about a hundred operations.
pub(super) const LAZY_LAYERS: u64 = 4;
/// Copies of logits: as computed, in f32, as probabilities, sorted.
const LOGIT_COPIES: u64 = 6;

/// Tokens that buffers for `tokens` have room for.
fn capacity(tokens: u64) -> u64 {
    let step = u64::from(STEP_TOKENS.unsigned_abs());
    tokens.div_ceil(step).saturating_mul(step)
}

impl Setting {
    pub(super) fn prompt_tokens(&self, work: &Work) -> u64 {
        let tower = &self.footprint.tower;
        let merged = product(&[tower.merge, tower.merge]).max(1);
        sum(work.images.iter().map(|i| i.patches / merged).chain([work.text_tokens]))
    }

    pub(super) fn patch_bytes(&self, image: ImageWork) -> u64 {
        let values = product(&[image.patches, self.footprint.tower.patch_values]);
        product(&[values, image.patch_frames, F32])
    }

    pub(super) fn all_patch_bytes(&self, work: &Work) -> u64 {
        sum(work.images.iter().map(|image| self.patch_bytes(*image)))
    }

    pub(super) fn all_feature_bytes(&self, work: &Work) -> u64 {
        sum(work.images.iter().map(|image| self.feature_bytes(*image)))
    }

    pub(super) fn kept_patches(&self, work: &Work) -> u64 {
        self.all_patch_bytes(work).min(work.kept.images)
    }

    /// A copy of keys and values, block by block.
    pub(super) fn kept_prefix(&self, tokens: u64, work: &Work) -> u64 {
        let tokens = work.kv_cache.held_tokens(tokens);
        let bytes = product(&[tokens, self.footprint.decoder.token_bytes(self.value_bytes)]);
        bytes.min(work.kept.prefixes)
    }

    /// Those of the text, and with features in their places, which may be wider than what the decoder
    /// reads.
    pub(super) fn embeddings(&self, tokens: u64) -> u64 {
        let Footprint { tower, decoder } = &self.footprint;
        product(&[tokens, decoder.hidden.max(tower.features), self.value_bytes, 2])
    }

    pub(super) fn feature_bytes(&self, image: ImageWork) -> u64 {
        let tower = &self.footprint.tower;
        let merged = product(&[tower.merge, tower.merge]).max(1);
        product(&[image.patches / merged, tower.features, self.value_bytes])
    }

    pub(super) fn tower_activations(&self, patches: u64, adapted: bool) -> u64 {
        let TowerFootprint { hidden, inner, head_dim, .. } = self.footprint.tower;
        let values = |per_patch| product(&[patches, per_patch, self.value_bytes]);
        // Cosines and sines of rows and columns, with the angles that they are made of.
        let tables = product(&[patches, head_dim, F32, 3]);
        let inner_bytes = values(inner);
        let inner_values = self.inner_values(adapted);
        let added = |bytes| self.added(bytes, adapted);
        if values(hidden) <= self.backend.settle_bytes() as u64 {
            // Everything that the blocks in flight make.
            let block = sum([
                values(LAZY_VALUES * hidden),
                product(&[inner_bytes, inner_values]),
                added(sum([values(3 * hidden), inner_bytes])),
            ]);
            return sum([product(&[block, LAZY_BLOCKS]), tables]);
        }
        let attention = sum([
            values(ATTENTION_VALUES * hidden),
            // The rotation is computed in f32.
            product(&[patches, ROTATION_VALUES * hidden, F32 - self.value_bytes.min(F32)]),
            added(values(3 * hidden)),
        ]);
        let piece = inner_bytes.min(self.backend.max_inner_bytes() as u64);
        let mlp = sum([values(MLP_VALUES * hidden), product(&[piece, inner_values]), added(piece)]);
        sum([attention.max(mlp), tables])
    }

    /// Of a block that attends over the image or over windows, whichever is more.
    pub(super) fn tower_scores(&self, patches: u64) -> u64 {
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

    /// Normalised rows, gates and what they open.
    pub(super) fn host_rows(&self, rows: u64, hidden: u64, inner: u64) -> u64 {
        if !self.on_host {
            return 0;
        }
        let both = product(&[rows, 2, inner, F32]).min(self.backend.max_inner_bytes() as u64);
        sum([product(&[rows, hidden, F32]), both])
    }

    pub(super) fn key_values(&self, tokens: u64) -> u64 {
        product(&[capacity(tokens), self.footprint.decoder.token_bytes(self.value_bytes)])
    }

    /// Keys and values while the last step of the prompt is read.
    pub(super) fn read_prompt(&self, work: &Work) -> u64 {
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
    pub(super) fn made_answer(&self, work: &Work) -> u64 {
        let (prompt, how) = (self.prompt_tokens(work), &work.kv_cache);
        let tokens = prompt.saturating_add(work.new_tokens);
        let exact = match prompt < how.exact_tokens() {
            true => how.held_tokens(tokens).min(how.exact_tokens()),
            false => 0,
        };
        sum([self.key_values(exact), self.packed_key_values(tokens, work)])
    }

    /// Those that are packed, of a sequence of `tokens`.
    pub(super) fn packed_key_values(&self, tokens: u64, work: &Work) -> u64 {
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
    pub(super) fn growing(&self, tokens: u64, work: &Work) -> u64 {
        let layers = self.footprint.decoder.layers.max(1);
        let tokens = work.kv_cache.held_tokens(tokens);
        product(&[self.key_values(tokens) / layers, layers.min(LAZY_LAYERS)])
    }

    /// Tokens of the prompt read at a time, at most.
    pub(super) fn step(&self, work: &Work) -> u64 {
        work.prefill_step_tokens.max(self.footprint.tower.together)
    }

    pub(super) fn decoder_activations(&self, work: &Work) -> u64 {
        let decoder = &self.footprint.decoder;
        let step = self.step(work).min(self.prompt_tokens(work));
        let values = |per_token| product(&[step, per_token, self.value_bytes]);
        let inner = values(decoder.inner).min(self.backend.max_inner_bytes() as u64);
        let layer = sum([
            values(DECODER_VALUES * decoder.hidden),
            product(&[inner, self.inner_values(work.adapted)]),
            self.added(sum([values(3 * decoder.hidden), inner]), work.adapted),
        ]);
        let in_flight = match values(decoder.hidden) <= self.backend.decoder_settle_bytes() as u64 {
            true => LAZY_LAYERS,
            false => self.backend.decoder_settle_layers() as u64,
        };
        product(&[layer, in_flight.min(decoder.layers)])
    }

    /// Kernels outside of MLX do no product that an adapter changes.
    fn inner_values(&self, adapted: bool) -> u64 {
        if self.on_host && !adapted { HOST_INNER_VALUES } else { INNER_VALUES }
    }

    /// What an adapter takes to change an output of `bytes`.
    fn added(&self, bytes: u64, adapted: bool) -> u64 {
        if adapted { product(&[bytes / self.value_bytes.max(1), F32, ADAPTED_VALUES]) } else { 0 }
    }

    /// Of the layers in flight, the largest part.
    pub(super) fn unpacked_weights(&self) -> u64 {
        let DecoderFootprint { layers, hidden, inner, .. } = self.footprint.decoder;
        let in_flight = layers.min(self.backend.decoder_settle_layers() as u64);
        // Gate, up and down, and of attention no more than another two.
        let layer = product(&[hidden, inner, 5, self.value_bytes]);
        if self.unpacks { product(&[layer, in_flight]) } else { 0 }
    }

    /// Whether the attention of the decoder is outside of MLX; that of a window is not.
    pub(super) fn scores_on_host(&self, work: &Work) -> bool {
        self.on_host && work.kv_cache.window.is_none()
    }

    pub(super) fn decoder_scores(&self, work: &Work) -> u64 {
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
    pub(super) fn logits(&self) -> u64 {
        product(&[self.footprint.decoder.vocabulary, F32, LOGIT_COPIES])
    }
}
