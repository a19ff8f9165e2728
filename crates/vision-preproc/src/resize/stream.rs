//! The passes of a resize as stages between a decoder and what takes the rows.
//!
//! ```text
//! horizontal first:  rows -- batch --> Across -- ring of the rows in the window --> Down -->
//! vertical first:    rows -- ring of the rows in the window --> Down -- batch --> Across -->
//! ```
//!
//! No stage holds more than the rows in the window of an output row and a batch, so that they stay in the cache.

use super::weights::AxisKey;
use super::{Filter, PassOrder};
use crate::Size;
use crate::decode::Orientation;
use crate::decode::rows::{Reason, RowSource};
use crate::kernels::{Horizontal, Level, Vertical};
use crate::mode::Reduction;

/// Rows that are read at a time; a JPEG file is decoded 8 or 16 rows at a time.
const BATCH_ROWS: usize = 16;

/// What is done to the stored rows of an image, so that they become the rows of the resized image in the same
/// orientation.
///
/// Sizes and order of the passes are defined on the upright image. Turning an image by a quarter swaps the passes,
/// and mirroring it mirrors the tables, so the stored image can be resized as it comes and turned afterwards: every
/// output byte is the same sum of the same bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Passes {
    from: Size,
    to: Size,
    vertical_first: bool,
    across: AxisKey,
    down: AxisKey,
}

impl Passes {
    /// The passes that resize an image of `from` to `to`, both upright, as rows that are stored as `orientation` says.
    pub(crate) fn new(
        from: Size,
        to: Size,
        filter: Filter,
        order: PassOrder,
        orientation: Orientation,
    ) -> Self {
        let vertical_first = order.vertical_first(from, to) != orientation.swaps_sides();
        let (from, to) = (orientation.apply(from), orientation.apply(to));
        let short = order == PassOrder::Torchvision;
        let axis = |input, output, flipped| AxisKey {
            input,
            reduction: 1,
            output,
            filter,
            flipped,
            short,
        };
        Self {
            from,
            to,
            vertical_first,
            across: axis(from.width, to.width, orientation.flips_x()),
            down: axis(from.height, to.height, orientation.flips_y()),
        }
    }

    /// The same for a source that is reduced.
    pub(crate) fn of_reduced(mut self, reduction: Reduction) -> Self {
        self.from = reduction.apply(self.from);
        (self.across.reduction, self.down.reduction) = (reduction.divisor(), reduction.divisor());
        self
    }

    /// Hands the resized rows of `source` to `sink`.
    pub(crate) fn run<T>(
        &self,
        source: &mut dyn RowSource,
        level: Level,
        buffers: &mut Buffers,
        sink: impl FnOnce(&mut dyn RowSource) -> Result<T, Reason>,
    ) -> Result<T, Reason> {
        assert_eq!(source.size(), self.from, "size of the stored image");
        let Buffers { across, down, batch, ring, offsets } = buffers;
        let wide = self.from.width != self.to.width;
        let high = self.from.height != self.to.height;
        if wide {
            across.set(level, self.across);
        }
        if high {
            down.set(level, self.down);
        }
        match (wide, high) {
            (false, false) => sink(source),
            (true, false) => sink(&mut Across::new(source, across, batch)),
            (false, true) => sink(&mut Down::new(source, down, ring, offsets)),
            (true, true) if self.vertical_first => {
                let mut rows = Down::new(source, down, ring, offsets);
                sink(&mut Across::new(&mut rows, across, batch))
            }
            (true, true) => {
                let mut rows = Across::new(source, across, batch);
                sink(&mut Down::new(&mut rows, down, ring, offsets))
            }
        }
    }
}

/// Tables and rows of a resize, kept for the next one.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    across: Horizontal,
    down: Vertical,
    batch: Vec<u8>,
    ring: Vec<u8>,
    offsets: Vec<usize>,
}

/// `[h, input, 3]` to `[h, output, 3]`.
struct Across<'a> {
    source: &'a mut dyn RowSource,
    axis: &'a mut Horizontal,
    batch: &'a mut [u8],
    size: Size,
}

impl<'a> Across<'a> {
    fn new(
        source: &'a mut dyn RowSource,
        axis: &'a mut Horizontal,
        batch: &'a mut Vec<u8>,
    ) -> Self {
        let Size { width, height } = source.size();
        let len = BATCH_ROWS * width as usize * 3 + Horizontal::SLACK;
        let size = Size { width: axis.axis().output() as u32, height };
        Self { source, axis, batch: room(batch, len), size }
    }
}

impl RowSource for Across<'_> {
    fn size(&self) -> Size {
        self.size
    }

    fn read(&mut self, out: &mut [u8]) -> Result<usize, Reason> {
        let (from, to) = (self.axis.axis().input() * 3, self.axis.axis().output() * 3);
        let rows = BATCH_ROWS.min(out.len() / to);
        let rows = self.source.read(&mut self.batch[..rows * from])?;
        self.axis.rows(self.batch, rows, &mut out[..rows * to]);
        Ok(rows)
    }
}

/// `[input, w, 3]` to `[output, w, 3]`.
struct Down<'a> {
    source: &'a mut dyn RowSource,
    axis: &'a Vertical,
    /// Source row `y` lies in slot `y % slots`.
    ring: &'a mut [u8],
    slots: usize,
    /// Source rows that have been read.
    read: usize,
    /// Output rows that have been made.
    made: usize,
    offsets: &'a mut Vec<usize>,
    size: Size,
}

impl<'a> Down<'a> {
    fn new(
        source: &'a mut dyn RowSource,
        axis: &'a Vertical,
        ring: &'a mut Vec<u8>,
        offsets: &'a mut Vec<usize>,
    ) -> Self {
        let width = source.size().width;
        let slots = axis.axis().most_taps() + BATCH_ROWS;
        let ring = room(ring, slots * width as usize * 3);
        let size = Size { width, height: axis.axis().output() as u32 };
        Self { source, axis, ring, slots, read: 0, made: 0, offsets, size }
    }

    /// Reads the source rows before `end`, keeping those from `start` on.
    fn fill(&mut self, start: usize, end: usize) -> Result<(), Reason> {
        let stride = self.size.width as usize * 3;
        while self.read < end {
            let slot = self.read % self.slots;
            let kept = self.read - start.min(self.read);
            let rows = (self.slots - slot).min(self.slots - kept);
            match self.source.read(&mut self.ring[slot * stride..(slot + rows) * stride])? {
                0 => return Err("the file has fewer rows than its header says".into()),
                rows => self.read += rows,
            }
        }
        Ok(())
    }
}

impl RowSource for Down<'_> {
    fn size(&self) -> Size {
        self.size
    }

    fn read(&mut self, out: &mut [u8]) -> Result<usize, Reason> {
        let stride = self.size.width as usize * 3;
        let mut rows = 0;
        for dst in out.chunks_exact_mut(stride) {
            if self.made == self.axis.axis().output() {
                break;
            }
            let (start, weights) = self.axis.axis().taps_of(self.made);
            let taps = weights.len();
            self.fill(start, start + taps)?;
            self.offsets.clear();
            self.offsets.extend((start..start + taps).map(|y| y % self.slots * stride));
            // Rows without weight fill the last group.
            self.offsets.resize(taps.next_multiple_of(Vertical::GROUP), 0);
            self.axis.row(self.made, self.ring, self.offsets, dst);
            self.made += 1;
            rows += 1;
        }
        Ok(rows)
    }
}

/// The first `len` bytes of `buffer`, which grows as needed.
fn room(buffer: &mut Vec<u8>, len: usize) -> &mut [u8] {
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    &mut buffer[..len]
}
