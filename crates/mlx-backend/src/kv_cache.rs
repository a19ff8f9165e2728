//! Keys and values of the tokens already read.

mod rows;

use std::{fmt, ops::Range};

use mlx_rs::{
    Array,
    error::{Exception, Result as MlxResult},
    ops::{self, indexing::TryIndexOp},
};

pub(crate) use self::rows::{RowCaches, padded_tokens};
use crate::{
    attend::Attend,
    ffi::{slice, slice_update},
    nn::attention,
};

/// What the layers of a decoder have read: one sequence, or several that are read together.
pub(crate) trait LayerCaches: fmt::Debug {
    /// Appends keys and values `[B, K, L, D]` in `layer`, and returns the attention of the queries
    /// `[B, H, L, D]`, which stand at the same places, over all that each may see: `[B, H, L, D]`.
    fn attend(
        &mut self,
        layer: usize,
        queries: &Array,
        new: (&Array, &Array),
        how: Attention,
    ) -> MlxResult<Array>;

    /// Counts one token more in `layer`, at `position`, and returns where [`Attend`] is to write it;
    /// none if it must be appended by [`attend`](Self::attend).
    fn next_place(&mut self, _layer: usize, _position: i32) -> MlxResult<Option<Place<'_>>> {
        Ok(None)
    }
}

/// How attention is computed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attention {
    /// What products of queries and keys are multiplied with.
    pub(crate) scale: f32,
    /// Whether MLX has a fused kernel for it.
    pub(crate) fused: bool,
}

impl LayerCaches for Vec<KvCache> {
    fn attend(
        &mut self,
        layer: usize,
        queries: &Array,
        (keys, values): (&Array, &Array),
        how: Attention,
    ) -> MlxResult<Array> {
        let cache = self.get_mut(layer).ok_or_else(no_layer)?;
        let (keys, values) = cache.update(keys, values)?;
        attention(queries, &keys, &values, how.scale, true, how.fused)
    }

    fn next_place(&mut self, layer: usize, position: i32) -> MlxResult<Option<Place<'_>>> {
        self.get_mut(layer).ok_or_else(no_layer)?.next_place(position)
    }
}

fn no_layer() -> Exception {
    Exception::custom("a cache of fewer layers than the decoder has")
}

/// Tokens by which the buffers grow; growing copies, so it must be rare.
pub(crate) const STEP_TOKENS: i32 = 256;

/// Keys and values of one sequence in one layer: `[1, K, S, D]`, grown in steps.
#[derive(Clone, Debug, Default)]
pub(crate) struct KvCache {
    buffers: Option<(Array, Array)>,
    offset: i32,
    /// What [`Attend`] knows of this sequence, and the distance of positions from places in it.
    row_state: Option<(Array, i32)>,
}

/// Where the next token of a sequence goes.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    /// `[1, K, capacity, D]`.
    pub(crate) keys: &'a Array,
    /// `[1, K, capacity, D]`.
    pub(crate) values: &'a Array,
    pub(crate) state: &'a Array,
}

impl KvCache {
    /// Returns how many tokens are held.
    pub(crate) fn offset(&self) -> i32 {
        self.offset
    }

    /// Appends `[B, K, L, D]` keys and values and returns all, `[B, K, S, D]`.
    pub(crate) fn update(&mut self, keys: &Array, values: &Array) -> MlxResult<(Array, Array)> {
        let (start, end) = (self.offset, self.offset + keys.dim(2));
        let (all_keys, all_values) = match self.buffers.take() {
            Some((k, v)) if k.dim(2) >= end => (k, v),
            held => {
                let (old_k, old_v) = held.unzip();
                (
                    grown(old_k.as_ref(), keys, start, capacity(end))?,
                    grown(old_v.as_ref(), values, start, capacity(end))?,
                )
            }
        };
        let &[b, heads, _, d] = keys.shape() else {
            return Err(Exception::custom("keys are not [B, K, L, D]"));
        };
        let append = |all: Array, new: &Array| {
            let all = slice_update(&all, new, [0, 0, start, 0], [b, heads, end, d])?;
            Ok::<_, Exception>((slice(&all, [0; 4], [b, heads, end, d])?, all))
        };
        let (seen_keys, all_keys) = append(all_keys, keys)?;
        let (seen_values, all_values) = append(all_values, values)?;
        self.offset = end;
        self.buffers = Some((all_keys, all_values));
        Ok((seen_keys, seen_values))
    }

