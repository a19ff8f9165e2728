//! Linear layers on a CPU, outside of MLX: it has the activations, and we have the products. What
//! stands before a product (a normalisation) and after it (an addition, a gate) is done here too, since
//! each time that MLX is waited for costs as much as a small product.

use gemm::{Parallelism, gemm};
use mlx_rs::{
    Array, Dtype,
    error::{Exception, Result as MlxResult},
};

use super::matvec::{Floats, Level, Matrix, Packed, product, unpack};
use crate::quantize::Quantize;

/// Rows of `x` from which weights are unpacked for a product of matrices.
const MANY_ROWS: usize = 8;
/// Values that are unpacked at a time.
const BLOCK: usize = 1 << 20;

/// Weights `[outputs, inputs]` and what is added to their product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostLinear<'a> {
    pub(crate) weight: HostWeight<'a>,
    /// `[outputs]`, in f32.
    pub(crate) bias: Option<&'a Array>,
}

/// Weights in any type of a checkpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HostWeight<'a> {
    Dense(&'a Array),
    Packed { words: &'a Array, scales: &'a Array, biases: Option<&'a Array>, how: Quantize },
}

/// What is done with the products.
#[derive(Clone, Copy, Debug)]
pub(crate) enum After<'a> {
    Nothing,
    /// An array of their shape is added.
    Add(&'a Array),
    /// `silu` of the first half times the second half.
    SwiGlu,
}

/// `after(W norm(x) + b)` with the outputs of all `parts` side by side: `[.., inputs]` in f32 to
/// `[.., outputs]`. `norm` has the weights of a normalisation and its epsilon.
pub(crate) fn host_linear(
    x: &Array,
    norm: Option<(&Array, f32)>,
    parts: &[HostLinear<'_>],
    after: After<'_>,
) -> MlxResult<Array> {
    let inputs = x.dim(-1).unsigned_abs() as usize;
    let contiguous;
    let given = match f32s(x) {
        Ok(given) => given,
        Err(_) => {
            contiguous = x.contiguous()?;
            f32s(&contiguous)?
        }
    };
    let normed;
    let rows = match norm {
        None => given,
        Some((weights, eps)) => {
            normed = normalised(given, f32s(weights)?, eps);
            &normed
        }
    };
    let outputs = |part: &HostLinear<'_>| part.outputs();
    let total: usize = parts.iter().map(outputs).sum();
    let count = rows.len() / inputs.max(1);
    let mut out = vec![0.0; count * total];
    let mut offset = 0;
    for part in parts {
        part.apply(rows, inputs, &mut out, (offset, total))?;
        offset += part.outputs();
    }
    let width = match after {
        After::Nothing => total,
        After::Add(other) => {
            let other = other.contiguous()?;
            out.iter_mut().zip(f32s(&other)?).for_each(|(y, other)| *y += other);
            total
        }
        After::SwiGlu => {
            let half = total / 2;
            for row in 0..count {
                for i in 0..half {
                    let (gate, up) = (out[row * total + i], out[row * total + half + i]);
                    out[row * half + i] = gate / (1.0 + (-gate).exp()) * up;
                }
            }
            out.truncate(count * half);
            half
        }
    };
    let mut shape = x.shape().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = i32::try_from(width).map_err(|e| Exception::custom(e.to_string()))?;
    }
    Ok(Array::from_slice(&out, &shape))
}

/// Root mean square normalisation of rows. Source: arXiv:1910.07467.
pub(super) fn normalised(x: &[f32], weights: &[f32], eps: f32) -> Vec<f32> {
    let mut all = Vec::with_capacity(x.len());
    for row in x.chunks_exact(weights.len().max(1)) {
        let mean = row.iter().map(|v| v * v).sum::<f32>() / row.len() as f32;
        let scale = 1.0 / (mean + eps).sqrt();
        all.extend(row.iter().zip(weights).map(|(v, weight)| v * scale * weight));
    }
    all
}

impl HostLinear<'_> {
    fn outputs(&self) -> usize {
        let array = match self.weight {
            HostWeight::Dense(rows) => rows,
            HostWeight::Packed { words, .. } => words,
        };
        array.dim(0).unsigned_abs() as usize
    }

    /// Writes the outputs for all rows of `x` into `out`, whose rows have `total` values, from `offset`
    /// on.
    fn apply(
        &self,
        x: &[f32],
        inputs: usize,
        out: &mut [f32],
        (offset, total): (usize, usize),
    ) -> MlxResult<()> {
        let (rows, outputs) = (x.len() / inputs, self.outputs());
        let matrix = self.weight.matrix()?;
        if rows >= MANY_ROWS {
            multiply(matrix, x, inputs, out, (offset, outputs, total));
        } else if rows == 1 {
            product(Level::best(), matrix, x, inputs, &mut out[offset..offset + outputs]);
        } else {
            let mut columns = vec![0.0; rows * outputs];
            product(Level::best(), matrix, x, inputs, &mut columns);
            for (n, column) in columns.chunks_exact(rows).enumerate() {
                for (m, value) in column.iter().enumerate() {
                    out[m * total + offset + n] = *value;
                }
            }
        }
        if let Some(bias) = self.bias {
            let bias = f32s(bias)?;
            for row in out.chunks_exact_mut(total) {
                row[offset..offset + outputs].iter_mut().zip(bias).for_each(|(y, b)| *y += b);
            }
        }
        Ok(())
    }
}

