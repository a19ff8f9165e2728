//! Keys and values as they are computed, in buffers that grow.

use std::ops::Range;

use mlx_rs::{
    Array,
    error::{Exception, Result as MlxResult},
    ops::{self, indexing::TryIndexOp},
};

use super::{Attention, Place};
use crate::{
    attend::Attend,
    ffi::{slice, slice_update},
    nn::attention,
};

/// Tokens by which the buffers grow; growing copies, so it must be rare.
pub(crate) const STEP_TOKENS: i32 = 256;

/// Keys and values, `[1, K, S, D]` each, once there are some.
pub(super) type Buffers = Option<(Array, Array)>;

/// Keys and values of one sequence in one layer, grown in steps.
#[derive(Clone, Debug, Default)]
pub(crate) struct PlainCache {
    buffers: Buffers,
    offset: i32,
    /// What [`Attend`] knows of this sequence, and the distance of positions from places in it.
    row_state: Option<(Array, i32)>,
}

impl PlainCache {
    /// Returns a cache of all that `keys` and `values`, `[1, K, S, D]`, hold.
    pub(super) fn of(keys: Array, values: Array) -> Self {
        Self { offset: keys.dim(2), buffers: Some((keys, values)), row_state: None }
    }

    /// Returns how many tokens are held.
    pub(super) fn offset(&self) -> i32 {
        self.offset
    }

    /// Takes back what was read beyond `tokens`: it is written over.
    pub(super) fn shorten(&mut self, tokens: i32) {
        self.offset = self.offset.min(tokens);
    }

    /// Returns keys and values, with room for more behind them.
    pub(super) fn into_buffers(self) -> Buffers {
        self.buffers
    }

    /// As [`LayerCaches::attend`](super::LayerCaches::attend).
    pub(super) fn attend(
        &mut self,
        queries: &Array,
        (keys, values): (&Array, &Array),
        how: Attention,
    ) -> MlxResult<Array> {
        let (keys, values) = self.update(keys, values)?;
        attention(queries, &keys, &values, how.scale, how.reach(), how.fused)
    }

    /// Appends `[B, K, L, D]` keys and values and returns all, `[B, K, S, D]`.
    pub(super) fn update(&mut self, keys: &Array, values: &Array) -> MlxResult<(Array, Array)> {
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

    /// Counts one token more, at `position`, which a kernel of our own is to write into its place; none
    /// before there are others.
    pub(super) fn next_place(&mut self, position: i32) -> MlxResult<Option<Place<'_>>> {
        let delta = position - self.offset;
        let Some((keys, _, tokens)) = self.next_row()? else { return Ok(None) };
        let key_heads = keys.dim(1);
        if self.row_state.as_ref().is_none_or(|(_, known)| *known != delta) {
            self.row_state = Some((Attend::state(key_heads, delta), delta));
        }
        let both = self.buffers.as_ref().zip(self.row_state.as_ref());
        Ok(both.map(|((keys, values), (state, _))| Place { keys, values, tokens, state }))
    }

    /// Counts one token more, and returns keys, values and its place in them; none before there are
    /// others.
    pub(super) fn next_row(&mut self) -> MlxResult<Option<(&Array, &Array, i32)>> {
        let start = self.offset;
        let Some((keys, values)) = &mut self.buffers else { return Ok(None) };
        if keys.dim(2) <= start {
            for buffer in [&mut *keys, values] {
                *buffer = grown(Some(buffer), buffer, start, capacity(start + 1))?;
            }
        }
        self.offset += 1;
        Ok(Some((keys, values, start)))
    }

    /// Returns the keys, or the values, of the tokens of `range`, a view.
    pub(super) fn part(&self, values: bool, range: Range<i32>) -> MlxResult<Option<Array>> {
        part_of(&self.buffers, values, range)
    }

    /// Iterates over the buffers, to evaluate them.
    pub(super) fn arrays(&self) -> impl Iterator<Item = &Array> {
        arrays_of(&self.buffers)
    }
}

/// Returns the size of buffers for `tokens` of one sequence.
///
/// Not a multiple of 256: of such buffers MLX takes cuDNN for single queries on CUDA, which at 2900
/// tokens takes 114 us a layer where its own kernel takes 43.
pub(super) fn capacity(tokens: i32) -> i32 {
    whole_steps(tokens) + 1
}

/// Returns the tokens of as many steps as hold `tokens`.
pub(super) fn whole_steps(tokens: i32) -> i32 {
    (tokens + STEP_TOKENS - 1) / STEP_TOKENS * STEP_TOKENS
}

/// Returns the keys, or the values, in places `range` of `buffers`, a view.
pub(super) fn part_of(
    buffers: &Buffers,
    values: bool,
    range: Range<i32>,
) -> MlxResult<Option<Array>> {
    let Some((keys, of_values)) = buffers else { return Ok(None) };
    let buffer = if values { of_values } else { keys };
    buffer.try_index((.., .., range, ..)).map(Some)
}

/// Iterates over both.
pub(super) fn arrays_of(buffers: &Buffers) -> impl Iterator<Item = &Array> {
    buffers.iter().flat_map(|(k, v)| [k, v])
}

/// Returns a buffer of `capacity` tokens, shaped like `like`, that begins with `used` of `old`.
pub(super) fn grown(
    old: Option<&Array>,
    like: &Array,
    used: i32,
    capacity: i32,
) -> MlxResult<Array> {
    let mut shape = like.shape().to_vec();
    shape[2] = capacity - used;
    let tail = ops::zeros_dtype(&shape, like.dtype())?;
    match old {
        Some(old) if used > 0 => ops::concatenate(&[old.try_index((.., .., ..used, ..))?, tail], 2),
        _ => Ok(tail),
    }
}
