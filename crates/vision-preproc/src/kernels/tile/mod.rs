//! Squares of pixels to planes of channels: the bytes of a patch.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use super::Level;
use super::level::Kind;

/// The `side` x `side` pixels that begin at `src`, whose rows are `stride` bytes apart, to `dst`,
/// `[3, frames, side, side]`, all frames alike.
///
/// # Panics
/// If the pixels leave `src`, or `dst` is of another length.
pub(crate) fn planes(
    level: Level,
    src: &[u8],
    stride: usize,
    side: usize,
    frames: usize,
    dst: &mut [u8],
) {
    assert_eq!(dst.len(), 3 * frames * side * side, "planes of {side} x {side} pixels");
    assert!(src.len() >= (side - 1) * stride + 3 * side, "{side} rows of pixels");
    match level.0 {
        // SAFETY: the level says that the instructions are there; the pixels lie in `src`, as asserted.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 if side <= 16 => unsafe { avx512::planes(src, stride, side, frames, dst) },
        // SAFETY: the level says that the instructions are there.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 if (8..=16).contains(&side) => unsafe {
            avx2::planes(src, stride, side, frames, dst)
        },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Kind::Neon if (8..=16).contains(&side) => unsafe {
            neon::planes(src, stride, side, frames, dst)
        },
        _ => scalar::planes(src, stride, side, frames, dst),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::bytes;

    #[test]
    fn every_level_equals_the_specification() {
        for side in [1, 2, 7, 8, 9, 13, 14, 15, 16, 17, 28] {
            for (frames, more) in [(1, 0), (2, 5), (3, 100)] {
                let stride = 3 * side + more;
                let src = bytes(side * stride + 64);
                let mut expected = vec![0; 3 * frames * side * side];
                scalar::planes(&src, stride, side, frames, &mut expected);
                for level in Level::available() {
                    // With and without room after the last pixel.
                    for src in [&src[..], &src[..(side - 1) * stride + 3 * side]] {
                        let mut dst = vec![1; expected.len()];
                        planes(level, src, stride, side, frames, &mut dst);
                        assert!(dst == expected, "{level:?}, side {side}, {frames} frames");
                    }
                }
            }
        }
    }
}
