//! Tokens to hidden states, and back where the head is tied.

use mlx_rs::{Array, Dtype, error::Result as MlxResult};

use super::{Linear, weight::Weight};
use crate::{Result, ffi::dequantize, matvec::Epilogue, weights::Scope};

/// A table of `[V, E]`, also usable as the output projection of tied models.
#[derive(Debug)]
pub(crate) struct Embedding {
    table: Linear,
    /// What the model computes in.
    dtype: Dtype,
}

impl Embedding {
    /// Takes `weight` (`[vocabulary, hidden]`, packed where `scales` is there).
    pub(crate) fn load(scope: &Scope<'_>, vocabulary: i32, hidden: i32) -> Result<Self> {
        // Adapters do not change it: what tokens become would have to change as well.
        let table = Linear::of(scope, Weight::open(scope, vocabulary, hidden)?).kept(scope)?;
        let table = table.with_row(scope, None, Epilogue::None, 2)?;
        Ok(Self { table, dtype: scope.dtype() })
    }

    /// Token ids `[B, L]` to `[B, L, E]`.
    pub(crate) fn forward(&self, ids: &Array) -> MlxResult<Array> {
        match &self.table.weight {
            Weight::Dense { rows, .. } => rows.take_axis(ids, 0)?.as_dtype(self.dtype),
            Weight::Packed(p) => {
                let row = |a: &Array| a.take_axis(ids, 0);
                // Before they are multiplied, so that products are those of the type computed in.
                let wide = |a: &Array| match p.biases {
                    Some(_) => row(a)?.as_dtype(self.dtype),
                    None => row(a),
                };
                let biases = p.biases.as_ref().map(wide).transpose()?;
                let rows = (&row(&p.weight)?, &wide(&p.scales)?, biases.as_ref());
                dequantize(rows, p.how, self.dtype)
            }
        }
    }

    /// `[.., E]` to `[.., V]`, the logits of a model whose head is tied to its embedding.
    pub(crate) fn as_linear(&self, x: &Array) -> MlxResult<Array> {
        self.table.forward_row(x)
    }
}
