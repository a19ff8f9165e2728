//! Turning a decoded image upright.

use crate::decode::Orientation;
use crate::{RgbImage, RgbView};

/// Side of the square blocks that a turn by a quarter moves at a time, so that reads and writes stay in the cache.
const BLOCK: usize = 32;

/// Turns `image`, stored as `orientation` says, upright. Equal to `PIL.ImageOps.exif_transpose`.
pub(crate) fn upright(image: RgbImage, orientation: Orientation) -> RgbImage {
    if orientation == Orientation::Upright {
        return image;
    }
    turned(image.as_view(), orientation)
}

pub(crate) fn turned(stored: RgbView<'_>, orientation: Orientation) -> RgbImage {
    let size = orientation.apply(stored.size());
    let (width, height) = (size.width as usize, size.height as usize);
    let mut pixels = vec![0; size.rgb_bytes()];
    let source = stored.pixels();
    let stride = stored.width() as usize;
    for block_y in (0..height).step_by(BLOCK) {
        for block_x in (0..width).step_by(BLOCK) {
            for y in block_y..height.min(block_y + BLOCK) {
                for x in block_x..width.min(block_x + BLOCK) {
                    // Undo the swap first, then the mirrors, which are named in stored columns and rows.
                    let (mut from_x, mut from_y) =
                        if orientation.swaps_sides() { (y, x) } else { (x, y) };
                    if orientation.flips_x() {
                        from_x = stride - 1 - from_x;
                    }
                    if orientation.flips_y() {
                        from_y = stored.height() as usize - 1 - from_y;
                    }
                    let (to, from) = ((y * width + x) * 3, (from_y * stride + from_x) * 3);
                    pixels[to..to + 3].copy_from_slice(&source[from..from + 3]);
                }
            }
        }
    }
    RgbImage::new(size.width, size.height, pixels).expect("the buffer was made for this size")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pixel numbers of a 2 by 3 image, turned by Pillow 13.0.0's `Image.transpose`.
    #[test]
    fn all_orientations_equal_pillow() {
        let stored: Vec<u8> = (0..6).flat_map(|n| [n, n, n]).collect();
        let stored = RgbImage::new(2, 3, stored).unwrap();
        let expected: [(u32, [u8; 6]); 8] = [
            (2, [0, 1, 2, 3, 4, 5]),
            (2, [1, 0, 3, 2, 5, 4]),
            (2, [5, 4, 3, 2, 1, 0]),
            (2, [4, 5, 2, 3, 0, 1]),
            (3, [0, 2, 4, 1, 3, 5]),
            (3, [4, 2, 0, 5, 3, 1]),
            (3, [5, 3, 1, 4, 2, 0]),
            (3, [1, 3, 5, 0, 2, 4]),
        ];
        for (orientation, (width, numbers)) in Orientation::ALL.into_iter().zip(expected) {
            let image = upright(stored.clone(), orientation);
            assert_eq!(image.width(), width, "{orientation:?}");
            let found: Vec<u8> = image.pixels().chunks(3).map(|pixel| pixel[0]).collect();
            assert_eq!(found, numbers, "{orientation:?}");
        }
    }

    /// The eight turns are the symmetries of a rectangle whose sides may change places: two in a row are one of them,
    /// each has one that undoes it, and each moves every pixel to a place of its own.
    #[test]
    fn orientations_form_a_group() {
        // Sides above and below a block, so that blocks are crossed.
        for (width, height) in [(3, 2), (1, 40), (67, 35)] {
            let numbers = (0..width * height).flat_map(|n: u32| [n as u8, (n >> 8) as u8, 7]);
            let image = RgbImage::new(width, height, numbers.collect()).unwrap();
            let all = Orientation::ALL.map(|orientation| turned(image.as_view(), orientation));
            for (index, first) in all.iter().enumerate() {
                assert!(width == 1 || all[..index].iter().all(|other| other != first));
                let mut pixels: Vec<_> = first.pixels().as_chunks::<3>().0.to_vec();
                pixels.sort_unstable();
                pixels.dedup();
                assert_eq!(pixels.len(), (width * height) as usize);
                let twice = Orientation::ALL.map(|second| turned(first.as_view(), second));
                assert!(twice.iter().all(|image| all.contains(image)), "{index}: not closed");
                assert!(twice.contains(&image), "{index}: nothing undoes it");
            }
            let power = |orientation, times| {
                (0..times).fold(image.clone(), |image, _| turned(image.as_view(), orientation))
            };
            use Orientation::{FlipHorizontal, FlipVertical, Rotate90, Rotate180, Rotate270};
            assert!(power(Rotate90, 4) == image);
            assert!(power(Rotate90, 2) == power(Rotate180, 1));
            assert!(power(Rotate90, 3) == power(Rotate270, 1));
            let flipped = turned(power(FlipHorizontal, 1).as_view(), FlipVertical);
            assert!(flipped == power(Rotate180, 1));
            for flip in
                [FlipHorizontal, FlipVertical, Orientation::Transpose, Orientation::Transverse]
            {
                assert!(power(flip, 2) == image, "{flip:?}");
            }
        }
    }
}
