//! Rows of YCbCr to RGB, with libjpeg's constants of 16 bits after the point (`jdcolor.c`).

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

use super::Level;
#[cfg(target_arch = "x86_64")]
use super::level::Kind;

/// A row of `[3 * width]` RGB bytes from one row of each component.
pub(crate) fn row(level: Level, y: &[u8], cb: &[u8], cr: &[u8], rgb: &mut [u8]) {
    let width = rgb.len() / 3;
    let (y, cb, cr) = (&y[..width], &cb[..width], &cr[..width]);
    match level.0 {
        // SAFETY: the level says that the instructions are there.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 if width >= avx512::STEP => unsafe { avx512::row(y, cb, cr, rgb) },
        // SAFETY: as above; the other level has these instructions too.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 | Kind::Avx512 if width >= avx2::STEP => unsafe { avx2::row(y, cb, cr, rgb) },
        _ => scalar::row(y, cb, cr, rgb),
    }
}

/// Where every group of `step` samples starts; the last one may overlap with the one before.
#[cfg(target_arch = "x86_64")]
fn starts(width: usize, step: usize) -> impl Iterator<Item = usize> {
    (0..width).step_by(step).map(move |at| at.min(width - step))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::STEP;

    #[test]
    fn all_levels_are_equal_for_all_colours() {
        // All pairs of chroma values, with luma values that reach both ends of the range.
        let cb: Vec<u8> = (0..=255).collect();
        for cr in (0..=255).step_by(STEP) {
            let cr = [cr; 256];
            for y in [0, 1, 77, 128, 200, 254, 255] {
                let y = [y; 256];
                for width in [1, 15, 31, 32, 33, 63, 64, 65, 100, 256] {
                    let mut expected = vec![0; width * 3];
                    let mut found = expected.clone();
                    // The last columns, so that each of the colours is there for one of the widths.
                    let cb = &cb[256 - width..];
                    scalar::row(&y[..width], cb, &cr[..width], &mut expected);
                    for level in Level::available() {
                        row(level, &y, cb, &cr, &mut found);
                        assert_eq!(found, expected, "{level:?}, {width}");
                    }
                }
            }
        }
    }
}
