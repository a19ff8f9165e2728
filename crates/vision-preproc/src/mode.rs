//! Exact or fast: whether JPEG files may be decoded at a reduced size.

use crate::{Format, Size};

/// How exact the pixels of an image file are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mode {
    /// Bit for bit those of the reference. The default.
    #[default]
    Exact,
    /// A plain JPEG file that shrinks a lot is decoded at a half, a quarter or an eighth of its size, and then resized
    /// exactly: at a half if that is at least 2.125 times as wide and as high as the result, at a quarter from 2.25 times
    /// on, at an eighth from 3 times on.
    ///
    /// Geometry and shapes are those of [`Mode::Exact`]; bytes differ by a little noise. Of every photograph in the tests
    /// the signal-to-noise ratio to the exact bytes is at least 48 dB. Other images are not affected: other formats,
    /// pixels, JPEG files that shrink by less, and those that are not decoded by this crate's own decoder, such as
    /// progressive ones.
    Fast,
}

impl Mode {
    /// At what size to decode an image of `format` that is to become `target`, both sizes upright.
    pub(crate) fn reduction(self, format: Format, size: Size, target: Size) -> Reduction {
        let enough = |reduction: &Reduction| {
            let [from, to] = reduction.margin();
            // `from` pixels of the file for `to` of the target at least.
            let fits = |side: u32, target: u32| u64::from(side) * to >= u64::from(target) * from;
            fits(size.width, target.width) && fits(size.height, target.height)
        };
        match (self, format) {
            (Self::Fast, Format::Jpeg) => {
                let smallest_first = [Reduction::Eighth, Reduction::Quarter, Reduction::Half];
                smallest_first.into_iter().find(enough).unwrap_or_default()
            }
            _ => Reduction::Whole,
        }
    }
}

/// What part of its sides an image is decoded at, rounded up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Reduction {
    #[default]
    Whole,
    Half,
    Quarter,
    Eighth,
}

impl Reduction {
    /// What sides are divided by.
    pub(crate) fn divisor(self) -> u32 {
        1 << self as u32
    }

    /// How much larger than the target an image must be, as a fraction: with less noise would be above what
    /// [`Mode::Fast`] promises.
    fn margin(self) -> [u64; 2] {
        match self {
            Self::Whole => [0, 1],
            Self::Half => [17, 4],
            Self::Quarter => [9, 1],
            Self::Eighth => [24, 1],
        }
    }

    /// The side of a block of the DCT.
    pub(crate) fn block_side(self) -> usize {
        8 >> self as usize
    }

    pub(crate) fn apply(self, size: Size) -> Size {
        let divided = |side: u32| side.div_ceil(self.divisor());
        Size { width: divided(size.width), height: divided(size.height) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_always_enough_left() {
        let size = |width, height| Size { width, height };
        let of = |from, to| Mode::Fast.reduction(Format::Jpeg, from, to);
        let photo = size(4032, 3024);
        assert_eq!(of(photo, size(448, 336)), Reduction::Quarter);
        assert_eq!(of(photo, size(449, 336)), Reduction::Half);
        assert_eq!(of(photo, size(168, 126)), Reduction::Eighth);
        assert_eq!(of(photo, size(169, 126)), Reduction::Quarter);
        assert_eq!(of(photo, size(948, 711)), Reduction::Half);
        // One side alone does not suffice.
        assert_eq!(of(photo, size(448, 712)), Reduction::Whole);
        assert_eq!(of(size(1, 1), size(1, 1)), Reduction::Whole);
        assert_eq!(Mode::Exact.reduction(Format::Jpeg, photo, size(4, 3)), Reduction::Whole);
        assert_eq!(Mode::Fast.reduction(Format::Png, photo, size(4, 3)), Reduction::Whole);
        assert_eq!(Reduction::Quarter.apply(size(4033, 3)), size(1009, 1));
    }
}
