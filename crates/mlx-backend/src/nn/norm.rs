//! Normalisations.

use mlx_rs::{Array, error::Result as MlxResult, fast};

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

    pub(super) fn parts(&self) -> (&Array, f32) {
        (&self.weight, self.eps)
    }

    /// `[.., dims]` to the same shape.
    pub(crate) fn forward(&self, x: &Array) -> MlxResult<Array> {
        fast::rms_norm(x, Some(&self.weight), self.eps)
    }
}
