//! Sizes on the way to a frame: integers and the reference's own f64, no pixels but for the padding.

use crate::{RgbImage, RgbView, Size};

/// How an image becomes frames.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fit {
    /// Both sides are scaled to the frame.
    Stretch,
    /// The shorter side is scaled to `shortest_edge`, and the middle is cut out.
    Crop { shortest_edge: u32 },
    /// A square is made by a border of `color`, and scaled to the frame.
    PadToSquare { color: [u8; 3] },
    /// The longer side is scaled to `longest_edge`, then both to multiples of the frame, which is cut into tiles.
    Tiles { longest_edge: u32 },
}

/// The shorter side becomes `edge`; the other is rounded down, as `get_resize_output_image_size`.
pub(super) fn shortest_edge(size: Size, edge: u32) -> Size {
    let (short, long) = (size.width.min(size.height), size.width.max(size.height));
    // Python divides two integers, which gives the nearest f64 of the quotient; both are below 2^53 here.
    let other = ((f64::from(edge) * f64::from(long)) / f64::from(short)) as u32;
    if size.width <= size.height {
        Size { width: edge, height: other }
    } else {
        Size { width: other, height: edge }
    }
}

/// The longer side becomes `edge`; the other is rounded down and then up to an even number.
pub(super) fn longest_edge(size: Size, edge: u32) -> Size {
    let aspect = f64::from(size.width) / f64::from(size.height);
    let even = |side: f64| (side as u32).next_multiple_of(2).max(1);
    if size.width >= size.height {
        Size { width: edge, height: even(f64::from(edge) / aspect) }
    } else {
        Size { width: even(f64::from(edge) * aspect), height: edge }
    }
}

/// Both sides become multiples of `side`: the longer is rounded up, the other follows it and is rounded up, too.
pub(super) fn multiple_of(size: Size, side: u32) -> Size {
    let aspect = f64::from(size.width) / f64::from(size.height);
    let up = |value: u32| value.next_multiple_of(side);
    if size.width >= size.height {
        let width = up(size.width);
        Size { width, height: up((f64::from(width) / aspect) as u32) }
    } else {
        let height = up(size.height);
        Size { width: up((f64::from(height) * aspect) as u32), height }
    }
}

/// Rows and columns of tiles in an image whose sides are multiples of the frame's; none if it is one frame.
pub(super) fn tiles(size: Size, frame: Size) -> (usize, usize) {
    if size == frame {
        return (0, 0);
    }
    ((size.height / frame.height) as usize, (size.width / frame.width) as usize)
}

/// Column and row where a frame begins that lies in the middle of `size`, rounded down.
pub(super) fn centre(size: Size, frame: Size) -> [u32; 2] {
    [(size.width - frame.width) / 2, (size.height - frame.height) / 2]
}

/// The smallest square that holds `size`.
pub(super) fn square(size: Size) -> Size {
    let side = size.width.max(size.height);
    Size { width: side, height: side }
}

/// `image` in the middle of `square`, rounded down, with `color` around it.
pub(super) fn padded(image: RgbView<'_>, square: Size, color: [u8; 3]) -> RgbImage {
    let [left, top] = centre(square, image.size()).map(|side| side as usize);
    let mut pixels = color.repeat(square.rgb_bytes() / 3);
    let rows = pixels.chunks_exact_mut(square.width as usize * 3).skip(top);
    for (row, y) in rows.zip(0..image.height() as usize) {
        let source = image.row(y);
        row[left * 3..left * 3 + source.len()].copy_from_slice(source);
    }
    RgbImage::new(square.width, square.height, pixels).expect("the buffer was made for the square")
}
