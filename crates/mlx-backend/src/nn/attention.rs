//! Attention in as little memory as the backend allows.

use mlx_rs::{
    Array,
    error::Result as MlxResult,
    fast,
    ops::{self, indexing::TryIndexOp},
};

use super::settle;

/// Largest score tensor that attention makes where no fused kernel applies, in bytes.
pub(crate) const MAX_SCORE_BYTES: u64 = 32 << 20;

/// Attention of `[B, H, L, D]` queries over `[B, K, S, D]` keys and values: over all of them, or if
/// `causal`, where the queries are the last `L` of the keys, over those up to the query's own.
///
/// Where MLX has no fused kernel, the scores of all queries at once would take `B H L S` values,
/// 123 GB for a 12-megapixel photo; there it is done in pieces, see [`ScoreChunk`].
pub(crate) fn attention(
    q: &Array,
    k: &Array,
    v: &Array,
    scale: f32,
    causal: bool,
    fused: bool,
) -> MlxResult<Array> {
    match fused {
        true => attend(q, k, v, scale, causal),
        false => attention_within(MAX_SCORE_BYTES, q, k, v, scale, causal),
    }
}

fn attend(q: &Array, k: &Array, v: &Array, scale: f32, causal: bool) -> MlxResult<Array> {
    // A single query sees all keys anyway.
    let mask = (causal && q.dim(2) > 1).then_some(fast::ScaledDotProductAttentionMask::Causal);
    fast::scaled_dot_product_attention(q, k, v, scale, mask, None)
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
