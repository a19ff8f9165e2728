//! Normalisations.

use mlx_rs::{Array, error::Result as MlxResult, fast};

use super::mlx_error;
use crate::{Result, weights::Scope};

/// Root mean square normalisation with a weight. Source: arXiv:1910.07467.
#[derive(Debug)]
pub(crate) struct RmsNorm {
    pub(super) weight: Array,
    eps: f32,
}

impl RmsNorm {
    /// Takes `weight` (`[dims]`).
    pub(crate) fn load(scope: &Scope<'_>, dims: i32, eps: f32) -> Result<Self> {
        Ok(Self { weight: scope.take("weight", &[dims])?, eps })
    }

    /// As [`load`](Self::load), for weights that are stored as their distance from 1.
    pub(crate) fn load_add_one(scope: &Scope<'_>, dims: i32, eps: f32) -> Result<Self> {
        let stored = scope.take_cast("weight", &[dims])?;
        let one = Array::from_f32(1.0).as_dtype(stored.dtype());
        let weight = one.and_then(|one| stored.add(one)).map_err(|e| mlx_error("norm", &e))?;
        Ok(Self { weight: scope.keep(weight)?, eps })
    }

    /// Returns the weight and what is added to the mean of squares.
    pub(crate) fn parts(&self) -> (&Array, f32) {
        (&self.weight, self.eps)
    }

    /// `[.., dims]` to the same shape.
    pub(crate) fn forward(&self, x: &Array) -> MlxResult<Array> {
        fast::rms_norm(x, Some(&self.weight), self.eps)
    }
}

/// Layer normalisation with a weight and a bias. Source: arXiv:1607.06450.
#[derive(Debug)]
pub(crate) struct LayerNorm {
    weight: Array,
    bias: Array,
    eps: f32,
}

impl LayerNorm {
    /// Takes `weight` and `bias` (`[dims]`).
    pub(crate) fn load(scope: &Scope<'_>, dims: i32, eps: f32) -> Result<Self> {
        let take = |name| scope.take(name, &[dims]);
        Ok(Self { weight: take("weight")?, bias: take("bias")?, eps })
    }

    /// `[.., dims]` to the same shape.
    pub(crate) fn forward(&self, x: &Array) -> MlxResult<Array> {
        fast::layer_norm(x, Some(&self.weight), Some(&self.bias), self.eps)
    }
}
