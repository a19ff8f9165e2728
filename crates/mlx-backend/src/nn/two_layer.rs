//! The feed-forward layer without a gate.

use mlx_rs::{Array, error::Result as MlxResult};

use super::{Activation, Linear, in_pieces};
use crate::{Result, weights::Scope};

/// `second(activation(first(x)))`, both with biases.
#[derive(Debug)]
pub(crate) struct TwoLayerMlp {
    first: Linear,
    second: Linear,
    activation: Activation,
    inner: i32,
    max_inner_bytes: usize,
}

impl TwoLayerMlp {
    /// Takes the layers `names`, from `dims.0` values to `dims.1` to `dims.2`.
    pub(crate) fn load(
        scope: &Scope<'_>,
        names: [&str; 2],
        dims: (i32, i32, i32),
        activation: Activation,
    ) -> Result<Self> {
        let (input, inner, output) = dims;
        Ok(Self {
            first: Linear::load(&scope.sub(names[0]), inner, input, true)?,
            second: Linear::load(&scope.sub(names[1]), output, inner, true)?,
            activation,
            inner,
            max_inner_bytes: scope.backend().max_inner_bytes(),
        })
    }

    /// `[.., N, input]` to `[.., N, output]`, in chunks of rows as [`Mlp`](super::Mlp).
    pub(crate) fn forward(&self, x: &Array) -> MlxResult<Array> {
        in_pieces(x, self.inner, self.max_inner_bytes, |x| {
            self.second.forward(&self.activation.apply(&self.first.forward(x)?)?)
        })
    }
}
