//! The layers that every model is made of, dense or quantised: what a tensor is decides, no model
//! knows.

mod activation;
mod adapted;
mod attention;
mod embedding;
mod experts;
mod joined;
mod linear;
mod mlp;
mod norm;
mod two_layer;
mod weight;

use mlx_rs::{
    Array,
    error::Result as MlxResult,
    ops::{
        self,
        indexing::{Ellipsis, TryIndexOp},
    },
};

pub(crate) use self::{
    activation::Activation,
    attention::{MAX_SCORE_BYTES, Reach, attention},
    embedding::Embedding,
    experts::{Experts, MixtureOfExperts},
    joined::Joined,
    linear::Linear,
    mlp::Mlp,
    norm::{LayerNorm, RmsNorm},
    two_layer::TwoLayerMlp,
};
use crate::Error;

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

/// Applies `layer`, which makes `inner` values of each row of `[.., N, input]`, to as many rows at a
/// time as keep those within `max_bytes`.
fn in_pieces(
    x: &Array,
    inner: i32,
    max_bytes: usize,
    layer: impl Fn(&Array) -> MlxResult<Array>,
) -> MlxResult<Array> {
    let (rows, total) = (x.dim(-2), x.size() / x.dim(-1).max(1) as usize);
    let inner_bytes = total * inner as usize * x.item_size();
    let chunks = inner_bytes.div_ceil(max_bytes).clamp(1, rows.max(1) as usize) as i32;
    if chunks == 1 {
        return layer(x);
    }
    let chunk = rows.div_euclid(chunks) + i32::from(rows % chunks != 0);
    let mut parts = Vec::new();
    for start in (0..rows).step_by(chunk as usize) {
        let end = rows.min(start + chunk);
        // Evaluated here, as in `attention`.
        parts.push(settle(layer(&x.try_index((Ellipsis, start..end, ..))?)?, 0)?);
    }
    ops::concatenate(&parts, -2)
}

/// Turns an error of MLX into this crate's, with what was being computed.
pub(crate) fn mlx_error(op: &'static str, error: &mlx_rs::error::Exception) -> Error {
    Error::Mlx { op, message: error.what().to_owned() }
}

#[cfg(test)]
mod tests {
    use mlx_rs::Dtype;

    use super::{
        weight::{Packed, Weight},
        *,
    };
    pub(super) use crate::noise::wave;
    use crate::{ffi::quantize, quantize::Quantize};

    pub(super) fn linear(output: i32, input: i32, step: f32) -> Linear {
        let weight = Weight::dense(wave(&[output, input], step)).unwrap();
        Linear { bias: Some(wave(&[output], step * 3.0)), ..bare(weight) }
    }

    pub(super) fn packed(output: i32, input: i32, step: f32, bits: i32) -> Linear {
        let how = Quantize::affine(bits, 64);
        let (weight, scales, biases) = quantize(&wave(&[output, input], step), how).unwrap();
        let dtype = Dtype::Float32;
        let packed = Packed { weight, scales, biases, how, dtype, unpacks_from_rows: None };
        bare(Weight::Packed(packed))
    }

    fn bare(weight: Weight) -> Linear {
        let outputs = Default::default();
        Linear { weight, bias: None, row: None, on_host: false, outputs }
    }
}