impl<'a> HostWeight<'a> {
    fn matrix(&self) -> MlxResult<Matrix<'a>> {
        Ok(match *self {
            Self::Dense(rows) => Matrix::Dense(floats(rows)?),
            Self::Packed { words, scales, biases, how } => Matrix::Packed(Packed {
                codes: how.into(),
                bytes: bytes(words)?,
                group: how.group_size.unsigned_abs() as usize,
                scales: floats(scales)?,
                biases: biases.map(floats).transpose()?,
            }),
        })
    }
}

/// `x Wᵀ` for many rows `x`, into the columns of `out` from `offset` on: weights are unpacked a block
/// at a time, so that hardly any memory is taken.
fn multiply(
    matrix: Matrix<'_>,
    x: &[f32],
    inputs: usize,
    out: &mut [f32],
    (offset, outputs, total): (usize, usize, usize),
) {
    let rows = x.len() / inputs;
    let block = match matrix {
        Matrix::Dense(Floats::F32(_)) => outputs,
        _ => (BLOCK / inputs).clamp(1, outputs),
    };
    let mut unpacked = Vec::new();
    for first in (0..outputs).step_by(block) {
        let count = block.min(outputs - first);
        let weights = match matrix {
            Matrix::Dense(Floats::F32(weights)) => weights,
            _ => {
                unpacked.resize(count * inputs, 0.0);
                unpack(Level::best(), matrix, first, inputs, &mut unpacked);
                &unpacked
            }
        };
        let out = &mut out[offset + first..];
        assert!(out.len() >= (rows - 1) * total + count && weights.len() >= count * inputs);
        // SAFETY: `x` has `rows` rows of `inputs` values, `weights` `count` of them, and `out` has
        // `count` places at the beginning of each of `rows` rows of `total`, as was just checked.
        unsafe {
            gemm(
                rows,
                count,
                inputs,
                out.as_mut_ptr(),
                1,
                total as isize,
                false,
                x.as_ptr(),
                1,
                inputs as isize,
                weights.as_ptr(),
                inputs as isize,
                1,
                0.0,
                1.0,
                false,
                false,
                false,
                Parallelism::Rayon(0),
            );
        }
    }
}

/// Returns the values of `array`, computed if they are not yet.
///
/// # Errors
/// If they cannot be computed, or do not lie side by side.
fn bytes(array: &Array) -> MlxResult<&[u8]> {
    array.eval()?;
    let mut contiguous = false;
    // SAFETY: the array lives, and the result is a place for a bool.
    let status =
        unsafe { mlx_sys::_mlx_array_is_row_contiguous(&raw mut contiguous, array.as_ptr()) };
    if status != 0 || !contiguous {
        return Err(Exception::custom("an array whose values do not lie side by side"));
    }
    // SAFETY: an array that was computed and is contiguous has this many bytes from there on, of
    // whatever type. They change no more, and `array` keeps them while they are borrowed.
    unsafe {
        let data = mlx_sys::mlx_array_data_uint8(array.as_ptr());
        match data.is_null() {
            true => Ok(&[]),
            false => Ok(std::slice::from_raw_parts(data, array.nbytes())),
        }
    }
}

pub(super) fn f32s(array: &Array) -> MlxResult<&[f32]> {
    match floats(array)? {
        Floats::F32(values) => Ok(values),
        _ => Err(Exception::custom(format!("expected f32, found {:?}", array.dtype()))),
    }
}

pub(super) fn floats(array: &Array) -> MlxResult<Floats<'_>> {
    let bytes = bytes(array)?;
    // SAFETY: every pattern of bits is a value of these types.
    unsafe {
        let (before, halves, after) = bytes.align_to::<u16>();
        let halves = (before.is_empty() && after.is_empty()).then_some(halves);
        let (before, singles, after) = bytes.align_to::<f32>();
        let singles = (before.is_empty() && after.is_empty()).then_some(singles);
        match (array.dtype(), halves, singles) {
            (Dtype::Float32, _, Some(values)) => Ok(Floats::F32(values)),
            (Dtype::Bfloat16, Some(values), _) => Ok(Floats::Bf16(values)),
            (Dtype::Float16, Some(values), _) => Ok(Floats::F16(values)),
            (Dtype::Uint8, ..) => Ok(Floats::Bytes(bytes)),
            (other, ..) => Err(Exception::custom(format!("weights of type {other:?}"))),
        }
    }
}
