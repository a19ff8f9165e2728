//! Keys and values as integers of a few bits with a scale and a bias for each group, as mlx-lm and
//! mlx-vlm pack them.

use std::ops::Range;

use mlx_rs::{
    Array, Dtype,
    error::{Exception, Result as MlxResult},
    ops,
};

use super::{
    Attention, PlainCache, no_layer,
    plain::{grown, whole_steps},
};
use crate::{
    ffi::{dequantize, quantize, quantized_product, slice, slice_update},
    nn::{attention, settle},
    quantize::Quantize,
};

/// Queries from which keys and values are unpacked for a product of matrices: MLX unpacks them again
/// for each row.
const MANY_QUERIES: i32 = 8;

/// Packed keys and values of one sequence in one layer.
#[derive(Clone, Debug)]
pub(crate) struct PackedCache {
    keys: Parts,
    values: Parts,
    offset: i32,
    how: Quantize,
}

/// Words, scales and biases, `[1, K, S, ..]` each.
#[derive(Clone, Debug)]
struct Parts([Array; 3]);

impl PackedCache {
    /// Packs what `cache` holds.
    pub(super) fn of(cache: PlainCache, how: Quantize) -> MlxResult<Self> {
        let offset = cache.offset();
        let (keys, values) = cache.into_buffers().ok_or_else(no_layer)?;
        let pack = |x: Array| {
            let used = slice(&x, [0; 4], [1, x.dim(1), offset, x.dim(3)])?;
            drop(x);
            let parts = Parts::pack(&used, how)?.grown(offset, offset)?;
            // A layer at a time, so that no more than that is there twice.
            parts.0.iter().try_for_each(Array::eval)?;
            Ok::<_, Exception>(parts)
        };
        Ok(Self { keys: pack(keys)?, values: pack(values)?, offset, how })
    }

    /// Returns how many tokens are held.
    pub(super) fn offset(&self) -> i32 {
        self.offset
    }

    /// Takes back what was read beyond `tokens`: it is written over.
    pub(super) fn shorten(&mut self, tokens: i32) {
        self.offset = self.offset.min(tokens);
    }

    /// As [`LayerCaches::attend`](super::LayerCaches::attend).
    pub(super) fn attend(
        &mut self,
        queries: &Array,
        new: (&Array, &Array),
        how: Attention,
    ) -> MlxResult<Array> {
        let end = self.offset + queries.dim(2);
        let (from, how_packed) = (self.offset, self.how);
        // What no query sees is not looked at.
        let first = how.window.map_or(0, |most| (from + 1 - most).max(0));
        let append = |held: &mut Parts, new: &Array| {
            if held.0[1].dtype() != new.dtype() {
                *held = held.cast(new.dtype())?;
            }
            if held.0[0].dim(2) < end {
                *held = held.grown(from, end)?;
            }
            held.put(Parts::pack(new, how_packed)?, from..end)?;
            held.part(first..end)
        };
        let seen = (append(&mut self.keys, new.0)?, append(&mut self.values, new.1)?);
        self.offset = end;
        let few = match how.together || how.window.is_some_and(|most| end > most) {
            true => 2,
            false => MANY_QUERIES,
        };
        if queries.dim(2) < few {
            return attend_packed(queries, &seen, self.how, how.scale);
        }
        let unpacked = |parts: &Parts| dequantize(parts.borrowed(), self.how, queries.dtype());
        let (keys, values) = (unpacked(&seen.0)?, unpacked(&seen.1)?);
        // Computed here, or those of several layers could be alive at once.
        settle(attention(queries, &keys, &values, how.scale, how.reach(), how.fused)?, 0)
    }

    /// Returns the keys, or the values, of the tokens of `range` as bytes, `[1, K, range, ..]`.
    pub(super) fn bytes_of(&self, values: bool, range: Range<i32>) -> MlxResult<Array> {
        let parts = if values { &self.values } else { &self.keys };
        parts.part(range)?.bytes()
    }

    /// Returns the cache of what [`bytes_of`](Self::bytes_of) returned for all its tokens.
    pub(super) fn from_bytes((keys, values): (Array, Array), how: Quantize) -> MlxResult<Self> {
        let offset = keys.dim(2);
        let (keys, values) = (Parts::from_bytes(&keys, how)?, Parts::from_bytes(&values, how)?);
        Ok(Self { keys, values, offset, how })
    }

    /// Iterates over the buffers.
    pub(super) fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.keys.0.iter().chain(&self.values.0)
    }
}

/// Packs `[.., S, D]` and returns the bytes of each token side by side, `[.., S, bytes]`.
pub(super) fn to_bytes(x: &Array, how: Quantize) -> MlxResult<Array> {
    Parts::pack(x, how)?.bytes()
}

