//! Attention in as little memory as the backend allows.

use std::ops::Range;

use mlx_rs::{
    Array,
    error::Result as MlxResult,
    fast,
    ops::{self, indexing::TryIndexOp},
};

use super::settle;
use crate::{device::Backend, ffi::host_attention};

/// Largest score tensor that attention makes where no fused kernel applies, in bytes.
pub(crate) const MAX_SCORE_BYTES: u64 = 32 << 20;

/// Which keys a query sees, where the queries are the last of the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    All,
    /// Those up to its own.
    Causal,
    /// Of those up to its own the first `keep`, which stay, and the last, `most` in all; if `together`,
    /// also every key that has a query.
    Window {
        most: i32,
        keep: i32,
        together: bool,
    },
}

/// Attention of `[B, H, L, D]` queries over those of `[B, K, S, D]` keys and values that each sees.
///
/// Where MLX has no fused kernel, the scores of all queries at once would take `B H L S` values,
/// 123 GB for a 12-megapixel photo; there it is done in pieces, see [`ScoreChunk`], and in f32 on a CPU
/// outside of MLX.
pub(crate) fn attention(
    q: &Array,
    k: &Array,
    v: &Array,
    scale: f32,
    reach: Reach,
    fused: bool,
) -> MlxResult<Array> {
    let causal = match reach {
        Reach::Window { most, .. } if k.dim(2) > most => {
            return attention_in_window(q, k, v, scale, reach);
        }
        Reach::Window { together, .. } => !together,
        Reach::Causal => true,
        Reach::All => false,
    };
    if fused {
        return attend(q, k, v, scale, causal);
    }
    let backend = Backend::current();
    if q.dim(2) > 1 && [q, k, v].iter().all(|x| backend.on_host(x.dtype())) {
        return host_attention(q, k, v, scale, causal, MAX_SCORE_BYTES);
    }
    attention_within(MAX_SCORE_BYTES, q, k, v, scale, causal)
}

fn attend(q: &Array, k: &Array, v: &Array, scale: f32, causal: bool) -> MlxResult<Array> {
    // A single query sees all keys anyway.
    let mask = (causal && q.dim(2) > 1).then_some(fast::ScaledDotProductAttentionMask::Causal);
    fast::scaled_dot_product_attention(q, k, v, scale, mask, None)
}

/// [`attention`] with [`Reach::Window`]: some queries at a time, so that scores stay small and few keys
/// are looked at that none of them sees.
fn attention_in_window(
    q: &Array,
    k: &Array,
    v: &Array,
    scale: f32,
    reach: Reach,
) -> MlxResult<Array> {
    let Reach::Window { most, keep, together } = reach else {
        return attend(q, k, v, scale, reach == Reach::Causal);
    };
    let (l, s) = (q.dim(2), k.dim(2));
    let last = |x: &Array, from: i32, to: i32| x.try_index((.., .., from..to, ..));
    if l == 1 && keep == 0 {
        return attend(q, &last(k, s - most, s)?, &last(v, s - most, s)?, scale, false);
    }
    // Every piece sees a window more than its rows; of more rows, less is looked at in vain.
    let keys = if keep == 0 { most.saturating_mul(2).saturating_add(l).min(s) } else { s };
    let rows = ScoreChunk::new(MAX_SCORE_BYTES, q.dim(0), q.dim(1), q.dim(1), keys).rows;
    let rows = if keep == 0 { rows.min(most.max(ScoreChunk::FEW_ROWS as i32)) } else { rows };
    let mut parts = Vec::new();
    for from in (0..l).step_by(rows as usize) {
        let (to, own) = (l.min(from + rows), s - l + from);
        let first = if keep == 0 { (own + 1 - most).max(0) } else { 0 };
        // Those that see each other see the first of them, too.
        let first = if together { first.min(s - l) } else { first };
        let end = if together { s } else { s - l + to };
        let places = |range: Range<i32>| range.collect::<Vec<i32>>();
        let columns = Array::from_slice(&places(first..end), &[1, end - first]);
        let own = Array::from_slice(&places(own..s - l + to), &[to - from, 1]);
        let oldest = own.subtract(Array::from_int(most - keep))?;
        let near = columns.gt(oldest)?.logical_or(columns.lt(Array::from_int(keep))?)?;
        let mask = match together {
            true => near.logical_or(columns.ge(Array::from_int(s - l))?)?,
            false => near.logical_and(columns.le(own)?)?,
        };
        let out = fast::scaled_dot_product_attention(
            last(q, from, to)?,
            last(k, first, end)?,
            last(v, first, end)?,
            scale,
            Some(fast::ScaledDotProductAttentionMask::Array(&mask)),
            None,
        )?;
        parts.push(settle(out, 0)?);
    }
    ops::concatenate(&parts, 2)
}

