//! Rows of `[w, 3]` bytes to the patch rows of Qwen2-VL.
//!
//! Rows go by merged block (row, column), then by place inside the block (row, column). A row is ordered channel,
//! time, y, x; the frames of a still image are equal. A merged block is put in order as bytes, which is all that the
//! layout needs, and then normalised as one run of numbers.

use crate::decode::Orientation;
use crate::decode::rows::{Reason, RowSource};
use crate::kernels::{Element, Level, Store, normalize, planes, turn};
use crate::normalize::Table;
use crate::{Grid, Size};

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

    /// Values in the rows of a merged block.
    fn block_values(self) -> usize {
        self.row_values() * self.merge * self.merge
    }

    /// The channels of the values of a merged block.
    pub(crate) fn channels(self) -> Vec<u8> {
        let channel_values = self.row_values() / 3;
        (0..self.block_values()).map(|at| (at / channel_values % 3) as u8).collect()
    }
}

/// Which frames of the patches an image is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frames {
    /// All: it is a still image.
    All,
    /// One of them.
    One(usize),
}

/// How rows become patches.
#[derive(Debug)]
pub(crate) struct Patchify<'a> {
    pub(crate) level: Level,
    pub(crate) layout: Layout,
    pub(crate) table: &'a Table,
    /// Those of `layout`.
    pub(crate) channels: &'a [u8],
    /// The patches of the upright image.
    pub(crate) grid: Grid,
    /// How the rows are stored.
    pub(crate) orientation: Orientation,
    pub(crate) frames: Frames,
}

/// Pixels and bytes on their way, kept for the next image.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    /// The rows of a row of merged blocks.
    strip: Vec<u8>,
    /// The bytes of two merged blocks, in the order of the patches.
    blocks: [Vec<u8>; 2],
    /// Where each pixel of an upright patch is stored; empty if all are in their places.
    places: Vec<u16>,
    /// The channels of a patch as it is stored.
    stored: Vec<u8>,
}

/// Bytes that kernels like to find after the last row.
const SLACK: usize = 64;

impl Patchify<'_> {
    /// Fills `dst`, `[grid.h * grid.w, row_values]`, or the values of one frame in it, from all rows of an image.
    pub(crate) fn fill<T: Element>(
        &self,
        rows: &mut dyn RowSource,
        buffers: &mut Buffers,
        dst: &mut [T],
    ) -> Result<(), Reason> {
        let Layout { patch, merge, .. } = self.layout;
        let Size { width, height } = self.orientation.apply(Size {
            width: (self.grid.w * patch) as u32,
            height: (self.grid.h * patch) as u32,
        });
        assert_eq!(rows.size(), Size { width, height }, "image of the patches");
        let (side, stride) = (patch * merge, width as usize * 3);
        let blocks = (height as usize / side, width as usize / side);
        let store = Store::of(dst);
        let Buffers { strip, blocks: bytes, places, stored } = buffers;
        strip.resize(side * stride + SLACK, 0);
        self.set_places(places);
        let len = self.layout.block_values();
        // A block is put in order before the last one is written: the output may be slower than the processor, and
        // what is stored after it and read at once would wait for it.
        let mut last: Option<usize> = None;
        for row in 0..blocks.0 {
            let mut filled = 0;
            while filled < side {
                match rows.read(&mut strip[filled * stride..side * stride])? {
                    0 => return Err("the file has fewer rows than its header says".into()),
                    rows => filled += rows,
                }
            }
            for column in 0..blocks.1 {
                self.block(&strip[column * side * 3..], stride, places, stored, &mut bytes[1]);
                if let Some(last) = last {
                    self.write(&bytes[0], store, &mut dst[last * len..][..len]);
                }
                bytes.swap(0, 1);
                let (up_row, up_column) = self.upright((row, column), blocks);
                last = Some(up_row * (self.grid.w / merge) + up_column);
            }
        }
        if let Some(last) = last {
            self.write(&bytes[0], store, &mut dst[last * len..][..len]);
        }
        store.finish();
        Ok(())
    }

    /// Puts the bytes of a merged block, whose stored pixels begin at `pixels`, into `block`.
    fn block(
        &self,
        pixels: &[u8],
        stride: usize,
        places: &[u16],
        stored: &mut Vec<u8>,
        block: &mut Vec<u8>,
    ) {
        let Layout { patch, merge, frames } = self.layout;
        let copies = if self.frames == Frames::All { frames } else { 1 };
        let plane = patch * patch;
        let row_bytes = 3 * copies * plane;
        block.resize(merge * merge * row_bytes, 0);
        stored.resize(3 * plane, 0);
        for row in 0..merge {
            for column in 0..merge {
                let (up_row, up_column) = self.upright((row, column), (merge, merge));
                let bytes = &mut block[(up_row * merge + up_column) * row_bytes..][..row_bytes];
                let pixels = &pixels[row * patch * stride + column * patch * 3..];
                if places.is_empty() {
                    planes(self.level, pixels, stride, patch, copies, bytes);
                    continue;
                }
                planes(self.level, pixels, stride, patch, 1, stored);
                let channels = bytes.chunks_exact_mut(copies * plane);
                for (stored, channel) in stored.chunks_exact(plane).zip(channels) {
                    turn(self.level, places, stored, channel);
                }
            }
        }
    }

    /// Normalises the bytes of a merged block to its rows, `dst`.
    fn write<T: Element>(&self, block: &[u8], store: Store, dst: &mut [T]) {
        let channels = self.channels;
        let Frames::One(frame) = self.frames else {
            return normalize(self.level, self.table, channels, store, block, dst);
        };
        let plane = self.layout.patch * self.layout.patch;
        for (at, bytes) in block.chunks_exact(plane).enumerate() {
            let start = (at * self.layout.frames + frame) * plane;
            let (channels, dst) = (&channels[start..][..plane], &mut dst[start..][..plane]);
            normalize(self.level, self.table, channels, Store::Cached, bytes, dst);
        }
    }

    fn set_places(&self, places: &mut Vec<u16>) {
        places.clear();
        if self.orientation == Orientation::Upright {
            return;
        }
        let side = self.layout.patch;
        places.resize(side * side, 0);
        for stored in 0..side * side {
            let (row, column) = self.upright((stored / side, stored % side), (side, side));
            places[row * side + column] = stored as u16;
        }
    }

    /// Row and column in the upright image of what is stored at `row` and `column` of `rows` and `columns`.
    fn upright(
        &self,
        (row, column): (usize, usize),
        (rows, columns): (usize, usize),
    ) -> (usize, usize) {
        let row = if self.orientation.flips_y() { rows - 1 - row } else { row };
        let column = if self.orientation.flips_x() { columns - 1 - column } else { column };
        if self.orientation.swaps_sides() { (column, row) } else { (row, column) }
    }
}
