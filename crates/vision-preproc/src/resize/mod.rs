//! Pillow's 8-bit resample, bit for bit.
//!
//! Two passes, one per axis, each rounding to bytes; weights are 22-bit fixed point (see `weights.rs`). Source:
//! Pillow 13.0.0, `src/libImaging/Resample.c`.

mod stream;
mod weights;

pub(crate) use stream::{Buffers, Passes};
pub(crate) use weights::{Axis, AxisKey, PRECISION_BITS};

use crate::decode::Orientation;
use crate::decode::rows::{Whole, collect};
use crate::kernels::Level;
use crate::{Error, RgbImage, RgbView, Size};

/// The kernel that weighs source pixels; each widens when shrinking, which makes it an antialiasing filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Filter {
    /// Half a pixel to each side, all weights equal.
    Box,
    /// A triangle, one pixel to each side.
    Bilinear,
    /// A Hamming-windowed sinc, one pixel to each side.
    Hamming,
    /// Keys' cubic with a = -0.5, two pixels to each side.
    Bicubic,
    /// A Lanczos-windowed sinc, three pixels to each side.
    Lanczos,
}

/// Which axis is resampled first, and by whose rounding; the bytes between the passes are rounded, so the results differ by a few levels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PassOrder {
    /// Horizontal first, as Pillow up to 12; vertical first if the rows shrink and the image is more than 100 times as
    /// high as wide.
    Pillow12,
    /// Vertical first if the rows shrink, and by more than twice what the columns shrink; as Pillow 13. The default.
    #[default]
    Pillow13,
    /// Horizontal first, with weights rounded to 16 bits, as torchvision 0.29.2 resizes bytes.
    Torchvision,
}

impl PassOrder {
    /// Whether the vertical pass comes first.
    pub fn vertical_first(self, from: Size, to: Size) -> bool {
        let rows = i64::from(from.height) - i64::from(to.height);
        let columns = i64::from(from.width) - i64::from(to.width);
        match self {
            // `Image.resize` of Pillow 12.3.0 splits the call for such images; Pillow 13 no longer does.
            Self::Pillow12 => rows > 0 && i64::from(from.height) > 100 * i64::from(from.width),
            Self::Pillow13 => rows > 0 && rows > 2 * columns,
            Self::Torchvision => false,
        }
    }
}

/// Scales `src` to `size`, as `PIL.Image.resize` does for RGB images.
///
/// Takes `[h, w, 3]` RGB bytes and returns `[size.height, size.width, 3]`. A pass whose length does not change is
/// left out.
///
/// # Errors
/// [`Error::Shape`] if a side of `size` is zero.
pub fn resize(
    src: RgbView<'_>,
    size: Size,
    filter: Filter,
    order: PassOrder,
) -> Result<RgbImage, Error> {
    if size.pixels() == 0 {
        return Err(Error::Shape {
            expected: "a target with at least one pixel".into(),
            found: size.to_string(),
        });
    }
    let passes = Passes::new(src.size(), size, filter, order, Orientation::Upright);
    let mut rows = Whole::new(src.size(), src.pixels());
    let resized =
        passes.run(&mut rows, Level::detect(), &mut Buffers::default(), |rows| collect(rows));
    Ok(resized.expect("rows in memory have no error"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pass_order_follows_the_signed_rule() {
        let first = |from: (u32, u32), to: (u32, u32)| {
            let size = |(height, width)| Size { width, height };
            PassOrder::Pillow13.vertical_first(size(from), size(to))
        };
        assert!(first((480, 640), (476, 644)));
        assert!(first((512, 384), (504, 392)));
        assert!(!first((4032, 3024), (1148, 840)));
        assert!(!first((100, 100), (100, 300)));
        let size = Size { width: 640, height: 480 };
        assert!(!PassOrder::Pillow12.vertical_first(size, Size { width: 644, height: 476 }));
        let ribbon = |height| Size { width: 10, height };
        let smaller = Size { width: 28, height: 784 };
        assert!(!PassOrder::Pillow12.vertical_first(ribbon(1000), smaller));
        assert!(PassOrder::Pillow12.vertical_first(ribbon(1001), smaller));
    }

    #[test]
    fn a_flat_image_stays_flat_with_every_filter() {
        let image = RgbImage::new(13, 9, [7, 130, 255].repeat(13 * 9)).unwrap();
        let size = Size { width: 5, height: 20 };
        for filter in
            [Filter::Box, Filter::Bilinear, Filter::Hamming, Filter::Bicubic, Filter::Lanczos]
        {
            let small = resize(image.as_view(), size, filter, PassOrder::default()).unwrap();
            assert_eq!(small.pixels(), [7, 130, 255].repeat(100), "{filter:?}");
        }
        let empty = Size { width: 0, height: 1 };
        assert!(resize(image.as_view(), empty, Filter::Box, PassOrder::default()).is_err());
    }
}
