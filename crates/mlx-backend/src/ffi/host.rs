//! Linear layers on a CPU, outside of MLX: it has the activations, and we have the products. What
//! stands before a product (a normalisation) and after it (an addition, a gate) is done here too, since
//! each time that MLX is waited for costs as much as a small product.

use gemm::Parallelism;
use mlx_rs::{
    Array, Dtype,
    error::{Exception, Result as MlxResult},
    ops,
};
use rayon::prelude::*;

use super::{
    exp::silu,
    matvec::{Floats, Level, Matrix, Packed, Work, product, unpack},
    strided::{Strided, matmul},
};
use crate::quantize::Quantize;

/// Rows of `x` from which weights are unpacked for a product of matrices.
const MANY_ROWS: usize = 8;
/// Values that all threads together unpack at a time.
const BLOCK: usize = 1 << 20;
/// The least columns that are a product by themselves.
const COLUMNS: usize = 64;
/// Multiplications below which waking other threads takes longer than it saves.
const SMALL_PRODUCT: usize = 1 << 21;
/// Values to be gated below which it does, too.
const SMALL: usize = 1 << 18;

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
    let total: usize = parts.iter().map(HostLinear::outputs).sum();
    let count = rows.len() / inputs.max(1);
    let products = |out: &mut [f32]| {
        let mut offset = 0;
        for part in parts {
            part.apply(rows, inputs, out, (offset, total))?;
            offset += part.outputs();
        }
        Ok(())
    };
    let width = if let After::SwiGlu = after { total / 2 } else { total };
    let mut shape = x.shape().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = i32::try_from(width).map_err(|e| Exception::custom(e.to_string()))?;
    }
    written(&shape, count < MANY_ROWS, |out| match after {
        After::Nothing => products(out),
        After::Add(other) => {
            products(out)?;
            let other = other.contiguous()?;
            out.iter_mut().zip(f32s(&other)?).for_each(|(y, other)| *y += other);
            Ok(())
        }
        After::SwiGlu => {
            let mut both = vec![0.0; count * total];
            products(&mut both)?;
            gated(&both, out, total);
            Ok(())
        }
    })
}

/// An array of `shape` that `write` fills, which gets zeros: in memory of MLX, or if it `is_small`, in
/// memory that is copied, since MLX takes longer to give some than to copy little.
pub(super) fn written(
    shape: &[i32],
    is_small: bool,
    write: impl FnOnce(&mut [f32]) -> MlxResult<()>,
) -> MlxResult<Array> {
    let len = shape.iter().map(|n| n.unsigned_abs() as usize).product();
    if is_small || len == 0 {
        let mut values = vec![0.0; len];
        write(&mut values)?;
        return Ok(Array::from_slice(&values, shape));
    }
    let array = ops::zeros_dtype(shape, Dtype::Float32)?;
    if f32s(&array)?.len() != len {
        return Err(Exception::custom(format!("zeros of {shape:?} are others")));
    }
    // SAFETY: the array is computed, contiguous and of this length, as was just checked; its memory is
    // of a C++ allocator, and nobody else has it before it is returned.
    let values = unsafe {
        let data = mlx_sys::mlx_array_data_float32(array.as_ptr()).cast_mut();
        std::slice::from_raw_parts_mut(data, len)
    };
    write(values)?;
    Ok(array)
}

/// `silu` of the first half of each row of `total` values times its second half.
fn gated(rows: &[f32], out: &mut [f32], total: usize) {
    let half = total / 2;
    let gate = |(row, out): (&[f32], &mut [f32])| Level::best().run(Gated { row, out });
    match rows.len() <= SMALL {
        true => rows.chunks_exact(total).zip(out.chunks_exact_mut(half)).for_each(gate),
        false => rows.par_chunks_exact(total).zip(out.par_chunks_exact_mut(half)).for_each(gate),
    }
}

struct Gated<'a> {
    row: &'a [f32],
    out: &'a mut [f32],
}

impl Work for Gated<'_> {
    #[inline(always)]
    fn run(self) {
        let (gate, up) = self.row.split_at(self.out.len());
        let both = gate.iter().zip(up);
        self.out.iter_mut().zip(both).for_each(|(out, (&gate, up))| *out = silu(gate) * up);
    }
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

/// `x Wᵀ` for many rows `x`, into the columns of `out` from `offset` on. Threads take turns at some
/// columns each, whose weights they unpack, so that hardly any memory is taken; a thread is woken once.
fn multiply(
    matrix: Matrix<'_>,
    x: &[f32],
    inputs: usize,
    out: &mut [f32],
    (offset, outputs, total): (usize, usize, usize),
) {
    let rows = x.len() / inputs;
    let threads = rayon::current_num_threads();
    let share = outputs.div_ceil(threads).next_multiple_of(COLUMNS);
    let block = (BLOCK / inputs / threads).clamp(COLUMNS, share.max(COLUMNS));
    assert!(out.len() >= (rows - 1) * total + offset + outputs);
    let out = Columns(out[offset..].as_mut_ptr());
    let columns = |first: usize, unpacked: &mut Vec<f32>| {
        let count = block.min(outputs - first);
        let weights = match matrix {
            Matrix::Dense(Floats::F32(weights)) => &weights[first * inputs..],
            _ => {
                unpacked.resize(count * inputs, 0.0);
                unpack(Level::best(), matrix, first, inputs, unpacked);
                unpacked
            }
        };
        assert!(weights.len() >= count * inputs);
        // SAFETY: `x` has `rows` rows of `inputs` values, `weights` `count` of them, and `out` has
        // `outputs` places at the beginning of each of `rows` rows of `total`, as was checked above; of
        // those, nobody else writes the `count` from `first` on.
        unsafe {
            matmul(
                [rows, inputs, count],
                Strided::rows(x.as_ptr(), inputs),
                Strided::rows(weights.as_ptr(), inputs).transposed(),
                Strided::rows(out.from(first), total),
                (1.0, 0.0),
                Parallelism::None,
            );
        }
    };
    let firsts = (0..outputs.div_ceil(block)).map(|at| at * block);
    if threads == 1 || rows * inputs * outputs < SMALL_PRODUCT {
        let mut unpacked = Vec::new();
        firsts.for_each(|first| columns(first, &mut unpacked));
    } else {
        let firsts = firsts.collect::<Vec<_>>().into_par_iter();
        firsts.with_max_len(1).for_each_init(Vec::new, |unpacked, first| columns(first, unpacked));
    }
}

/// The beginning of a matrix of which threads write columns that are their own.
struct Columns(*mut f32);

// SAFETY: it is an address; who writes there says why that may be.
unsafe impl Sync for Columns {}

impl Columns {
    fn from(&self, first: usize) -> *mut f32 {
        self.0.wrapping_add(first)
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
