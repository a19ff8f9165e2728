//! Sizes, grids and places: what an image becomes, computed without its pixels.

use crate::{Error, Size};

/// The patches of an image: `t` frames of `h` rows and `w` columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Grid {
    /// Temporal patches; 1 for a still image.
    pub t: usize,
    /// Rows of patches.
    pub h: usize,
    /// Columns of patches.
    pub w: usize,
}

impl Grid {
    /// The number of patches, `t * h * w`.
    pub fn patches(self) -> usize {
        self.t * self.h * self.w
    }
}

/// The sides may differ by this factor at most.
const MAX_RATIO: u64 = 200;

/// Scales `size` so that both sides are multiples of `factor`, the pixels lie within `min_pixels..=max_pixels` where
/// that is possible, and the aspect ratio stays close.
///
/// Sides are rounded half to even, as Python does. Equal to `smart_resize` of Qwen2-VL in transformers 5.23.0.
///
/// A `min_pixels` of 0 is taken as 1, since a side below half of `factor` is rounded to nothing.
///
/// # Errors
/// [`Error::Limit`] if one side is more than 200 times the other or a resulting side exceeds `u32`;
/// [`Error::Shape`] if a side is zero.
///
/// # Panics
/// If `factor` or `max_pixels` is zero.
pub fn smart_resize(
    size: Size,
    factor: u32,
    min_pixels: u64,
    max_pixels: u64,
) -> Result<Size, Error> {
    assert!(factor > 0, "the factor of smart_resize is zero");
    assert!(max_pixels > 0, "max_pixels of smart_resize is zero");
    resized(size, (1, 1), factor, min_pixels, max_pixels)
}

/// As [`smart_resize`], of `frames` that all become one size, with bounds for the pixels of all together: `smart_resize` of
/// Qwen3-VL in transformers 5.23.0. Frames count as whole patches of `per_patch`, and a side below `factor` is first
/// enlarged to it.
///
/// Fewer frames than a patch has, which upstream refuses, are taken for a full one.
pub(crate) fn smart_resize_frames(
    size: Size,
    (frames, per_patch): (usize, usize),
    factor: u32,
    min_pixels: u64,
    max_pixels: u64,
) -> Result<Size, Error> {
    let frames = frames.max(per_patch);
    let (h, w, f) = (f64::from(size.height), f64::from(size.width), f64::from(factor));
    let size = match size.pixels() > 0 && (h < f || w < f) {
        true => {
            let scale = (f / h).max(f / w);
            Size { width: side((w * scale).floor())?, height: side((h * scale).floor())? }
        }
        false => size,
    };
    let whole = (frames as f64 / per_patch as f64).round_ties_even() * per_patch as f64;
    resized(size, (frames as u64, whole as u64), factor, min_pixels, max_pixels)
}

/// `frames` are those that share the bounds: as they are, and as their patches have them.
fn resized(
    size: Size,
    (frames, whole): (u64, u64),
    factor: u32,
    min_pixels: u64,
    max_pixels: u64,
) -> Result<Size, Error> {
    let (long, short) =
        (u64::from(size.width.max(size.height)), u64::from(size.width.min(size.height)));
    if short == 0 {
        return Err(Error::Shape {
            expected: "an image with at least one pixel".into(),
            found: size.to_string(),
        });
    }
    if long > short * MAX_RATIO {
        return Err(Error::Limit {
            what: "ratio of the longer to the shorter side",
            limit: MAX_RATIO,
            found: long.div_ceil(short),
        });
    }
    let f = f64::from(factor);
    let (h, w) = (f64::from(size.height), f64::from(size.width));
    let pixels = size.pixels() as f64 * frames as f64;
    // All sides stay below 2^53 as multiples of an integer, so f64 holds them exactly.
    let (mut h_bar, mut w_bar) = ((h / f).round_ties_even() * f, (w / f).round_ties_even() * f);
    // The product can pass 2^53, where f64 would round.
    let area = (h_bar as u128).saturating_mul(w_bar as u128).saturating_mul(whole.into());
    if area > u128::from(max_pixels) {
        let beta = (pixels / max_pixels as f64).sqrt();
        h_bar = f.max((h / beta / f).floor() * f);
        w_bar = f.max((w / beta / f).floor() * f);
    } else if area < u128::from(min_pixels.max(1)) {
        let beta = (min_pixels.max(1) as f64 / pixels).sqrt();
        h_bar = (h * beta / f).ceil() * f;
        w_bar = (w * beta / f).ceil() * f;
    }
    Ok(Size { width: side(w_bar)?, height: side(h_bar)? })
}

fn side(value: f64) -> Result<u32, Error> {
    if value > f64::from(u32::MAX) {
        return Err(Error::Limit {
            what: "side of the resized image in pixels",
            limit: u32::MAX.into(),
            found: value as u64,
        });
    }
    Ok(value as u32)
}

/// Where a letterboxed picture lies inside its canvas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The size the picture is scaled to.
    pub size: Size,
    /// Columns of padding to the left of it.
    pub left: u32,
    /// Rows of padding above it.
    pub top: u32,
}

impl Placement {
    /// A picture of `size`, which is no larger than `canvas`, in its middle.
    pub(crate) fn centred(size: Size, canvas: Size) -> Self {
        Self { size, left: half(canvas.width - size.width), top: half(canvas.height - size.height) }
    }
}