/// [`attention`] whose scores stay within `max_bytes`.
fn attention_within(
    max_bytes: u64,
    q: &Array,
    k: &Array,
    v: &Array,
    scale: f32,
    causal: bool,
) -> MlxResult<Array> {
    let (queries, keys) = (q.dim(2), k.dim(2));
    let share = q.dim(1) / k.dim(1).max(1);
    let chunk = ScoreChunk::new(max_bytes, q.dim(0), q.dim(1), k.dim(1), keys);
    if chunk.heads >= q.dim(1) && chunk.rows >= queries {
        return attend(q, k, v, scale, causal);
    }
    let mut heads = Vec::new();
    for head in (0..q.dim(1)).step_by(chunk.heads.max(1) as usize) {
        let of = head..head + chunk.heads;
        let mut rows = Vec::new();
        for start in (0..queries).step_by(chunk.rows as usize) {
            let end = queries.min(start + chunk.rows);
            // The last queries see all keys, those before them fewer.
            let seen = if causal { keys - queries + end } else { keys };
            let q = q.try_index((.., of.clone(), start..end, ..))?;
            let seen = |x: &Array| x.try_index((.., of.start / share..of.end / share, ..seen, ..));
            // Settled here: left in the graph, the scores of all pieces could be alive at once.
            rows.push(settle(attend(&q, &seen(k)?, &seen(v)?, scale, causal)?, 0)?);
        }
        heads.push(ops::concatenate(&rows, 2)?);
    }
    ops::concatenate(&heads, 1)
}

/// How much of an attention is done at a time where no fused kernel applies.
///
/// All heads and as many rows as fit; where those would be few, one key head (with the query heads
/// that share it) at a time and more rows, since a product of few rows is slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ScoreChunk {
    /// Query heads.
    pub(crate) heads: i32,
    /// Queries, at least 1.
    pub(crate) rows: i32,
}

impl ScoreChunk {
    /// Fewer rows than this are too few for all heads at once.
    const FEW_ROWS: u64 = 64;

    /// Returns the chunk whose scores, `[batch, heads, rows, keys]` in f32, stay within `max_bytes`.
    pub(crate) fn new(max_bytes: u64, batch: i32, heads: i32, key_heads: i32, keys: i32) -> Self {
        // Softmax runs in f32 whatever the inputs are.
        let rows_of = |heads: i32| {
            let row_bytes = [batch, heads, keys, 4].map(|d| u64::try_from(d).unwrap_or(0));
            (max_bytes / row_bytes.iter().product::<u64>().max(1)).max(1)
        };
        let share = heads / key_heads.max(1);
        let heads = if rows_of(heads) < Self::FEW_ROWS { share.max(1) } else { heads };
        Self { heads, rows: i32::try_from(rows_of(heads)).unwrap_or(i32::MAX) }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::wave, *};

    /// Every size of piece gives what one piece gives, also where query heads share key heads and
    /// where keys came before the queries.
    #[test]
    fn attention_in_pieces_is_attention() {
        let [q, k, v] = [(4, 0.37), (2, 0.21), (2, 0.13)].map(|(heads, step)| {
            let tokens = if heads == 4 { 70 } else { 90 };
            wave(&[2, heads, tokens, 16], step)
        });
        for causal in [false, true] {
            let whole = attend(&q, &k, &v, 0.25, causal).unwrap();
            // All heads and few rows; single rows; a key head at a time.
            for bytes in [2 * 4 * 90 * 4 * 65, 1, 2 * 2 * 90 * 4 * 40] {
                let pieces = attention_within(bytes, &q, &k, &v, 0.25, causal).unwrap();
                assert_eq!(pieces.shape(), whole.shape());
                let close = pieces.all_close(&whole, 1e-5, 1e-5, None).unwrap();
                assert!(close, "causal {causal}, at most {bytes} bytes");
            }
        }
    }

