//! Keys and values of the tokens already read.

use mlx_rs::{
    Array,
    error::Result as MlxResult,
    ops::{
        self,
        indexing::{TryIndexMutOp, TryIndexOp},
    },
};

/// Tokens by which the buffers grow; growing copies, so it must be rare.
pub(crate) const STEP_TOKENS: i32 = 256;

/// Keys and values of one layer: `[B, K, S, D]`, grown in steps.
#[derive(Clone, Debug, Default)]
pub(crate) struct KvCache {
    buffers: Option<(Array, Array)>,
    offset: i32,
}

impl KvCache {
    /// Returns how many tokens are held.
    pub(crate) fn offset(&self) -> i32 {
        self.offset
    }

    /// Appends `[B, K, L, D]` keys and values and returns all, `[B, K, S, D]`.
    pub(crate) fn update(&mut self, keys: &Array, values: &Array) -> MlxResult<(Array, Array)> {
        let (start, end) = (self.offset, self.offset + keys.dim(2));
        let (mut all_keys, mut all_values) = match self.buffers.take() {
            Some((k, v)) if k.dim(2) >= end => (k, v),
            held => {
                let capacity = (end + STEP_TOKENS - 1) / STEP_TOKENS * STEP_TOKENS;
                let (old_k, old_v) = held.unzip();
                (
                    grown(old_k.as_ref(), keys, start, capacity)?,
                    grown(old_v.as_ref(), values, start, capacity)?,
                )
            }
        };
        all_keys.try_index_mut((.., .., start..end, ..), keys)?;
        all_values.try_index_mut((.., .., start..end, ..), values)?;
        self.offset = end;
        let result =
            (all_keys.try_index((.., .., ..end, ..))?, all_values.try_index((.., .., ..end, ..))?);
        self.buffers = Some((all_keys, all_values));
        Ok(result)
    }

    /// Iterates over the buffers, to evaluate them.
    pub(crate) fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.buffers.iter().flat_map(|(k, v)| [k, v])
    }
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
