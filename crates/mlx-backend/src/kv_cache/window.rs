//! The keys and values of the first tokens and of the last ones, in a buffer whose oldest place is
//! written to once it is full, as mlx-lm's rotating cache.
//!
//! ```text
//! of 9 tokens read, 6 held, the first 2 of them for ever:
//!
//!         keep          next
//!     | k0 k1 | k6 k7 k8 | k5 |     read one by one: order does not matter to one query
//!     | k0 k1 | k5 k6 k7 k8 |       before several are read: they see different ones
//! ```

use std::ops::Range;

use mlx_rs::{
    Array,
    error::Result as MlxResult,
    ops::{self, indexing::TryIndexOp},
};

use super::{
    Attention, KvWindow, STEP_TOKENS,
    plain::{Buffers, arrays_of, grown, part_of},
};
use crate::{
    ffi::slice_update,
    nn::{Reach, attention},
};

/// Keys and values of one sequence in one layer, of at most a number of tokens.
#[derive(Clone, Debug)]
pub(crate) struct WindowCache {
    /// `[1, K, S, D]`, where `S` is at most `most`.
    buffers: Buffers,
    /// Tokens read.
    offset: i32,
    /// Where the next token goes once the buffers are full.
    next: i32,
    most: i32,
    keep: i32,
}

impl WindowCache {
    pub(super) fn new(window: &KvWindow) -> Self {
        // Validated when the options were given.
        let [most, keep] = [window.max_tokens, window.keep_tokens]
            .map(|tokens| i32::try_from(tokens).unwrap_or(i32::MAX));
        Self { buffers: None, offset: 0, next: keep, most, keep }
    }

    /// Returns a cache that has read what `keys` and `values`, `[1, K, S, D]`, hold, and nothing else;
    /// `S` is at most that of the window.
    pub(super) fn of(window: &KvWindow, keys: Array, values: Array) -> Self {
        Self { offset: keys.dim(2), buffers: Some((keys, values)), ..Self::new(window) }
    }

    /// Returns how many tokens were read.
    pub(super) fn offset(&self) -> i32 {
        self.offset
    }

    /// Whether all of them are held.
    pub(super) fn holds_all(&self) -> bool {
        self.offset <= self.most
    }

    /// As [`LayerCaches::attend`](super::LayerCaches::attend).
    pub(super) fn attend(
        &mut self,
        queries: &Array,
        (keys, values): (&Array, &Array),
        how: Attention,
    ) -> MlxResult<Array> {
        if queries.dim(2) == 1 {
            let (keys, values) = self.update_in_place(keys, values)?;
            return attention(queries, &keys, &values, how.scale, Reach::All, how.fused);
        }
        let of_old = |x: Option<&Array>| x.map(|x| self.ordered(x)).transpose();
        let (old_keys, old_values) = match &self.buffers {
            Some((k, v)) => (of_old(Some(k))?, of_old(Some(v))?),
            None => (None, None),
        };
        let joined = |old: Option<Array>, new: &Array| match old {
            Some(old) => ops::concatenate(&[&old, new], 2),
            None => Ok(new.clone()),
        };
        let (keys, values) = (joined(old_keys, keys)?, joined(old_values, values)?);
        let reach = Reach::Window { most: self.most, keep: self.keep, together: false };
        let out = attention(queries, &keys, &values, how.scale, reach, how.fused)?;
        self.offset += queries.dim(2);
        self.next = self.keep;
        self.buffers = Some((self.last(&keys, self.most)?, self.last(&values, self.most)?));
        Ok(out)
    }

    /// Returns the keys, or the values, of the tokens of `range`, if [all are held](Self::holds_all).
    pub(super) fn part(&self, values: bool, range: Range<i32>) -> MlxResult<Option<Array>> {
        part_of(&self.buffers, values, range)
    }

    /// Iterates over the buffers.
    pub(super) fn arrays(&self) -> impl Iterator<Item = &Array> {
        arrays_of(&self.buffers)
    }

