//! Rows of bytes to an image of normalised numbers.

use crate::Size;
use crate::kernels::{Element, Level, Store, normalize, planes};
use crate::normalize::Table;

/// Where the channels of a pixel lie in the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ChannelOrder {
    /// `[3, h, w]`: a plane for each channel. The default.
    #[default]
    Chw,
    /// `[h, w, 3]`: the channels of a pixel side by side.
    Hwc,
}

/// The size and layout of an output, and the numbers that bytes become in it.
#[derive(Clone, Debug)]
pub(crate) struct Canvas {
    size: Size,
    order: ChannelOrder,
    level: Level,
    table: Box<Table>,
    /// The channels of a row, in the order of the output.
    channels: Vec<u8>,
}

impl Canvas {
    pub(crate) fn new(size: Size, order: ChannelOrder, table: Table) -> Self {
        let width = size.width as usize;
        let channel = |at| match order {
            ChannelOrder::Chw => at / width,
            ChannelOrder::Hwc => at % 3,
        };
        let channels = (0..3 * width).map(|at| channel(at) as u8).collect();
        Self { size, order, level: Level::detect(), table: Box::new(table), channels }
    }

    pub(crate) fn size(&self) -> Size {
        self.size
    }

    pub(crate) fn level(&self) -> Level {
        self.level
    }

    /// Numbers of the output.
    pub(crate) fn value_count(&self) -> usize {
        self.size.rgb_bytes()
    }

    /// Writes row `y` of `out`, whose `[w, 3]` bytes are `row`; `planar` holds them channel by channel on the way.
    pub(crate) fn write_row<T: Element>(
        &self,
        y: usize,
        row: &[u8],
        planar: &mut Vec<u8>,
        store: Store,
        out: &mut [T],
    ) {
        let Self { level, table, channels, .. } = self;
        let width = self.size.width as usize;
        match self.order {
            ChannelOrder::Hwc => {
                let out = &mut out[y * width * 3..(y + 1) * width * 3];
                normalize(*level, table, channels, store, row, out);
            }
            ChannelOrder::Chw => {
                planar.resize(width * 3, 0);
                split(*level, row, planar);
                for (channel, plane) in out.chunks_exact_mut(self.value_count() / 3).enumerate() {
                    let of = channel * width..(channel + 1) * width;
                    let out = &mut plane[y * width..(y + 1) * width];
                    normalize(*level, table, &channels[of.clone()], store, &planar[of], out);
                }
            }
        }
    }
}

/// `[w, 3]` bytes to `[3, w]`.
fn split(level: Level, row: &[u8], planar: &mut [u8]) {
    let width = row.len() / 3;
    let mut at = 0;
    // The kernel takes squares; pixels that follow each other make a square whose rows do.
    for side in [16, 8] {
        let area = side * side;
        let mut square = [0; 3 * 16 * 16];
        while width - at >= area {
            let square = &mut square[..3 * area];
            planes(level, &row[at * 3..], side * 3, side, 1, square);
            for (channel, plane) in square.chunks_exact(area).enumerate() {
                planar[channel * width + at..][..area].copy_from_slice(plane);
            }
            at += area;
        }
    }
    for (x, pixel) in row.as_chunks::<3>().0.iter().enumerate().skip(at) {
        for (channel, &value) in pixel.iter().enumerate() {
            planar[channel * width + x] = value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_split_at_every_level() {
        for width in [1, 2, 63, 64, 65, 255, 256, 257, 400, 641] {
            let row: Vec<u8> = (0..3 * width).map(|at| (at * 7 % 251) as u8).collect();
            for level in Level::available() {
                let mut planar = vec![0; 3 * width];
                split(level, &row, &mut planar);
                for (at, &value) in row.iter().enumerate() {
                    assert_eq!(planar[at % 3 * width + at / 3], value, "{level:?}, {width}, {at}");
                }
            }
        }
    }
}
