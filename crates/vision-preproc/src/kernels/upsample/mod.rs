//! Chroma rows to full width and height: libjpeg's "fancy" upsampling, a triangle filter (`jdsample.c`).
//!
//! Rounding alternates between neighbours, as there. Rows come with one sample to the left and one to the right that
//! repeat the outermost ones; that makes the edges equal to libjpeg's special cases.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

use super::Level;
#[cfg(target_arch = "x86_64")]
use super::level::Kind;

/// How many samples more than asked for a kernel may read and write.
pub(crate) const SLACK: usize = 64;

/// Doubles the width. `near` starts with the repeated sample; `to` has two samples for each other one.
pub(crate) fn h2v1(level: Level, near: &[u8], to: &mut [u8], width: usize) {
    check(near, to, width, 2);
    match level.0 {
        // SAFETY: the level says that the instructions are there.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => unsafe { avx512::h2v1(near, to, width) },
        // SAFETY: the level says that the instructions are there.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { avx2::h2v1(near, to, width) },
        _ => scalar::h2v1(near, to, width),
    }
}

/// Doubles width and height: the row of the result that is nearer to `near` than to `far`.
pub(crate) fn h2v2(level: Level, near: &[u8], far: &[u8], to: &mut [u8], width: usize) {
    check(near, to, width, 2);
    check(far, to, width, 2);
    match level.0 {
        // SAFETY: the level says that the instructions are there.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => unsafe { avx512::h2v2(near, far, to, width) },
        // SAFETY: the level says that the instructions are there.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { avx2::h2v2(near, far, to, width) },
        _ => scalar::h2v2(near, far, to, width),
    }
}

/// Doubles the height: the row of the result that is nearer to `near`, which is above `far` or below it.
pub(crate) fn h1v2(near: &[u8], far: &[u8], to: &mut [u8], width: usize, near_is_above: bool) {
    check(near, to, width, 1);
    check(far, to, width, 1);
    let bias = if near_is_above { 2 } else { 1 };
    // The compiler makes vectors of it, and the case is rare.
    for ((to, &near), &far) in to.iter_mut().zip(&near[1..]).zip(&far[1..]).take(width) {
        *to = ((u16::from(near) * 3 + u16::from(far) + bias) >> 2) as u8;
    }
}

/// Doubles the width by repeating, as libjpeg does for images that are too narrow for a filter.
pub(crate) fn replicate(near: &[u8], to: &mut [u8], width: usize) {
    check(near, to, width, 2);
    for (to, &sample) in to.as_chunks_mut::<2>().0.iter_mut().zip(&near[1..]).take(width) {
        *to = [sample; 2];
    }
}

fn check(from: &[u8], to: &[u8], width: usize, factor: usize) {
    assert!(from.len() >= width + 2 + SLACK && to.len() >= width * factor + 2 * SLACK);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::STEP;

    #[test]
    fn all_levels_are_equal() {
        let mut random = 1_u32;
        let mut row = |len| {
            let next = |_| {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // Extremes are as likely as all between.
                [0, 255, (random >> 24) as u8][(random >> 8) as usize % 3]
            };
            (0..len).map(next).collect::<Vec<_>>()
        };
        for width in (1..200).step_by(STEP) {
            let (near, far) = (row(width + 2 + SLACK), row(width + 2 + SLACK));
            let mut expected = vec![0; width * 2 + 2 * SLACK];
            let mut found = expected.clone();
            for level in Level::available() {
                h2v2(Level::SCALAR, &near, &far, &mut expected, width);
                h2v2(level, &near, &far, &mut found, width);
                assert_eq!(found[..2 * width], expected[..2 * width], "h2v2, {width}, {level:?}");
                h2v1(Level::SCALAR, &near, &mut expected, width);
                h2v1(level, &near, &mut found, width);
                assert_eq!(found[..2 * width], expected[..2 * width], "h2v1, {width}, {level:?}");
            }
        }
    }
}