/// Fits `size` into `canvas` without changing its shape and centres it.
///
/// The wider of the two shapes decides which side fills the canvas; the other is `height / width * canvas.width` (or
/// the converse), rounded half to even, between 1 and the canvas. The padding before the picture is half of the rest,
/// rounded half to even. Equal to `PIL.ImageOps.pad`, except that Pillow lets a side become 0.
///
/// # Panics
/// If a side of `size` or of `canvas` is zero.
pub fn letterbox(size: Size, canvas: Size) -> Placement {
    assert!(size.pixels() > 0 && canvas.pixels() > 0, "letterbox of {size} into {canvas}");
    let (w, h) = (f64::from(size.width), f64::from(size.height));
    let (cw, ch) = (f64::from(canvas.width), f64::from(canvas.height));
    let mut fitted = canvas;
    // The same f64 operations as Pillow's, so that a tie falls to the same side.
    if w / h > cw / ch {
        fitted.height = clamped(h / w * cw, canvas.height);
    } else if w / h < cw / ch {
        fitted.width = clamped(w / h * ch, canvas.width);
    }
    Placement::centred(fitted, canvas)
}

fn clamped(side: f64, most: u32) -> u32 {
    side.round_ties_even().clamp(1.0, f64::from(most)) as u32
}

fn half(rest: u32) -> u32 {
    (f64::from(rest) * 0.5).round_ties_even() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAP: u64 = 12_845_056;
    const LOW_CAP: u64 = 1_003_520;

    fn resized(h: u32, w: u32, max: u64) -> (u32, u32) {
        let size = smart_resize(Size { width: w, height: h }, 28, 3136, max).unwrap();
        (size.height, size.width)
    }

    #[test]
    fn smart_resize_gives_the_reference_values() {
        for ((h, w), expected) in [
            ((70, 70), (56, 56)),
            ((42, 42), (56, 56)),
            ((14, 14), (56, 56)),
            ((1, 1), (56, 56)),
            ((1, 100), (28, 560)),
            ((10, 1900), (28, 784)),
            ((336, 336), (336, 336)),
            ((512, 384), (504, 392)),
            ((480, 640), (476, 644)),
            ((768, 1024), (756, 1036)),
            ((720, 1280), (728, 1288)),
            ((1080, 1920), (1092, 1932)),
            ((2625, 4363), (2632, 4368)),
            ((4032, 3024), (4032, 3024)),
            ((3024, 4032), (3024, 4032)),
            ((4284, 5712), (3080, 4116)),
            ((5712, 4284), (4116, 3080)),
        ] {
            assert_eq!(resized(h, w, CAP), expected, "{h}x{w}");
        }
        for ((h, w), expected) in [
            ((1080, 1920), (728, 1316)),
            ((2625, 4363), (756, 1288)),
            ((4032, 3024), (1148, 840)),
            ((3024, 4032), (840, 1148)),
            ((4284, 5712), (840, 1148)),
            ((5712, 4284), (1148, 840)),
            ((768, 1024), (756, 1036)),
        ] {
            assert_eq!(resized(h, w, LOW_CAP), expected, "{h}x{w} capped");
        }
    }

    #[test]
    fn a_ratio_above_200_is_an_error_and_200_is_not() {
        let narrow = |height| smart_resize(Size { width: height, height: 1 }, 28, 3136, CAP);
        assert!(narrow(200).is_ok());
        assert!(matches!(narrow(201), Err(Error::Limit { limit: 200, found: 201, .. })));
        let empty = smart_resize(Size { width: 0, height: 0 }, 28, 3136, CAP);
        assert!(matches!(empty, Err(Error::Shape { .. })));
    }

    /// Found by fuzzing.
    #[test]
    fn no_side_becomes_zero() {
        for (width, height) in [(13, 13), (1, 1), (100, 13), (13, 2600), (1, 200)] {
            for min_pixels in [0, 1] {
                let size = smart_resize(Size { width, height }, 28, min_pixels, CAP).unwrap();
                assert!(size.width >= 28 && size.height >= 28, "{width}x{height}: {size}");
            }
        }
    }

    #[test]
    fn letterbox_fills_one_side_and_centres_the_other() {
        let square = Size { width: 448, height: 448 };
        let at = |width, height| letterbox(Size { width, height }, square);
        assert_eq!(
            at(4032, 3024),
            Placement { size: Size { width: 448, height: 336 }, left: 0, top: 56 }
        );
        assert_eq!(
            at(3024, 4032),
            Placement { size: Size { width: 336, height: 448 }, left: 56, top: 0 }
        );
        assert_eq!(at(7, 7), Placement { size: square, left: 0, top: 0 });
        assert_eq!(at(1000, 1).size.height, 1);
        // 448 * 3 / 896 = 1.5 and 448 * 5 / 896 = 2.5: both go to the even neighbour.
        assert_eq!(at(896, 3).size.height, 2);
        assert_eq!(at(896, 5).size.height, 2);
        // 445 and 447 rows of padding: 222.5 and 223.5 go to the even neighbour.
        assert_eq!(at(448, 3).top, 222);
        assert_eq!(at(448, 1).top, 224);
    }
}
