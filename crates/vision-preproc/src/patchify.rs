//! `[h, w, 3]` bytes to the patch rows of Qwen2-VL.
//!
//! Rows go by merged block (row, column), then by place inside the block (row, column). A row is ordered channel,
//! time, y, x; the frames of a still image are equal.

use crate::normalize::Table;
use crate::{Grid, RgbView};

/// Sides of a patch, in pixels and frames, and of a merged block, in patches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) patch: usize,
    pub(crate) frames: usize,
    pub(crate) merge: usize,
}

impl Layout {
    /// Values in a patch row.
    pub(crate) fn row_values(self) -> usize {
        3 * self.frames * self.patch * self.patch
    }
}

/// Fills `dst`, `[grid.patches(), row_values]`.
pub(crate) fn patchify(
    image: RgbView<'_>,
    grid: Grid,
    layout: Layout,
    table: &Table,
    dst: &mut [f32],
) {
    let Layout { patch, frames, merge } = layout;
    assert_eq!(dst.len(), grid.patches() * layout.row_values(), "buffer of the patches");
    let size = (image.height() as usize, image.width() as usize);
    assert_eq!(size, (grid.h * patch, grid.w * patch), "image of the patches");
    let blocks = grid.w / merge;
    for (index, row) in dst.chunks_exact_mut(layout.row_values()).enumerate() {
        let (block, inner) = (index / (merge * merge), index % (merge * merge));
        let top = (block / blocks * merge + inner / merge) * patch;
        let left = (block % blocks * merge + inner % merge) * patch;
        for (channel, values) in row.chunks_exact_mut(frames * patch * patch).enumerate() {
            let (first, others) = values.split_at_mut(patch * patch);
            for (y, line) in first.chunks_exact_mut(patch).enumerate() {
                let source = &image.row(top + y)[left * 3..(left + patch) * 3];
                for (value, pixel) in line.iter_mut().zip(source.as_chunks::<3>().0) {
                    *value = table.value(channel, pixel[channel]);
                }
            }
            for frame in others.chunks_exact_mut(patch * patch) {
                frame.copy_from_slice(first);
            }
        }
    }
}