impl Parts {
    fn pack(x: &Array, how: Quantize) -> MlxResult<Self> {
        let (words, scales, biases) = quantize(x, how)?;
        let biases = biases.ok_or_else(|| Exception::custom("a packing without biases"))?;
        Ok(Self([words, scales, biases]))
    }

    fn borrowed(&self) -> (&Array, &Array, Option<&Array>) {
        let [words, scales, biases] = &self.0;
        (words, scales, Some(biases))
    }

    fn map(&self, each: impl FnMut(&Array) -> MlxResult<Array>) -> MlxResult<Self> {
        let parts = self.0.iter().map(each).collect::<MlxResult<Vec<_>>>()?;
        parts.try_into().map(Self).map_err(|_| Exception::custom("not three parts"))
    }

    /// Returns buffers with room for `tokens`, which begin with the first `used`.
    fn grown(&self, used: i32, tokens: i32) -> MlxResult<Self> {
        self.map(|x| grown(Some(x), x, used, whole_steps(tokens)))
    }

    /// Puts `new` into the places of `range`.
    fn put(&mut self, new: Self, range: Range<i32>) -> MlxResult<()> {
        for (all, new) in self.0.iter_mut().zip(new.0) {
            let to = [1, all.dim(1), range.end, all.dim(3)];
            // Taken out, so that nobody else holds what is written to in place.
            let held = std::mem::replace(all, Array::from_int(0));
            *all = slice_update(&held, &new, [0, 0, range.start, 0], to)?;
        }
        Ok(())
    }

    fn part(&self, range: Range<i32>) -> MlxResult<Self> {
        self.map(|x| slice(x, [0, 0, range.start, 0], [1, x.dim(1), range.end, x.dim(3)]))
    }

    /// Returns these with scales and biases of `dtype`.
    fn cast(&self, dtype: Dtype) -> MlxResult<Self> {
        self.map(|x| if x.dtype() == Dtype::Uint32 { Ok(x.clone()) } else { x.as_dtype(dtype) })
    }

    /// Returns words, scales and biases of each token side by side, the latter as f32.
    fn bytes(&self) -> MlxResult<Array> {
        let parts = self.cast(Dtype::Float32)?;
        let parts = parts.map(|x| x.contiguous()?.view_dtype(Dtype::Uint8))?;
        ops::concatenate(&parts.0, -1)
    }

    fn from_bytes(bytes: &Array, how: Quantize) -> MlxResult<Self> {
        let width = bytes.dim(3);
        let words = how.group_size * how.bits / 8;
        let groups = width / (words + 2 * SCALE_BYTES);
        if groups * (words + 2 * SCALE_BYTES) != width {
            return Err(Exception::custom("keys and values in another packing"));
        }
        let part = |from: i32, to: i32, dtype: Dtype| {
            let to = [1, bytes.dim(1), bytes.dim(2), to];
            slice(bytes, [0, 0, 0, from], to)?.contiguous()?.view_dtype(dtype)
        };
        let [words, scales] = [groups * words, groups * SCALE_BYTES];
        Ok(Self([
            part(0, words, Dtype::Uint32)?,
            part(words, words + scales, Dtype::Float32)?,
            part(words + scales, width, Dtype::Float32)?,
        ]))
    }
}

/// Bytes of a scale, and of a bias, among the bytes of a token.
const SCALE_BYTES: i32 = 4;

/// Attention of a few queries `[1, H, L, D]`, the last of `[1, K, S, D]` packed keys, each over those up
/// to its own.
fn attend_packed(
    queries: &Array,
    (keys, values): &(Parts, Parts),
    packing: Quantize,
    scale: f32,
) -> MlxResult<Array> {
    let &[_, heads, l, d] = queries.shape() else {
        return Err(Exception::custom("queries are not [1, H, L, D]"));
    };
    let (key_heads, s) = (keys.0[0].dim(1), keys.0[0].dim(2));
    // Queries that share a key head are queries of one head: its keys are read once.
    let folded = queries.reshape(&[1, key_heads, heads / key_heads * l, d])?;
    let scale = Array::from_f32(scale).as_dtype(queries.dtype())?;
    let product =
        |x: &Array, of: &Parts, transpose| quantized_product(x, of.borrowed(), packing, transpose);
    let mut scores = product(&folded.multiply(scale)?, keys, true)?;
    if l > 1 {
        let last: Vec<i32> = (0..heads / key_heads * l).map(|row| s - l + row % l).collect();
        let last = Array::from_slice(&last, &[last.len() as i32, 1]);
        let seen = Array::from_slice(&(0..s).collect::<Vec<i32>>(), &[1, s]).le(last)?;
        let never = Array::from_f32(f32::NEG_INFINITY).as_dtype(scores.dtype())?;
        scores = ops::select(seen, scores, never)?;
    }
    let weights = ops::softmax_axis(&scores, -1, true)?;
    product(&weights, values, false)?.reshape(&[1, heads, l, d])
}