    /// However many queries there are, each sees the last keys up to its own.
    #[test]
    fn a_window_ends_at_the_query() {
        let [q, k, v] = [(4, 0.37), (2, 0.21), (2, 0.13)].map(|(heads, step)| {
            let tokens = if heads == 4 { 150 } else { 200 };
            wave(&[2, heads, tokens, 16], step)
        });
        let of = |x: &Array, range: Range<i32>| x.try_index((.., .., range, ..)).unwrap();
        for most in [1, 7, 64, 180, 300] {
            let reach = Reach::Window { most, keep: 0, together: false };
            let found = attention(&q, &k, &v, 0.25, reach, false).unwrap();
            for at in [0, 5, 63, 64, 65, 149] {
                let (q, own) = (of(&q, at..at + 1), 50 + at);
                let seen = |x: &Array| of(x, (own + 1 - most).max(0)..own + 1);
                let expected = attend(&q, &seen(&k), &seen(&v), 0.25, false).unwrap();
                let close = of(&found, at..at + 1).all_close(&expected, 1e-5, 1e-5, None);
                assert!(close.unwrap(), "{most}: query {at}");
                let alone = [&k, &v].map(|x| of(x, 0..own + 1));
                let alone = attention(&q, &alone[0], &alone[1], 0.25, reach, false).unwrap();
                assert!(alone.all_close(&expected, 1e-5, 1e-5, None).unwrap(), "{most}: {at}");
            }
        }
    }

    /// Those that see each other do so beside what the window has of those before.
    #[test]
    fn queries_that_see_each_other_have_their_windows_before_them() {
        let [q, k, v] = [(4, 0.37), (2, 0.21), (2, 0.13)].map(|(heads, step)| {
            let tokens = if heads == 4 { 70 } else { 120 };
            wave(&[1, heads, tokens, 16], step)
        });
        let of = |x: &Array, range: Range<i32>| x.try_index((.., .., range, ..)).unwrap();
        for most in [1, 30, 65, 100, 120, 200] {
            let reach = Reach::Window { most, keep: 0, together: true };
            let found = attention(&q, &k, &v, 0.25, reach, false).unwrap();
            for at in [0, 5, 64, 69] {
                let first = (50 + at + 1 - most).clamp(0, 50);
                let (seen_keys, seen_values) = (of(&k, first..120), of(&v, first..120));
                let query = of(&q, at..at + 1);
                let expected = attend(&query, &seen_keys, &seen_values, 0.25, false).unwrap();
                let close = of(&found, at..at + 1).all_close(&expected, 1e-5, 1e-5, None);
                assert!(close.unwrap(), "{most}: query {at}");
            }
        }
    }

    #[test]
    fn a_chunk_of_scores_stays_within_its_bytes() {
        // The tower of Qwen2.5-VL at 12 megapixels: a head at a time.
        let chunk = ScoreChunk::new(MAX_SCORE_BYTES, 1, 16, 16, 62_208);
        assert_eq!(chunk, ScoreChunk { heads: 1, rows: 134 });
        assert!(chunk.rows as u64 * 62_208 * 4 <= MAX_SCORE_BYTES);
        // At one megapixel all heads fit.
        let chunk = ScoreChunk::new(MAX_SCORE_BYTES, 1, 16, 16, 4_920);
        assert_eq!(chunk, ScoreChunk { heads: 16, rows: 106 });
        // The decoder shares key heads: all that share one are taken together.
        let chunk = ScoreChunk::new(MAX_SCORE_BYTES, 1, 16, 2, 16_000);
        assert_eq!(chunk, ScoreChunk { heads: 8, rows: 65 });
        assert_eq!(ScoreChunk::new(1, 1, 16, 2, 16_000).rows, 1);
    }
}
