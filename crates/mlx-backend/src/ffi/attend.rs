//! Attention of one token on a CPU, outside of MLX, with all that stands before it: the norms of heads,
//! the rotation of queries and key, and the place of key and value behind those before them. MLX needs
//! a dozen operations for that, and each time it is waited for costs as much as a small product.

use mlx_rs::{
    Array,
    error::{Exception, Result as MlxResult},
};
use rayon::prelude::*;

use super::{
    exp::{LANES, exponentials},
    host::{f32s, normalised},
    matvec::{Level, Work},
};

/// Products of values below which waking other threads takes longer than it saves.
const SMALL: usize = 1 << 17;
/// Values of a head that are summed up in registers.
const BLOCK: usize = 32;

/// Attention of one token of one sequence, all in f32.
#[derive(Debug)]
pub(crate) struct HostAttend {
    pub(crate) heads: usize,
    pub(crate) key_heads: usize,
    /// Values of a head.
    pub(crate) d: usize,
    /// What products of queries and keys are multiplied with.
    pub(crate) scale: f32,
    /// Angles by which pairs of values turn from one position to the next; values beyond do not turn.
    pub(crate) frequencies: Vec<f32>,
}

impl HostAttend {
    /// Returns the attention, `[1, 1, heads * d]`, of the token whose queries, key and value are `heads`
    /// (`[1, 1, (heads + 2 * key_heads) * d]`) at `position`. Its key and value are written into `place`
    /// of `keys` and `values`, `[1, key_heads, capacity, d]`. `norms` are those of queries and keys, the
    /// weights and epsilon of each.
    ///
    /// MLX does not know that the buffers change. That is sound because nobody reads places of a sequence
    /// that it does not have yet, which the caller guarantees.
    pub(crate) fn apply(
        &self,
        heads: &Array,
        norms: Option<[(&Array, f32); 2]>,
        position: i32,
        (keys, values, place): (&Array, &Array, usize),
    ) -> MlxResult<Array> {
        let Self { heads: h, key_heads: k, d, .. } = *self;
        let given = f32s(heads)?;
        let capacity = keys.shape().get(2).map_or(0, |&n| n.unsigned_abs() as usize);
        let buffer = [1, k, capacity, d].map(|n| n as i32);
        let fits = given.len() == (h + 2 * k) * d
            && keys.shape() == buffer
            && values.shape() == buffer
            && place < capacity;
        if !fits {
            return Err(Exception::custom(format!(
                "expected {h} and {k} heads of {d} values and room for token {place}, found {:?} and {:?}",
                heads.shape(),
                keys.shape()
            )));
        }
        let (to_turn, value) = given.split_at((h + k) * d);
        let mut turned = match norms {
            None => to_turn.to_vec(),
            Some([(q, q_eps), (k, k_eps)]) => {
                let (queries, key) = to_turn.split_at(h * d);
                [normalised(queries, f32s(q)?, q_eps), normalised(key, f32s(k)?, k_eps)].concat()
            }
        };
        self.turn(&mut turned, position);
        let (queries, key) = turned.split_at(h * d);
        for (buffer, new) in [(keys, key), (values, value)] {
            for (head, row) in new.chunks_exact(d).enumerate() {
                write(buffer, (head * capacity + place) * d, row)?;
            }
        }

        let (keys, values) = (f32s(keys)?, f32s(values)?);
        let mut out = vec![0.0; h * d];
        let (tokens, share) = (place + 1, h / k);
        let of_key_head = |(head, out): (usize, &mut [f32])| {
            let seen = head * capacity * d..(head * capacity + tokens) * d;
            let part = Part {
                queries: &queries[head * share * d..(head + 1) * share * d],
                keys: &keys[seen.clone()],
                values: &values[seen],
                d,
                scale: self.scale,
                out,
            };
            Level::best().run(part);
        };
        match h * tokens * d <= SMALL {
            true => out.chunks_exact_mut(share * d).enumerate().for_each(of_key_head),
            false => out.par_chunks_exact_mut(share * d).enumerate().for_each(of_key_head),
        }
        Ok(Array::from_slice(&out, &[1, 1, (h * d) as i32]))
    }