#[cfg(test)]
mod tests {
    use mlx_rs::ops::indexing::TryIndexOp;

    use super::*;
    use crate::{nn::Reach, noise::wave};

    const HOW: Attention = Attention { scale: 0.125, fused: false, window: None, together: false };

    /// Whatever number of tokens comes at a time, attention is that over keys and values that were
    /// packed and unpacked.
    #[test]
    fn attention_is_that_over_what_was_packed() {
        for (bits, group) in [(8, 64), (4, 64), (4, 32)] {
            let how = Quantize::affine(bits, group);
            let (k, v) = (wave(&[1, 2, 300, 64], 0.37), wave(&[1, 2, 300, 64], 0.11));
            let q = wave(&[1, 4, 300, 64], 0.23);
            let rounded = |x: &Array| {
                let parts = Parts::pack(x, how).unwrap();
                dequantize(parts.borrowed(), how, Dtype::Float32).unwrap()
            };
            let whole =
                attention(&q, &rounded(&k), &rounded(&v), HOW.scale, Reach::Causal, false).unwrap();
            let of = |x: &Array, range: Range<i32>| x.try_index((.., .., range, ..)).unwrap();
            let mut plain = PlainCache::default();
            plain.update(&of(&k, 0..200), &of(&v, 0..200)).unwrap();
            let mut cache = PackedCache::of(plain, how).unwrap();
            let mut at = 200;
            for step in [1, 3, 7, 8, 60, 1, 20] {
                let now = at..at + step;
                let new = (&of(&k, now.clone()), &of(&v, now.clone()));
                let found = cache.attend(&of(&q, now.clone()), new, HOW).unwrap();
                let expected = of(&whole, now);
                let off = found.subtract(expected).unwrap().abs().unwrap().max(None).unwrap();
                assert!(
                    off.item_exact::<f32>() < 1e-5,
                    "{bits} bits, {step} tokens at {at}: {off}"
                );
                at += step;
            }
            assert_eq!(cache.offset(), 300);
        }
    }

    /// The same where a token sees the last ones only.
    #[test]
    fn a_window_is_that_of_what_was_packed() {
        let how = Attention { window: Some(40), ..HOW };
        let packing = Quantize::affine(8, 64);
        let (k, v) = (wave(&[1, 2, 120, 64], 0.37), wave(&[1, 2, 120, 64], 0.11));
        let q = wave(&[1, 4, 120, 64], 0.23);
        let rounded = |x: &Array| {
            dequantize(Parts::pack(x, packing).unwrap().borrowed(), packing, Dtype::Float32)
        };
        let (all_keys, all_values) = (rounded(&k).unwrap(), rounded(&v).unwrap());
        let whole = attention(&q, &all_keys, &all_values, how.scale, how.reach(), false).unwrap();
        let of = |x: &Array, range: Range<i32>| x.try_index((.., .., range, ..)).unwrap();
        let mut plain = PlainCache::default();
        plain.update(&of(&k, 0..30), &of(&v, 0..30)).unwrap();
        let mut cache = PackedCache::of(plain, packing).unwrap();
        let mut at = 30;
        for step in [1, 3, 7, 8, 1, 60, 1, 3, 6] {
            let now = at..at + step;
            let new = (&of(&k, now.clone()), &of(&v, now.clone()));
            let found = cache.attend(&of(&q, now.clone()), new, how).unwrap();
            assert!(found.all_close(of(&whole, now), 1e-5, 1e-5, None).unwrap(), "at {at}");
            at += step;
        }
        assert_eq!(at, 120);
    }

    #[test]
    fn bytes_hold_all_there_is() {
        for dtype in [Dtype::Float32, Dtype::Bfloat16] {
            let how = Quantize::affine(4, 32);
            let x = wave(&[1, 2, 70, 64], 0.37).as_dtype(dtype).unwrap();
            let parts = Parts::pack(&x, how).unwrap();
            let bytes = parts.bytes().unwrap();
            assert_eq!(bytes.shape(), [1, 2, 70, 32 + 2 * 4 + 2 * 4]);
            let back = Parts::from_bytes(&bytes, how).unwrap().cast(dtype).unwrap();
            for (a, b) in parts.0.iter().zip(&back.0) {
                assert!(a.eq_values(b).unwrap());
            }
        }
        let other = wave(&[1, 1, 1, 7], 0.1).as_dtype(Dtype::Uint8).unwrap();
        assert!(Parts::from_bytes(&other, Quantize::affine(4, 64)).is_err());
    }
}
