//! The samples of one component: a ring of rows, with room to repeat the outermost samples.

use crate::kernels::upsample::SLACK;

/// Bytes before the first sample of a row: one is needed, 64 keep the blocks aligned.
const MARGIN: usize = 64;

/// Rows of samples, of which the last `rows` can be read.
#[derive(Debug, Default)]
pub(super) struct Plane {
    samples: Vec<u8>,
    stride: usize,
    rows: usize,
}

impl Plane {
    /// Makes room for rows of `width` samples, a power of two of them; memory of an earlier image is used again.
    pub(super) fn resize(&mut self, width: usize, rows: usize) {
        self.stride = (MARGIN + width + 2 + SLACK).next_multiple_of(64);
        self.rows = rows;
        self.samples.resize(self.stride * rows, 0);
    }

    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// Where row `y` starts. A division would take longer than the rest.
    fn start(&self, y: usize) -> usize {
        debug_assert!(self.rows.is_power_of_two(), "rows of a ring");
        (y & (self.rows - 1)) * self.stride
    }

    /// Where sample `x` of row `y` is.
    pub(super) fn index(&self, x: usize, y: usize) -> usize {
        self.start(y) + MARGIN + x
    }

    pub(super) fn samples_mut(&mut self) -> &mut [u8] {
        &mut self.samples
    }

    /// Row `y` from its first sample on.
    pub(super) fn row(&self, y: usize) -> &[u8] {
        &self.with_margin(y)[1..]
    }

    /// Row `y` from the sample before its first one on.
    pub(super) fn with_margin(&self, y: usize) -> &[u8] {
        let start = self.start(y);
        &self.samples[start + MARGIN - 1..start + self.stride]
    }

    /// Repeats the first and the last of the `width` samples of row `y`.
    pub(super) fn repeat_ends(&mut self, y: usize, width: usize) {
        let start = self.start(y) + MARGIN;
        let row = &mut self.samples[start - 1..start + width + 1];
        row[0] = row[1];
        row[width + 1] = row[width];
    }
}