    /// Rotates heads, each value with the one half of those that turn further on. Source:
    /// arXiv:2104.09864.
    fn turn(&self, heads: &mut [f32], position: i32) {
        let turns: Vec<(f32, f32)> =
            self.frequencies.iter().map(|f| (position as f32 * f).sin_cos()).collect();
        for head in heads.chunks_exact_mut(self.d) {
            let (first, second) = head.split_at_mut(turns.len());
            for ((a, b), &(sin, cos)) in first.iter_mut().zip(second).zip(&turns) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }
}

/// Writes `row` into `buffer`, which is computed, from value `at` on.
fn write(buffer: &Array, at: usize, row: &[f32]) -> MlxResult<()> {
    if f32s(buffer)?.get(at..at + row.len()).is_none() {
        return Err(Exception::custom("a row outside of its buffer"));
    }
    // SAFETY: the array is computed and contiguous and has room for the row from `at` on, as was just
    // checked; its memory is of a C++ allocator, and no reference into it is alive here.
    unsafe {
        let data = mlx_sys::mlx_array_data_float32(buffer.as_ptr()).cast_mut();
        std::ptr::copy_nonoverlapping(row.as_ptr(), data.add(at), row.len());
    }
    Ok(())
}

/// The queries that share a key head, with what that has seen.
struct Part<'a> {
    /// `[queries, d]`.
    queries: &'a [f32],
    /// `[tokens, d]`.
    keys: &'a [f32],
    /// `[tokens, d]`.
    values: &'a [f32],
    d: usize,
    scale: f32,
    /// `[queries, d]`.
    out: &'a mut [f32],
}

