//! The layers that every model is made of, dense or quantised: what a tensor is decides, no model
//! knows.

use mlx_rs::{
    Array,
    error::Result as MlxResult,
    fast,
    ops::{self, indexing::TryIndexOp},
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

/// Largest score tensor that attention may make where no fused kernel applies, in bytes.
const MAX_SCORE_BYTES: usize = 128 << 20;

/// Attention without a mask: `[B, H, L, D]` queries over `[B, K, S, D]` keys and values.
///
/// Where MLX has no fused kernel, the scores of all queries at once would take `B H L S` floats,
/// 123 GB for a 12-megapixel photo; queries are taken in chunks there.
pub(crate) fn attention(
    q: &Array,
    k: &Array,
    v: &Array,
    scale: f32,
    fused: bool,
) -> MlxResult<Array> {
    let whole = |q: &Array| fast::scaled_dot_product_attention(q, k, v, scale, None, None);
    let (rows, row_bytes) = (q.dim(2), score_row_bytes(q, k));
    let chunk = i32::try_from((MAX_SCORE_BYTES / row_bytes).max(1)).unwrap_or(i32::MAX);
    if fused || rows <= chunk {
        return whole(q);
    }
    let mut parts = Vec::new();
    let mut start = 0;
    while start < rows {
        let end = rows.min(start + chunk);
        let part = whole(&q.try_index((.., .., start..end, ..))?)?;
        // Evaluated here: left in the graph, all chunks' scores could be alive at once.
        part.eval()?;
        parts.push(part);
        start = end;
    }
    ops::concatenate(&parts, 2)
}

/// Bytes of the scores of one query row in every batch and head.
fn score_row_bytes(q: &Array, k: &Array) -> usize {
    // Softmax runs in f32 whatever the inputs are.
    let dims = [q.dim(0), q.dim(1), k.dim(2), 4];
    dims.iter().map(|&d| usize::try_from(d).unwrap_or(0)).product::<usize>().max(1)
}

/// `down(silu(gate(x)) * up(x))`. Source: arXiv:2002.05202.
#[derive(Debug)]
pub(crate) struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

impl Mlp {
    /// Takes `gate_proj`, `up_proj` and `down_proj`, with biases if `bias`.
    pub(crate) fn load(scope: &Scope<'_>, hidden: i32, inner: i32, bias: bool) -> Result<Self> {
        Ok(Self {
            gate_proj: Linear::load(&scope.sub("gate_proj"), inner, hidden, bias)?,
            up_proj: Linear::load(&scope.sub("up_proj"), inner, hidden, bias)?,
            down_proj: Linear::load(&scope.sub("down_proj"), hidden, inner, bias)?,
        })
    }

    /// `[.., hidden]` to the same shape.
    pub(crate) fn forward(&self, x: &Array) -> MlxResult<Array> {
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
