//! Products of one row, or a few, with weights, on CUDA: a step of a decoder does little else. MLX's own
//! kernel for packed weights reaches a quarter of what the memory gives, and the host takes longer to
//! hand over an operation than the device to do it. So this one also takes in what stands before the
//! product (a normalisation) and after it (an addition, a gate).

mod rows;

use mlx_rs::{Array, Dtype, error::Result as MlxResult, ops};

use crate::{
    ffi::{CudaKernel, CudaSource},
    quantize::Quantize,
};

use self::rows::Rows;

/// What is done with the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Epilogue {
    None,
    /// Another row is added.
    Add,
    /// `silu` of the first half times the second half.
    SwiGlu,
}

/// Widest row that is normalised: it is held in shared memory.
const MAX_NORMED: i32 = 8192;

/// Outputs from which a warp takes four rows, so that `x` is unpacked less often; with fewer, warps
/// would be too few to keep the memory busy.
const MANY_OUTPUTS: i32 = 16_384;

/// As in `matvec.cu`.
const WARPS: i32 = 4;

/// `epilogue(W norm(x))` as one kernel.
#[derive(Debug)]
pub(crate) struct Matvec {
    kernel: CudaKernel,
    input: i32,
    ndim: usize,
    /// In place of a normalisation's weights and of the row to add; the number of its axes tells the
    /// kernel what to do, since a flag would make it another kernel to compile.
    absent: Array,
    /// For a few rows, where there is one.
    rows: Option<Rows>,
}

impl Matvec {
    /// Returns the kernel for weights of `rows` x `input`, packed as `how` says or dense, whose output
    /// has `ndim` axes, or `None` if these are not what it is written for. With `norm_eps`, `x` is
    /// normalised first.
    pub(crate) fn new(
        how: Option<Quantize>,
        dtype: Dtype,
        (rows, input): (i32, i32),
        norm_eps: Option<f32>,
        epilogue: Epilogue,
        ndim: usize,
    ) -> MlxResult<Option<Self>> {
        let packing = Quantize::affine(4, 64);
        let fits = how.is_none_or(|how| how == packing)
            && dtype == Dtype::Bfloat16
            && input % 64 == 0
            && rows % 2 == 0
            && (norm_eps.is_none() || input <= MAX_NORMED);
        if !fits {
            return Ok(None);
        }
        let (outputs, outputs_of_warp) = match epilogue {
            Epilogue::SwiGlu => (rows / 2, 2),
            Epilogue::None | Epilogue::Add => (rows, if rows >= MANY_OUTPUTS { 4 } else { 2 }),
        };
        // The same text for all, but for the rare models with another constant.
        let source = format!(
            "__shared__ __align__(16) __nv_bfloat16 normed[{MAX_NORMED}];
             {weights};
             const int N = w_shape[0];
             const __nv_bfloat16* from = x;
             if (gain_ndim == 1) {{
               matvec::normalise(x, gain, m.K, {eps:e}f, normed);
               from = normed;
             }}
             if (extra_ndim == 4) {{
               matvec::gated(from, m, N, y);
             }} else if (N >= {MANY_OUTPUTS}) {{
               matvec::plain<4>(from, m, N, extra_ndim == 5 ? nullptr : extra, y);
             }} else {{
               matvec::plain<2>(from, m, N, extra_ndim == 5 ? nullptr : extra, y);
             }}",
            weights = match how {
                Some(_) => "matvec::Packed m{w, scales, biases, scales_shape[1] * 64}",
                None => "matvec::Dense m{w, w_shape[1]}",
            },
            eps = norm_eps.unwrap_or(1e-6),
        );
        let blocks = (outputs + WARPS * outputs_of_warp - 1) / (WARPS * outputs_of_warp);
        let mut shape = vec![1; ndim];
        shape[ndim - 1] = outputs;
        let kernel = CudaKernel::new(&CudaSource {
            name: if how.is_some() { "matvec_packed" } else { "matvec_dense" },
            inputs: &[
                ("x", dtype),
                ("gain", dtype),
                ("w", if how.is_some() { Dtype::Uint32 } else { dtype }),
                ("scales", dtype),
                ("biases", dtype),
                ("extra", dtype),
            ],
            header: &[include_str!("matvec.cu")],
            body: &source,
            shape: &shape,
            scratch: 0,
            blocks,
            threads: WARPS * 32,
            shared_bytes: 0,
        })?;
        kernel.prepare();
        let axes = if epilogue == Epilogue::SwiGlu { 4 } else { 5 };
        let absent = ops::zeros_dtype(&vec![1; axes], dtype)?;
        let rows = match how {
            Some(_) => Rows::new((rows, input), norm_eps, epilogue, ndim)?,
            None => None,
        };
        Ok(Some(Self { kernel, input, ndim, absent, rows }))
    }

