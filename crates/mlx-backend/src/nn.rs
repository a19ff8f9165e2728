//! The layers that every model is made of, dense or quantised: what a tensor is decides, no model
//! knows.

use mlx_rs::{
    Array,
    error::Result as MlxResult,
    fast,
    ops::{
        self,
        indexing::{Ellipsis, TryIndexOp},
    },
};

use crate::{
    Error, LoadError, Result,
    checkpoint::{Quantization, QuantizationMode},
    weights::{Scope, cast},
};

/// `y = x Wᵀ + b`.
#[derive(Debug)]
pub(crate) struct Linear {
    weight: Weight,
    bias: Option<Array>,
}

impl Linear {
    /// Takes `weight` (`[output, input]`, packed where `scales` is there) and, if `bias`, `bias`.
    pub(crate) fn load(scope: &Scope<'_>, output: i32, input: i32, bias: bool) -> Result<Self> {
        let weight = Weight::load(scope, output, input)?;
        let bias = bias.then(|| scope.take("bias", &[output])).transpose()?;
        Ok(Self { weight, bias })
    }

    /// `[.., input]` to `[.., output]`.
    pub(crate) fn forward(&self, x: &Array) -> MlxResult<Array> {
        match (&self.weight, &self.bias) {
            (Weight::Dense { transposed, .. }, Some(bias)) => {
                ops::addmm(bias, x, transposed, None, None)
            }
            (weight, None) => weight.project(x),
            (weight, Some(bias)) => weight.project(x)?.add(bias),
        }
    }
}

/// A table of `[V, E]`, also usable as the output projection of tied models.
#[derive(Debug)]
pub(crate) struct Embedding {
    weight: Weight,
}

impl Embedding {
    /// Takes `weight` (`[vocabulary, hidden]`, packed where `scales` is there).
    pub(crate) fn load(scope: &Scope<'_>, vocabulary: i32, hidden: i32) -> Result<Self> {
        Ok(Self { weight: Weight::load(scope, vocabulary, hidden)? })
    }

    /// Token ids `[B, L]` to `[B, L, E]`.
    pub(crate) fn forward(&self, ids: &Array) -> MlxResult<Array> {
        match &self.weight {
            Weight::Dense { rows, .. } => rows.take_axis(ids, 0),
            Weight::Packed(p) => {
                let row = |a: &Array| a.take_axis(ids, 0);
                let (q, s, b) = (row(&p.weight)?, row(&p.scales)?, row(&p.biases)?);
                ops::dequantize(q, s, &b, p.how.group_size, p.how.bits)
            }
        }
    }

    /// `[.., E]` to `[.., V]`, the logits of a model whose head is tied to its embedding.
    pub(crate) fn as_linear(&self, x: &Array) -> MlxResult<Array> {
        self.weight.project(x)
    }
}

/// Root mean square normalisation with a weight. Source: arXiv:1910.07467.
#[derive(Debug)]
pub(crate) struct RmsNorm {
    weight: Array,
    eps: f32,
}

impl RmsNorm {
    /// Takes `weight` (`[dims]`).
    pub(crate) fn load(scope: &Scope<'_>, dims: i32, eps: f32) -> Result<Self> {
        Ok(Self { weight: scope.take("weight", &[dims])?, eps })
    }

    /// `[.., dims]` to the same shape.
    pub(crate) fn forward(&self, x: &Array) -> MlxResult<Array> {
        fast::rms_norm(x, Some(&self.weight), self.eps)
    }
}

#[derive(Debug)]
enum Weight {
    /// `rows` is `[output, input]`; `transposed` is a view of it, made once.
    Dense {
        rows: Array,
        transposed: Array,
    },
    Packed(Packed),
}

#[derive(Debug)]
struct Packed {
    /// `[output, input * bits / 32]` words.
    weight: Array,
    /// `[output, input / group_size]`.
    scales: Array,
    /// `[output, input / group_size]`.
    biases: Array,
    how: Quantization,
}