impl Work for Part<'_> {
    /// Writes `softmax(scale q kᵀ) v` for each query.
    #[inline(always)]
    fn run(self) {
        let Self { queries, keys, values, d, scale, out } = self;
        let mut scores = vec![0.0; keys.len() / d];
        for (query, out) in queries.chunks_exact(d).zip(out.chunks_exact_mut(d)) {
            for (score, key) in scores.iter_mut().zip(keys.chunks_exact(d)) {
                *score = scale * dot(query, key);
            }
            let part = 1.0 / exponentials(&mut scores);
            for (block, out) in out.chunks_mut(BLOCK).enumerate() {
                let mut sums = [0.0; BLOCK];
                for (score, value) in scores.iter().zip(values.chunks_exact(d)) {
                    let value = &value[block * BLOCK..block * BLOCK + out.len()];
                    sums.iter_mut().zip(value).for_each(|(sum, value)| *sum += score * value);
                }
                out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum * part);
            }
        }
    }
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
        sums.iter_mut().zip(a).zip(b).for_each(|((sum, a), b)| *sum += a * b);
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use mlx_rs::{
        Dtype, fast,
        ops::{self, indexing::TryIndexOp},
    };

    use super::*;
    use crate::noise::{largest, noise, noise_f32};

    /// Tokens behind as many as are named, against the operations of MLX.
    #[test]
    fn equals_the_operations_it_replaces() {
        let base = 1e6f32;
        for (h, k, d) in [(4, 2, 64), (14, 2, 64), (3, 3, 80), (8, 1, 128)] {
            let exponent = |i: i32| (2 * i) as f32 / d as f32;
            let attend = HostAttend {
                heads: h as usize,
                key_heads: k as usize,
                d: d as usize,
                scale: (d as f32).powf(-0.5),
                frequencies: (0..d / 2).map(|i| base.powf(-exponent(i))).collect(),
            };
            let gains = [noise_f32(&[d], 5), noise_f32(&[d], 6)];
            for (tokens, normed) in [(1, false), (2, true), (63, false), (300, true), (2741, false)]
            {
                let behind = |seed| {
                    let old = noise_f32(&[1, k, tokens, d], seed);
                    let rest = ops::zeros_dtype(&[1, k, 2, d], Dtype::Float32).unwrap();
                    let all = ops::concatenate(&[&old, &rest], 2).unwrap();
                    (old, all)
                };
                let ((mut old_keys, keys), (mut old_values, values)) = (behind(1), behind(2));
                for place in tokens..tokens + 2 {
                    let (eps, position) = (1e-6, place - 1);
                    let heads = noise_f32(&[1, 1, (h + 2 * k) * d], place as u32);
                    let norms = normed.then_some([(&gains[0], eps), (&gains[1], eps)]);
                    let buffers = (&keys, &values, place as usize);
                    let found = attend.apply(&heads, norms, position, buffers).unwrap();

                    let heads = heads.reshape(&[1, h + 2 * k, 1, d]).unwrap();
                    let turn = |range: std::ops::Range<i32>, gain: &Array| {
                        let mut x = heads.try_index((.., range, .., ..)).unwrap();
                        if normed {
                            x = fast::rms_norm(&x, Some(gain), eps).unwrap();
                        }
                        fast::rope(&x, d, false, base, 1.0, position, None).unwrap()
                    };
                    let (queries, key) = (turn(0..h, &gains[0]), turn(h..h + k, &gains[1]));
                    let value = heads.try_index((.., h + k.., .., ..)).unwrap();
                    old_keys = ops::concatenate(&[&old_keys, &key], 2).unwrap();
                    old_values = ops::concatenate(&[&old_values, &value], 2).unwrap();
                    for (all, old) in [(&keys, &old_keys), (&values, &old_values)] {
                        let seen = all.try_index((.., .., ..=place, ..)).unwrap();
                        // A position of thousands turns by angles that two libraries round apart.
                        assert!(
                            largest(&seen.subtract(old).unwrap()) < 1e-3,
                            "{h} {k} {d} {place}"
                        );
                    }
                    let scale = attend.scale;
                    let expected = fast::scaled_dot_product_attention(
                        &queries,
                        &old_keys,
                        &old_values,
                        scale,
                        None,
                        None,
                    );
                    let expected = expected.unwrap().reshape(&[1, 1, h * d]).unwrap();
                    let off = largest(&found.subtract(&expected).unwrap()) / largest(&expected);
                    assert!(off < 1e-3, "{h} {k} {d}, {place}: attention differs by {off}");
                }
            }
        }
    }

    #[test]
    fn every_level_gives_the_same_bits() {
        for (queries, tokens, d) in [(1, 1, 8), (7, 33, 64), (2, 100, 80)] {
            let [q, k, v] =
                [(queries, 1), (tokens, 2), (tokens, 3)].map(|(n, seed)| noise(n * d, seed));
            let found: Vec<Vec<f32>> = Level::all()
                .into_iter()
                .map(|level| {
                    let mut out = vec![f32::NAN; queries * d];
                    let (queries, keys, values, out_of) = (&q[..], &k[..], &v[..], &mut out[..]);
                    level.run(Part { queries, keys, values, d, scale: 0.3, out: out_of });
                    out
                })
                .collect();
            assert!(found.windows(2).all(|pair| pair[0] == pair[1]), "{queries} {tokens} {d}");
        }
    }

    #[test]
    fn a_token_without_room_is_refused() {
        let attend =
            HostAttend { heads: 2, key_heads: 1, d: 8, scale: 1.0, frequencies: vec![1.0; 4] };
        let (heads, keys) = (noise_f32(&[1, 1, 32], 1), noise_f32(&[1, 1, 3, 8], 2));
        let error = attend.apply(&heads, None, 3, (&keys, &keys, 3)).unwrap_err();
        assert!(error.to_string().contains("room for token 3"), "{error}");
    }
}
