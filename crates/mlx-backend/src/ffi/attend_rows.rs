//! Attention of many queries on a CPU, outside of MLX, whose exponentials are made one at a time there.

use gemm::Parallelism;
use mlx_rs::{
    Array,
    error::{Exception, Result as MlxResult},
};
use rayon::prelude::*;

use super::{
    exp::exponentials,
    host::{f32s, written},
    matvec::{Level, Work},
    strided::{Strided, matmul},
};

/// Queries whose scores are had at a time: enough for a product of matrices.
const ROWS: usize = 64;

/// Attention of `[B, H, L, D]` queries over `[B, K, S, D]` keys and values, all in f32, to
/// `[B, H, L, D]`. If `causal`, the queries are the last of the keys, and see those up to their own.
///
/// The scores that all threads hold together take at most `max_bytes`, or those of a row for each.
///
/// # Errors
/// If the shapes are no such ones, or an array cannot be computed.
pub(crate) fn host_attention(
    q: &Array,
    k: &Array,
    v: &Array,
    scale: f32,
    causal: bool,
    max_bytes: u64,
) -> MlxResult<Array> {
    let size = |x: &Array, axis: i32| x.dim(axis).unsigned_abs() as usize;
    let (heads, l, d) = (size(q, 1), size(q, 2), size(q, 3));
    let (key_heads, s) = (size(k, 1), size(k, 2));
    let keys = [q.dim(0), k.dim(1), k.dim(2), q.dim(3)];
    let fits = k.shape() == keys && v.shape() == keys && (!causal || l <= s);
    if !fits || key_heads == 0 || heads % key_heads != 0 {
        return Err(Exception::custom(format!(
            "expected keys and values for queries of {:?}, found {:?} and {:?}",
            q.shape(),
            k.shape(),
            v.shape()
        )));
    }
    let [queries, keys, values] = [q, k, v].map(Array::contiguous);
    let (queries, keys, values) = (queries?, keys?, values?);
    let (queries, keys, values) = (f32s(&queries)?, f32s(&keys)?, f32s(&values)?);

    let row_bytes = (4 * s * rayon::current_num_threads()).max(1) as u64;
    let rows = usize::try_from(max_bytes / row_bytes).map_or(ROWS, |rows| rows.clamp(1, ROWS));
    let share = heads / key_heads;
    written(q.shape(), false, |out| {
        let mut parts = Vec::new();
        for (head, out) in out.chunks_exact_mut((l * d).max(1)).enumerate() {
            // Heads of all sequences one after the other, so that those of a key head stay together.
            let seen = head / share * s * d..(head / share + 1) * s * d;
            for (at, out) in out.chunks_mut(rows * d).enumerate() {
                let first = at * rows;
                let count = out.len() / d;
                let start = (head * l + first) * d;
                parts.push(Rows {
                    queries: &queries[start..start + count * d],
                    keys: &keys[seen.clone()],
                    values: &values[seen.clone()],
                    d,
                    scale,
                    // Of the first query, and of the last.
                    seen: if causal { (s - l + first + 1, s - l + first + count) } else { (s, s) },
                    out,
                });
            }
        }
        parts.into_par_iter().for_each_init(Vec::new, |scores, rows| rows.attend(scores));
        Ok(())
    })
}

/// Some queries of a head, one after the other, and what they see.
struct Rows<'a> {
    /// `[rows, d]`.
    queries: &'a [f32],
    /// `[tokens, d]`.
    keys: &'a [f32],
    /// `[tokens, d]`.
    values: &'a [f32],
    d: usize,
    scale: f32,
    /// How many tokens the first query sees, and the last.
    seen: (usize, usize),
    /// `[rows, d]`.
    out: &'a mut [f32],
}