impl Weight {
    fn load(scope: &Scope<'_>, output: i32, input: i32) -> Result<Self> {
        if scope.has("scales") {
            return Packed::load(scope, output, input).map(Self::Packed);
        }
        let Some(how) = scope.quantize(input) else {
            let rows = scope.take("weight", &[output, input])?;
            let transposed = ops::transpose(&rows).map_err(|e| mlx_error("transpose", &e))?;
            return Ok(Self::Dense { rows, transposed });
        };
        // Packed from the type in the file, as converters do, so that the bits are theirs.
        let rows = scope.take_stored("weight", &[output, input])?;
        let (weight, scales, biases) = ops::quantize(&rows, how.group_size, how.bits)
            .map_err(|e| mlx_error("quantize", &e))?;
        let dtype = scope.dtype();
        Ok(Self::Packed(Packed {
            weight: scope.keep(weight)?,
            scales: scope.keep(cast(scales, dtype)?)?,
            biases: scope.keep(cast(biases, dtype)?)?,
            how: how.into(),
        }))
    }

    /// `[.., input]` to `[.., output]`.
    fn project(&self, x: &Array) -> MlxResult<Array> {
        match self {
            Self::Dense { transposed, .. } => ops::matmul(x, transposed),
            Self::Packed(p) => ops::quantized_matmul(
                x,
                &p.weight,
                &p.scales,
                &p.biases,
                true,
                p.how.group_size,
                p.how.bits,
            ),
        }
    }
}

impl Packed {
    fn load(scope: &Scope<'_>, output: i32, input: i32) -> Result<Self> {
        let fail = |reason: String| LoadError::Quantization { name: scope.path(""), reason };
        let how = scope
            .packed()
            .ok_or_else(|| fail("the configuration has no quantization for it".to_owned()))?;
        if how.mode != QuantizationMode::Affine {
            return Err(fail(format!("expected mode affine, found {}", how.mode)).into());
        }
        if input % how.group_size != 0 {
            return Err(fail(format!(
                "{input} inputs cannot be divided into groups of {}",
                how.group_size
            ))
            .into());
        }
        let groups = [output, input / how.group_size];
        let scales = scope.take("scales", &groups)?;
        let biases = scope.take("biases", &groups)?;
        let weight = scope.take_packed("weight")?;
        let expected = [output, input * how.bits / 32];
        if weight.shape() != expected {
            let hint = match weight.shape() {
                &[rows, columns] if rows == output && columns * 32 % input == 0 => {
                    format!(" (that would be {} bits)", columns * 32 / input)
                }
                _ => String::new(),
            };
            return Err(fail(format!(
                "expected {expected:?} words for {} bits, found {:?}{hint}",
                how.bits,
                weight.shape()
            ))
            .into());
        }
        Ok(Self { weight, scales, biases, how })
    }
}

/// Largest score tensor that attention makes where no fused kernel applies, in bytes.
pub(crate) const MAX_SCORE_BYTES: u64 = 32 << 20;

/// Largest inner activation of an [`Mlp`], in bytes.
pub(crate) const MAX_INNER_BYTES: usize = 32 << 20;

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

/// Computes `x` now if it is larger than `bytes`.
///
/// MLX makes room for the results of up to a hundred operations ahead of the one it computes. Where
/// each is large, that is most of the memory that a model takes.
pub(crate) fn settle(x: Array, bytes: usize) -> MlxResult<Array> {
    if x.nbytes() > bytes {
        x.eval()?;
    }
    Ok(x)
}

/// `down(silu(gate(x)) * up(x))`. Source: arXiv:2002.05202.
#[derive(Debug)]
pub(crate) struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
    inner: i32,
}