    /// Returns whether `x` is a single row, or few enough.
    pub(crate) fn takes(&self, x: &Array) -> bool {
        self.is_row(x) || self.rows.as_ref().is_some_and(|rows| rows.takes(x))
    }

    fn is_row(&self, x: &Array) -> bool {
        x.size() == self.input as usize && x.ndim() == self.ndim
    }

    /// Returns the output for the rows `x`; `weights` are words, scales and biases or the same
    /// array three times, `gain` the weights
    /// of the normalisation and `extra` the row to add, with at most three axes.
    pub(crate) fn apply(
        &self,
        x: &Array,
        weights: [&Array; 3],
        gain: Option<&Array>,
        extra: Option<&Array>,
    ) -> MlxResult<Array> {
        let [words, scales, biases] = weights;
        let absent = &self.absent;
        if let Some(rows) = self.rows.as_ref().filter(|_| !self.is_row(x)) {
            return rows.apply(x, weights, gain, extra.unwrap_or(absent));
        }
        let (gain, extra) = (gain.unwrap_or(absent), extra.unwrap_or(absent));
        self.kernel.apply(&[x, gain, words, scales, biases, extra])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::{f32, largest, noise_bf16 as noise};

    /// Largest difference over the largest value.
    fn difference(found: &Array, expected: &Array) -> f32 {
        largest(&f32(found).subtract(expected).unwrap()) / largest(expected)
    }

    /// Every kind of weight, normalisation and epilogue, at the widths of published checkpoints, against
    /// products in f32.
    #[test]
    #[ignore = "needs an NVIDIA GPU"]
    fn equals_the_products_in_f32() {
        let packing = Quantize::affine(4, 64);
        for (rows, input) in
            [(4608, 3584), (3584, 18_944), (37_888, 3584), (770, 256), (2560, 2048)]
        {
            let gain = noise(&[input], 2);
            let dense = noise(&[rows, input], 3).divide(Array::from_f32(16.0)).unwrap();
            let dense = dense.as_dtype(Dtype::Bfloat16).unwrap();
            let (words, scales, biases) = ops::quantize(&dense, 64, 4).unwrap();
            let unpacked = ops::dequantize(&words, &scales, &biases, 64, 4).unwrap();
            for (how, weights, matrix) in [
                (Some(packing), [&words, &scales, &biases], &unpacked),
                (None, [&dense; 3], &dense),
            ] {
                for (norm, epilogue) in [
                    (None, Epilogue::None),
                    (None, Epilogue::Add),
                    (Some(1e-6), Epilogue::Add),
                    (Some(1e-6), Epilogue::SwiGlu),
                ] {
                    let shape = (rows, input);
                    let made = Matvec::new(how, Dtype::Bfloat16, shape, norm, epilogue, 3).unwrap();
                    let Some(kernel) = made else {
                        assert!(norm.is_some() && input > MAX_NORMED);
                        continue;
                    };
                    let adds = epilogue == Epilogue::Add;
                    let counts: &[i32] = if how.is_some() { &[1, 2, 5, 8, 9, 16] } else { &[1] };
                    for (&count, of_rows) in counts.iter().flat_map(|c| [(c, false), (c, true)]) {
                        let x = noise(&[1, count, input], 1);
                        let extra =
                            if of_rows { noise(&[1, count, rows], 4) } else { noise(&[rows], 4) };
                        if !kernel.takes(&x) {
                            assert!(rows % 16 != 0, "{count} rows of {rows} x {input}");
                            continue;
                        }
                        let gain = norm.map(|_| &gain);
                        let found =
                            kernel.apply(&x, weights, gain, adds.then_some(&extra)).unwrap();
                        let x = match (norm, gain) {
                            (Some(eps), Some(gain)) => {
                                mlx_rs::fast::rms_norm(f32(&x), Some(&f32(gain)), eps).unwrap()
                            }
                            _ => f32(&x),
                        };
                        let product =
                            ops::matmul(&x, ops::transpose(f32(matrix)).unwrap()).unwrap();
                        let expected = match epilogue {
                            Epilogue::None => product,
                            Epilogue::Add => product.add(f32(&extra)).unwrap(),
                            Epilogue::SwiGlu => {
                                let halves = ops::split_equal(&product, 2, -1).unwrap();
                                let gate =
                                    halves[0].multiply(ops::sigmoid(&halves[0]).unwrap()).unwrap();
                                gate.multiply(&halves[1]).unwrap()
                            }
                        };
                        assert_eq!(found.shape(), expected.shape());
                        let off = difference(&found, &expected);
                        let packed = how.is_some();
                        assert!(
                            off < 0.02,
                            "{count} rows, {rows} x {input}, packed {packed}, {epilogue:?}: {off}"
                        );
                    }
                }
            }
        }
    }
}
