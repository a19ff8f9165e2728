//! A feed-forward layer of many MLPs, of which each token takes a few.

use mlx_rs::{
    Array,
    error::Result as MlxResult,
    ops::{self, indexing::TryIndexOp, indexing::take_along_axis},
};

use super::{Linear, activation::swiglu, mlx_error};
use crate::{
    Error, LoadError, Result,
    ffi::{gather_qmm, quantize},
    quantize::{QuantizationMode, Quantize},
    weights::{Scope, cast},
};

/// How many MLPs there are, and which a token takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Experts {
    pub(crate) count: i32,
    pub(crate) per_token: i32,
    /// Values inside each.
    pub(crate) inner: i32,
    /// Whether the weights of those taken sum to 1.
    pub(crate) normalised: bool,
}

/// `sum of p_e * down_e(silu(gate_e(x)) * up_e(x))` over the experts `e` that the router likes best.
/// Source: arXiv:2401.06066, section 2; transformers `modeling_qwen3_moe.py`.
#[derive(Debug)]
pub(crate) struct MixtureOfExperts {
    router: Linear,
    gate_proj: Stack,
    up_proj: Stack,
    down_proj: Stack,
    experts: Experts,
}

impl MixtureOfExperts {
    /// Takes `gate` (the router) and the experts: stacked in `switch_mlp`, as mlx-lm writes them, one by
    /// one in `experts`, or stacked there with gates and ups side by side.
    pub(crate) fn load(scope: &Scope<'_>, hidden: i32, experts: Experts) -> Result<Self> {
        let (count, inner) = (experts.count, experts.inner);
        let [gate_proj, up_proj, down_proj] = match scope.has("experts.gate_up_proj") {
            true => Stack::load_joined(scope, [count, inner, hidden])?,
            false => [
                Stack::load(scope, "gate_proj", [count, inner, hidden])?,
                Stack::load(scope, "up_proj", [count, inner, hidden])?,
                Stack::load(scope, "down_proj", [count, hidden, inner])?,
            ],
        };
        Ok(Self {
            router: Linear::load(&scope.sub("gate"), count, hidden, false)?,
            gate_proj,
            up_proj,
            down_proj,
            experts,
        })
    }

    /// `[B, L, hidden]` to the same shape.
    pub(crate) fn forward(&self, x: &Array) -> MlxResult<Array> {
        let k = self.experts.per_token;
        let chances = ops::softmax_axis(self.router.forward(x)?, -1, true)?; // [B, L, experts]
        let order = ops::argpartition_axis(&chances, -k, -1)?;
        let taken = order.try_index((ops::indexing::Ellipsis, self.experts.count - k..))?; // [B, L, k]
        let mut shares = take_along_axis(&chances, &taken, -1)?;
        if self.experts.normalised {
            shares = shares.divide(shares.sum_axis(-1, true)?)?;
        }
        let x = x.expand_dims_axes(&[-2, -3])?; // [B, L, 1, 1, hidden]
        let gate = self.gate_proj.forward(&x, &taken)?;
        let gated = swiglu((&gate, &self.up_proj.forward(&x, &taken)?))?;
        let y = self.down_proj.forward(&gated, &taken)?; // [B, L, k, 1, hidden]
        let shares = shares.expand_dims_axes(&[-1, -2])?.as_dtype(y.dtype())?;
        y.multiply(shares)?.sum_axes(&[-2, -3], false)
    }
}

/// The weights of a product of each expert.
#[derive(Debug)]
enum Stack {
    /// `[experts, input, output]`, a view.
    Dense(Array),
    /// `[experts, output, ..]` words, scales and biases.
    Packed { words: Array, scales: Array, biases: Option<Array>, how: Quantize },
}

impl Stack {
    fn load(scope: &Scope<'_>, name: &str, shape: [i32; 3]) -> Result<Self> {
        let [count, output, input] = shape;
        let stacked = scope.sub("switch_mlp").sub(name);
        let fail = |e: mlx_rs::error::Exception| mlx_error("experts", &e);
        if stacked.has("scales") {
            return Self::packed(&stacked, shape);
        }
        let rows = match stacked.has("weight") {
            true => stacked.take_stored("weight", &shape)?,
            false => {
                let one = |i| scope.sub(format!("experts.{i}.{name}"));
                let rows = (0..count).map(|i| one(i).take_stored("weight", &[output, input]));
                ops::stack(&rows.collect::<Result<Vec<_>>>()?, 0).map_err(fail)?
            }
        };
        Self::of_rows(&stacked, rows, input)
    }