impl Mlp {
    /// Takes `gate_proj`, `up_proj` and `down_proj`, with biases if `bias`.
    pub(crate) fn load(scope: &Scope<'_>, hidden: i32, inner: i32, bias: bool) -> Result<Self> {
        Ok(Self {
            gate_proj: Linear::load(&scope.sub("gate_proj"), inner, hidden, bias)?,
            up_proj: Linear::load(&scope.sub("up_proj"), inner, hidden, bias)?,
            down_proj: Linear::load(&scope.sub("down_proj"), hidden, inner, bias)?,
            inner,
        })
    }

    /// `[.., N, hidden]` to the same shape. Rows are taken in chunks where the inner activation
    /// would be larger than [`MAX_INNER_BYTES`].
    pub(crate) fn forward(&self, x: &Array) -> MlxResult<Array> {
        self.forward_within(MAX_INNER_BYTES, x)
    }

    fn forward_within(&self, max_bytes: usize, x: &Array) -> MlxResult<Array> {
        let (rows, total) = (x.dim(-2), x.size() / x.dim(-1).max(1) as usize);
        let inner_bytes = total * self.inner as usize * x.item_size();
        let chunks = inner_bytes.div_ceil(max_bytes).clamp(1, rows.max(1) as usize) as i32;
        if chunks == 1 {
            return self.gated(x);
        }
        let chunk = rows.div_euclid(chunks) + i32::from(rows % chunks != 0);
        let mut parts = Vec::new();
        let mut start = 0;
        while start < rows {
            let end = rows.min(start + chunk);
            // Evaluated here, as in `attention`.
            parts.push(settle(self.gated(&x.try_index((Ellipsis, start..end, ..))?)?, 0)?);
            start = end;
        }
        ops::concatenate(&parts, -2)
    }

    fn gated(&self, x: &Array) -> MlxResult<Array> {
        let gate = self.gate_proj.forward(x)?;
        let gated = gate.multiply(ops::sigmoid(&gate)?)?.multiply(self.up_proj.forward(x)?)?;
        self.down_proj.forward(&gated)
    }
}

/// Exact GELU: `x Φ(x)` by the error function. Source: arXiv:1606.08415.
pub(crate) fn gelu(x: &Array) -> MlxResult<Array> {
    let scalar = |v: f32| Array::from_f32(v).as_dtype(x.dtype());
    let cdf = ops::erf(x.multiply(scalar(std::f32::consts::FRAC_1_SQRT_2)?)?)?.add(scalar(1.0)?)?;
    x.multiply(cdf)?.multiply(scalar(0.5)?)
}

/// Turns an error of MLX into this crate's, with what was being computed.
pub(crate) fn mlx_error(op: &'static str, error: &mlx_rs::error::Exception) -> Error {
    Error::Mlx { op, message: error.what().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(shape: &[i32], step: f32) -> Array {
        let values: Vec<f32> =
            (0..shape.iter().product()).map(|i| (i as f32 * step).sin()).collect();
        Array::from_slice(&values, shape)
    }

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

    #[test]
    fn an_mlp_in_pieces_is_the_mlp() {
        let linear = |shape: &[i32], step| {
            let rows = wave(shape, step);
            let transposed = ops::transpose(&rows).unwrap();
            Linear { weight: Weight::Dense { rows, transposed }, bias: None }
        };
        let mlp = Mlp {
            gate_proj: linear(&[64, 8], 0.3),
            up_proj: linear(&[64, 8], 0.7),
            down_proj: linear(&[8, 64], 0.9),
            inner: 64,
        };
        let x = wave(&[2, 50, 8], 0.11);
        let whole = mlp.forward_within(usize::MAX, &x).unwrap();
        for bytes in [1, 64 * 4 * 2 * 7, 64 * 4 * 2 * 49] {
            let pieces = mlp.forward_within(bytes, &x).unwrap();
            assert!(pieces.all_close(&whole, 1e-5, 1e-5, None).unwrap(), "at most {bytes} bytes");
        }
    }
}