    /// Counts one token more, at `position`, which [`Attend`] is to write into its place; none before
    /// there are others.
    fn next_place(&mut self, position: i32) -> MlxResult<Option<Place<'_>>> {
        let (start, delta) = (self.offset, position - self.offset);
        let Some((keys, values)) = &mut self.buffers else { return Ok(None) };
        if keys.dim(2) <= start {
            for buffer in [&mut *keys, values] {
                *buffer = grown(Some(buffer), buffer, start, capacity(start + 1))?;
            }
        }
        if self.row_state.as_ref().is_none_or(|(_, known)| *known != delta) {
            self.row_state = Some((Attend::state(keys.dim(1), delta), delta));
        }
        self.offset += 1;
        let state = self.row_state.as_ref().map(|(state, _)| state);
        Ok(state.map(|state| Place { keys, values, state }))
    }

    /// Returns the tokens of `range` of all layers as one array, `[2 * layers, K, range, D]` with
    /// the keys of all layers before the values, in memory of its own.
    pub(crate) fn copy_range(layers: &[Self], range: Range<usize>) -> MlxResult<Array> {
        let (from, to) = (range.start as i32, range.end as i32);
        let keys = layers.iter().filter_map(|layer| layer.buffers.as_ref().map(|(k, _)| k));
        let values = layers.iter().filter_map(|layer| layer.buffers.as_ref().map(|(_, v)| v));
        let parts: Vec<Array> = keys
            .chain(values)
            .map(|buffer| buffer.try_index((.., .., from..to, ..)))
            .collect::<MlxResult<_>>()?;
        ops::concatenate(&parts, 0)
    }

    /// Returns the caches of `layers` layers that hold the tokens of `parts`, which
    /// [`KvCache::copy_range`] made, one after the other.
    pub(crate) fn restore(layers: usize, parts: &[Array]) -> MlxResult<Vec<Self>> {
        if parts.is_empty() {
            return Ok(vec![Self::default(); layers]);
        }
        let all = ops::concatenate(parts, 2)?;
        let layer = |i: usize| all.try_index((i as i32..i as i32 + 1, .., .., ..));
        (0..layers)
            .map(|i| {
                Ok(Self {
                    buffers: Some((layer(i)?, layer(layers + i)?)),
                    offset: all.dim(2),
                    row_state: None,
                })
            })
            .collect()
    }

    /// Iterates over the buffers, to evaluate them.
    pub(crate) fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.buffers.iter().flat_map(|(k, v)| [k, v])
    }

    /// Returns how many bytes the buffers of `layers` take.
    pub(crate) fn bytes(layers: &[Self]) -> u64 {
        layers.iter().flat_map(Self::arrays).map(|buffer| buffer.nbytes() as u64).sum()
    }
}

/// Returns the size of buffers for `tokens` of one sequence.
///
/// Not a multiple of 256: of such buffers MLX takes cuDNN for single queries on CUDA, which at 2900
/// tokens takes 114 us a layer where its own kernel takes 43.
fn capacity(tokens: i32) -> i32 {
    (tokens + STEP_TOKENS - 1) / STEP_TOKENS * STEP_TOKENS + 1
}

/// Returns a buffer of `capacity` tokens, shaped like `like`, that begins with `used` of `old`.
fn grown(old: Option<&Array>, like: &Array, used: i32, capacity: i32) -> MlxResult<Array> {
    let mut shape = like.shape().to_vec();
    shape[2] = capacity - used;
    let tail = ops::zeros_dtype(&shape, like.dtype())?;
    match old {
        Some(old) if used > 0 => ops::concatenate(&[old.try_index((.., .., ..used, ..))?, tail], 2),
        _ => Ok(tail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three layers with two heads of four values, all different.
    fn filled(tokens: i32) -> Vec<KvCache> {
        let mut layers = vec![KvCache::default(); 3];
        for (i, layer) in layers.iter_mut().enumerate() {
            let count = 2 * tokens * 4;
            let keys: Vec<f32> = (0..count).map(|v| (1000 * i as i32 + v) as f32).collect();
            let values: Vec<f32> = keys.iter().map(|v| -v).collect();
            let shape = [1, 2, tokens, 4];
            let pair = (Array::from_slice(&keys, &shape), Array::from_slice(&values, &shape));
            layer.update(&pair.0, &pair.1).unwrap();
        }
        layers
    }

    #[test]
    fn what_is_copied_in_parts_comes_back_whole_and_grows_on() {
        let mut original = filled(300);
        let parts: Vec<Array> = [0..64, 64..128, 128..290, 290..300]
            .map(|range| KvCache::copy_range(&original, range).unwrap())
            .into();
        assert_eq!(parts[2].shape(), [6, 2, 162, 4]);
        let mut restored = KvCache::restore(3, &parts).unwrap();
        assert_eq!(restored[0].offset(), 300);
        let next = Array::from_slice(&[7f32; 8], &[1, 2, 1, 4]);
        for (old, new) in original.iter_mut().zip(&mut restored) {
            let (old, new) = (old.update(&next, &next).unwrap(), new.update(&next, &next).unwrap());
            assert_eq!((new.0.shape(), new.1.shape()), (&[1, 2, 301, 4][..], &[1, 2, 301, 4][..]));
            assert!(old.0.eq_values(&new.0).unwrap());
            assert!(old.1.eq_values(&new.1).unwrap());
        }
        assert_eq!(KvCache::restore(3, &[]).unwrap()[2].offset(), 0);
    }
}