impl Rows<'_> {
    fn attend(self, scores: &mut Vec<f32>) {
        let Self { queries, keys, values, d, scale, seen: (first, last), out } = self;
        let rows = queries.len() / d;
        scores.resize(rows * last, 0.0);
        multiply([rows, d, last], queries, &keys[..last * d], true, scale, scores);
        let mut sums = vec![0.0; rows];
        Level::best().run(Softmax { scores, row: last, first, sums: &mut sums });
        multiply([rows, last, d], scores, &values[..last * d], false, 1.0, out);
        for (out, sum) in out.chunks_exact_mut(d).zip(sums) {
            out.iter_mut().for_each(|value| *value /= sum);
        }
    }
}

/// Exponentials of rows of scores, of which the first row has `first` and each other one more, but none
/// more than a row is long; what is behind them becomes 0.
struct Softmax<'a> {
    scores: &'a mut [f32],
    row: usize,
    first: usize,
    sums: &'a mut [f32],
}

impl Work for Softmax<'_> {
    #[inline(always)]
    fn run(self) {
        let rows = self.scores.chunks_exact_mut(self.row).zip(self.sums).enumerate();
        for (at, (row, sum)) in rows {
            let seen = (self.first + at).min(row.len());
            let (seen, unseen) = row.split_at_mut(seen);
            *sum = exponentials(seen);
            unseen.fill(0.0);
        }
    }
}

/// `out = scale a b` for `a` of `[m, k]`, `out` of `[m, n]` and `b` of `[k, n]`, or of `[n, k]` if that is
/// `transposed`.
fn multiply(
    [m, k, n]: [usize; 3],
    a: &[f32],
    b: &[f32],
    transposed: bool,
    scale: f32,
    out: &mut [f32],
) {
    assert!(a.len() == m * k && b.len() == k * n && out.len() == m * n, "{m} {k} {n}");
    let b = match transposed {
        true => Strided::rows(b.as_ptr(), k).transposed(),
        false => Strided::rows(b.as_ptr(), n),
    };
    let (a, out) = (Strided::rows(a.as_ptr(), k), Strided::rows(out.as_mut_ptr(), n));
    // SAFETY: all three have as many values as their sizes say, one after the other, and `out` is ours.
    unsafe { matmul([m, k, n], a, b, out, (scale, 0.0), Parallelism::None) }
}

#[cfg(test)]
mod tests {
    use mlx_rs::fast::{self, ScaledDotProductAttentionMask::Causal};

    use super::*;
    use crate::noise::{largest, noise_f32};

    /// With heads that share key heads, tokens before the queries, several sequences, and pieces of a
    /// single row.
    #[test]
    fn equals_the_operation_of_mlx() {
        for [b, h, k, l, s, d] in [
            [1, 4, 2, 5, 5, 8],
            [2, 4, 4, 70, 90, 64],
            [1, 6, 2, 130, 300, 80],
            [3, 2, 1, 2, 2, 64],
        ] {
            let q = noise_f32(&[b, h, l, d], 1);
            let [keys, values] = [2, 3].map(|seed| noise_f32(&[b, k, s, d], seed));
            for causal in [false, true] {
                let mask = causal.then_some(Causal);
                let expected =
                    fast::scaled_dot_product_attention(&q, &keys, &values, 0.3, mask, None);
                let expected = expected.unwrap();
                for max_bytes in [32 << 20, 1] {
                    let found = host_attention(&q, &keys, &values, 0.3, causal, max_bytes).unwrap();
                    assert_eq!(found.shape(), expected.shape());
                    let off = largest(&found.subtract(&expected).unwrap()) / largest(&expected);
                    assert!(off < 1e-5, "{b} {h} {k} {l} {s} {d} {causal}: {off}");
                }
            }
        }
    }

    #[test]
    fn keys_of_other_heads_are_refused() {
        let (q, k) = (noise_f32(&[1, 3, 4, 8], 1), noise_f32(&[1, 2, 4, 8], 2));
        let error = host_attention(&q, &k, &k, 1.0, false, 1 << 20).unwrap_err().to_string();
        assert!(error.contains("[1, 3, 4, 8]"), "{error}");
        let late = host_attention(&k, &noise_f32(&[1, 2, 3, 8], 1), &k, 1.0, true, 1 << 20);
        assert!(late.is_err());
    }
}
