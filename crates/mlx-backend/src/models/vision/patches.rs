//! Patches as a tower first sees them, and where they stand in the image.

use mlx_rs::{Array, Dtype, error::Result as MlxResult, ops};
use vision_preproc::Grid;

use crate::{
    LoadError, Result,
    nn::mlx_error,
    rope::cos_sin,
    weights::{Scope, cast},
};

const ROPE_BASE: f32 = 10_000.0;

/// A convolution whose stride is its size, which is a product of each patch with a matrix.
#[derive(Debug)]
pub(in crate::models) struct PatchEmbed {
    /// `[patch_values, E]`.
    columns: Array,
    /// The sum of `columns` over the frames of a patch, `[frame_values, E]` in f32, if it spans several: in a
    /// still image they are equal, and one of them will do.
    still: Option<Array>,
    /// `[E]`.
    bias: Option<Array>,
    dtype: Dtype,
}

impl PatchEmbed {
    /// Takes `weight` and, if `bias`, `bias`. `kernel` is what a patch holds, channels first: the file
    /// has `[hidden, channel, .., y, x]` (PyTorch) or `[hidden, .., y, x, channel]` (MLX).
    pub(in crate::models) fn load(
        scope: &Scope<'_>,
        hidden: i32,
        kernel: &[i32],
        bias: bool,
    ) -> Result<Self> {
        let weight = scope.take_any_shape("weight")?;
        let channels_first = [&[hidden], kernel].concat();
        let channels_last = [&[hidden], &kernel[1..], &kernel[..1]].concat();
        let run = || {
            let rows = match weight.shape() {
                shape if shape == channels_last && shape != channels_first => {
                    let last = weight.ndim() as i32 - 1;
                    let axes: Vec<i32> = [0, last].into_iter().chain(1..last).collect();
                    weight.transpose_axes(&axes)?
                }
                _ => weight.clone(),
            };
            ops::transpose(rows.reshape(&[hidden, -1])?)
        };
        let found = weight.shape();
        // Some files hold the matrix itself.
        if found != channels_first
            && found != channels_last
            && found != [hidden, kernel.iter().product()]
        {
            let (name, found) = (scope.path("weight"), found.to_vec());
            return Err(LoadError::Shape { name, expected: channels_first, found }.into());
        }
        let fail = |error| mlx_error("patch_embed", &error);
        let columns = run().map_err(fail)?;
        let still = match *kernel {
            [channels, frames, y, x] if frames > 1 => {
                let one = || {
                    let wide = columns.as_dtype(Dtype::Float32)?;
                    let by_frame = wide.reshape(&[channels, frames, y * x, hidden])?;
                    by_frame.sum_axis(1, false)?.reshape(&[channels * y * x, hidden])
                };
                Some(scope.keep(one().map_err(fail)?)?)
            }
            _ => None,
        };
        Ok(Self {
            still,
            columns: scope.keep(cast(columns, scope.dtype())?)?,
            bias: bias.then(|| scope.take("bias", &[hidden])).transpose()?,
            dtype: scope.dtype(),
        })
    }

    /// Patches `[.., patch_values]`, or of a still image one frame of each, `[.., frame_values]`, to `[.., E]`.
    pub(in crate::models) fn forward(&self, patches: &Array) -> MlxResult<Array> {
        let patches = patches.as_dtype(self.dtype)?;
        let x = match &self.still {
            Some(still) if patches.dim(-1) == still.dim(0) => {
                ops::matmul(patches.as_dtype(Dtype::Float32)?, still)?.as_dtype(self.dtype)?
            }
            _ => ops::matmul(patches, &self.columns)?,
        };
        self.bias.as_ref().map_or(Ok(x.clone()), |bias| x.add(bias))
    }
}

/// Returns row and column of `patch` in a frame of `columns` patches, which come in groups of `merge`
/// by `merge`.
pub(in crate::models) fn patch_places(
    patch: usize,
    columns: usize,
    merge: usize,
) -> (usize, usize) {
    let (cell, inner) = (patch / (merge * merge), patch % (merge * merge));
    let cells = columns / merge;
    (cell / cells * merge + inner / merge, cell % cells * merge + inner % merge)
}

/// As [`rotation`], of all patches of a frame of `grid` in the order in which they come.
pub(in crate::models) fn frame_rotation(
    head_dim: i32,
    grid: Grid,
    merge: usize,
) -> MlxResult<(Array, Array)> {
    rotation(head_dim, (0..grid.h * grid.w).map(|patch| patch_places(patch, grid.w, merge)))
}

/// Cosines and sines `[N, D]` of patches at rows and columns `places`: half of the angles turn with the
/// row, half with the column. In f32, as upstream.
pub(in crate::models) fn rotation(
    head_dim: i32,
    places: impl ExactSizeIterator<Item = (usize, usize)>,
) -> MlxResult<(Array, Array)> {
    let quarter = head_dim as usize / 4;
    let frequencies: Vec<f32> =
        (0..quarter).map(|i| ROPE_BASE.powf(-(i as f32) / quarter as f32)).collect();
    let patches = places.len();
    let mut angles = Vec::with_capacity(patches * 2 * quarter);
    for (row, column) in places {
        angles.extend(frequencies.iter().map(|f| row as f32 * f));
        angles.extend(frequencies.iter().map(|f| column as f32 * f));
    }
    cos_sin(&angles, patches, Dtype::Float32)
}