    /// Takes gates and ups, which are side by side, and downs: `[experts, input, output]`.
    fn load_joined(scope: &Scope<'_>, [count, inner, hidden]: [i32; 3]) -> Result<[Self; 3]> {
        let experts = scope.sub("experts");
        let gate_up = experts.take_stored("gate_up_proj", &[count, hidden, 2 * inner])?;
        let down = experts.take_stored("down_proj", &[count, inner, hidden])?;
        let rows = || {
            let turned = |x: Array| x.transpose_axes(&[0, 2, 1]);
            let gate = turned(gate_up.try_index((.., .., ..inner))?)?;
            Ok([gate, turned(gate_up.try_index((.., .., inner..))?)?, turned(down)?])
        };
        let [gate, up, down] = rows().map_err(|e| mlx_error("experts", &e))?;
        let of = |name, rows, input| Self::of_rows(&scope.sub("switch_mlp").sub(name), rows, input);
        Ok([
            of("gate_proj", gate, hidden)?,
            of("up_proj", up, hidden)?,
            of("down_proj", down, inner)?,
        ])
    }

    /// Packs `rows`, `[experts, output, input]`, if that is asked for.
    fn of_rows(scope: &Scope<'_>, rows: Array, input: i32) -> Result<Self> {
        let fail = |e: mlx_rs::error::Exception| mlx_error("experts", &e);
        match scope.quantize(input) {
            None => {
                let rows = scope.keep(cast(rows, scope.dtype())?)?;
                Ok(Self::Dense(rows.transpose_axes(&[0, 2, 1]).map_err(fail)?))
            }
            Some(how) => {
                let (words, scales, biases) = quantize(&rows, how).map_err(fail)?;
                Self::kept(scope, (words, scales, biases), how)
            }
        }
    }

    fn packed(scope: &Scope<'_>, [count, output, input]: [i32; 3]) -> Result<Self> {
        let fail = |reason| Error::from(LoadError::Quantization { name: scope.path(""), reason });
        let how = scope
            .packed()
            .ok_or_else(|| fail("the configuration has no quantization for it".to_owned()))?;
        let groups = [count, output, input / how.group_size];
        let (scales, biases) = match how.mode {
            QuantizationMode::Affine => {
                (scope.take_stored("scales", &groups)?, Some(scope.take_stored("biases", &groups)?))
            }
            _ => (scope.take_bytes("scales", &groups)?, None),
        };
        let words = scope.take_packed("weight")?;
        let expected = [count, output, input * how.bits / 32];
        if words.shape() != expected {
            return Err(fail(format!(
                "expected {expected:?} words for {} bits, found {:?}",
                how.bits,
                words.shape()
            )));
        }
        Self::kept(scope, (words, scales, biases), how)
    }

    /// Has the weights read from disk at the end of loading.
    fn kept(
        scope: &Scope<'_>,
        (words, scales, biases): (Array, Array, Option<Array>),
        how: Quantize,
    ) -> Result<Self> {
        let float = |x: Array| match how.mode {
            QuantizationMode::Affine => scope.keep(cast(x, scope.dtype())?),
            _ => scope.keep(x),
        };
        Ok(Self::Packed {
            words: scope.keep(words)?,
            scales: float(scales)?,
            biases: biases.map(float).transpose()?,
            how,
        })
    }

    /// `[B, L, k or 1, 1, input]` to `[B, L, k, 1, output]`, by the experts `[B, L, k]`.
    fn forward(&self, x: &Array, experts: &Array) -> MlxResult<Array> {
        match self {
            Self::Dense(weights) => ops::gather_mm(x, weights, None, experts, false),
            Self::Packed { words, scales, biases, how } => {
                gather_qmm(x, (words, scales, biases.as_ref()), experts, *how)
            }
        }
    }
}
