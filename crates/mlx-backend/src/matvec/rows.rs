//! Products of a few rows with packed weights, on CUDA: a step of decoding for several answers. MLX's
//! kernel for up to 7 rows reads the weights once for each, and from 8 on they would be unpacked into
//! memory first, which takes as long as reading them nine times.

use std::{cell::RefCell, collections::BTreeMap};

use mlx_rs::{Array, Dtype, error::Result as MlxResult, fast};

use super::Epilogue;
use crate::ffi::{CudaKernel, CudaSource};

/// Most rows at a time: two fragments of the tensor cores.
const MAX_ROWS: i32 = 16;

/// Outputs of a block, as in `rows.cu`.
const TILE: i32 = 16;

/// As in `rows.cu`.
const WARPS: i32 = 8;

/// `epilogue(W norm(x))` for 2 to 16 rows `x`.
#[derive(Debug)]
pub(super) struct Rows {
    /// Rows of the weights, and their inputs.
    shape: (i32, i32),
    norm_eps: Option<f32>,
    epilogue: Epilogue,
    ndim: usize,
    /// By number of rows; they differ in the shape of the output and are compiled once.
    kernels: RefCell<BTreeMap<i32, CudaKernel>>,
}

impl Rows {
    /// Returns the kernel for weights of a shape, `None` if it is not written for that.
    pub(super) fn new(
        shape: (i32, i32),
        norm_eps: Option<f32>,
        epilogue: Epilogue,
        ndim: usize,
    ) -> MlxResult<Option<Self>> {
        if shape.0 % TILE != 0 || shape.1 % 64 != 0 {
            return Ok(None);
        }
        let made = Self { shape, norm_eps, epilogue, ndim, kernels: RefCell::default() };
        // All are compiled as one.
        made.kernel(&vec![2; ndim])?.prepare();
        Ok(Some(made))
    }

    /// Returns whether `x` is `[.., rows, input]` with as many rows as there may be.
    pub(super) fn takes(&self, x: &Array) -> bool {
        x.ndim() == self.ndim
            && x.ndim() >= 2
            && x.dim(-1) == self.shape.1
            && (2..=MAX_ROWS).contains(&x.dim(-2))
            && x.size() == (x.dim(-2) * x.dim(-1)) as usize
    }

    /// As [`Matvec::apply`](super::Matvec::apply); `extra` is one row for all or as many as of `x`.
    pub(super) fn apply(
        &self,
        x: &Array,
        [words, scales, biases]: [&Array; 3],
        gain: Option<&Array>,
        extra: &Array,
    ) -> MlxResult<Array> {
        let normed = match (gain, self.norm_eps) {
            (Some(gain), Some(eps)) => Some(fast::rms_norm(x, Some(gain), eps)?),
            _ => None,
        };
        let mut kernels = self.kernels.borrow_mut();
        let kernel = match kernels.entry(x.dim(-2)) {
            std::collections::btree_map::Entry::Occupied(found) => found.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(self.kernel(x.shape())?)
            }
        };
        kernel.apply(&[normed.as_ref().unwrap_or(x), words, scales, biases, extra])
    }

    fn kernel(&self, of: &[i32]) -> MlxResult<CudaKernel> {
        let mut shape = of.to_vec();
        shape[self.ndim - 1] =
            if self.epilogue == Epilogue::SwiGlu { self.shape.0 / 2 } else { self.shape.0 };
        let source = "
            matrows::Packed m{w, scales, biases, scales_shape[1] * 64};
            const int N = w_shape[0];
            const int B = x_shape[x_ndim - 2];
            if (extra_ndim == 4) {
              matrows::gated(x, B, m, N, y);
            } else {
              matrows::plain(x, B, m, N, extra_ndim == 5 ? nullptr : extra, extra_ndim != 1, y);
            }";
        CudaKernel::new(&CudaSource {
            name: "matrows",
            inputs: &[
                ("x", Dtype::Bfloat16),
                ("w", Dtype::Uint32),
                ("scales", Dtype::Bfloat16),
                ("biases", Dtype::Bfloat16),
                ("extra", Dtype::Bfloat16),
            ],
            header: &[include_str!("rows.cu")],
            body: source,
            shape: &shape,
            scratch: 0,
            blocks: self.shape.0 / TILE,
            threads: WARPS * 32,
            shared_bytes: 0,
        })
    }
}