    /// Puts one token into its place and returns all that are held, in any order.
    fn update_in_place(&mut self, keys: &Array, values: &Array) -> MlxResult<(Array, Array)> {
        let full = self.offset >= self.most;
        let at = if full { self.next } else { self.offset };
        let held = self.offset.min(self.most);
        let put = |buffer: Option<Array>, new: &Array| {
            let buffer = match buffer {
                Some(buffer) if buffer.dim(2) > at => buffer,
                buffer => {
                    let capacity = (at / STEP_TOKENS + 1).saturating_mul(STEP_TOKENS);
                    grown(buffer.as_ref(), new, held, capacity.min(self.most))?
                }
            };
            let to = [1, new.dim(1), at + 1, new.dim(3)];
            slice_update(&buffer, new, [0, 0, at, 0], to)
        };
        let (old_keys, old_values) = self.buffers.take().unzip();
        let (keys, values) = (put(old_keys, keys)?, put(old_values, values)?);
        self.offset += 1;
        if full {
            self.next = if at + 1 < self.most { at + 1 } else { self.keep };
        }
        let seen = |x: &Array| x.try_index((.., .., ..self.offset.min(self.most), ..));
        let both = (seen(&keys)?, seen(&values)?);
        self.buffers = Some((keys, values));
        Ok(both)
    }

    /// Returns what the next of several tokens may see of a buffer, in the order of reading.
    fn ordered(&self, buffer: &Array) -> MlxResult<Array> {
        let part = |from: i32, to: i32| buffer.try_index((.., .., from..to, ..));
        let held = self.offset.min(self.most);
        let ordered = match self.offset > self.most && self.next > self.keep {
            true => {
                let parts =
                    [part(0, self.keep)?, part(self.next, held)?, part(self.keep, self.next)?];
                ops::concatenate(&parts, 2)?
            }
            false => part(0, held)?,
        };
        self.last(&ordered, self.most - 1)
    }

    /// Returns the first tokens that stay and the last of a buffer in order, `tokens` at most.
    fn last(&self, buffer: &Array, tokens: i32) -> MlxResult<Array> {
        let held = buffer.dim(2);
        if held <= tokens {
            return Ok(buffer.clone());
        }
        let part = |from: i32, to: i32| buffer.try_index((.., .., from..to, ..));
        let last = part(held - (tokens - self.keep), held)?;
        ops::concatenate(&[part(0, self.keep)?, last], 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::wave;

    const HOW: Attention = Attention { scale: 0.3, fused: false, window: None, together: false };

    /// However many tokens come at a time, each sees the first ones and the last ones up to itself.
    #[test]
    fn each_token_sees_the_first_and_the_last() {
        for (most, keep) in [(12, 4), (12, 0), (5, 4), (300, 4), (64, 0)] {
            let window = KvWindow { max_tokens: most as usize, keep_tokens: keep as usize };
            let total = 400;
            let (k, v) = (wave(&[1, 2, total, 8], 0.37), wave(&[1, 2, total, 8], 0.11));
            let q = wave(&[1, 4, total, 8], 0.23);
            let of = |x: &Array, range: Range<i32>| x.try_index((.., .., range, ..)).unwrap();
            let expected = |at: i32| {
                let first = at + 1 - (most - keep);
                let picked = (0..=at).filter(|&c| c < keep || c >= first).collect::<Vec<i32>>();
                assert!(picked.len() as i32 <= most);
                let picked = Array::from_slice(&picked, &[picked.len() as i32]);
                let seen = |x: &Array| x.take_axis(&picked, 2).unwrap();
                attention(&of(&q, at..at + 1), &seen(&k), &seen(&v), HOW.scale, Reach::All, false)
                    .unwrap()
            };
            for steps in [vec![1; 400], vec![7, 1, 1, 30, 1, 1, 1, 5, 100, 1, 2, 250], vec![400]] {
                let mut cache = WindowCache::new(&window);
                let mut at = 0;
                for step in steps {
                    let now = at..at + step;
                    let new = (&of(&k, now.clone()), &of(&v, now.clone()));
                    let found = cache.attend(&of(&q, now.clone()), new, HOW).unwrap();
                    for token in now {
                        let off = of(&found, token - at..token - at + 1).subtract(expected(token));
                        let off = off.unwrap().abs().unwrap().max(None).unwrap();
                        let off = off.item_exact::<f32>();
                        assert!(off < 1e-5, "{most} {keep}: {token} of {step}: {off}");
                    }
                    at += step;
                    assert!(cache.arrays().all(|buffer| buffer.dim(2) <= most));
                    assert_eq!((cache.offset(), cache.holds_all()), (at, at <= most));
                }
            }
        }
    }
}
