//! Planes of bytes in another order: patches of an image that is stored on its side.

#[cfg(target_arch = "x86_64")]
mod avx512;

use super::Level;
#[cfg(target_arch = "x86_64")]
use super::level::Kind;

/// `dst[i] = src[places[i]]`, again and again until `dst` is full.
///
/// # Panics
/// If `src` is not as long as `places`, `dst` no multiple of that, or a place is not in `src`.
pub(crate) fn turn(level: Level, places: &[u16], src: &[u8], dst: &mut [u8]) {
    assert_eq!(src.len(), places.len(), "bytes and their places");
    assert_eq!(dst.len() % src.len(), 0, "whole planes");
    let (first, others) = dst.split_at_mut(src.len());
    match level.0 {
        // SAFETY: the level says that the instructions are there.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 if src.len() <= 256 => unsafe { avx512::turn(places, src, first) },
        _ => {
            for (value, &place) in first.iter_mut().zip(places) {
                *value = src[usize::from(place)];
            }
        }
    }
    for other in others.chunks_exact_mut(src.len()) {
        other.copy_from_slice(first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::bytes;

    #[test]
    fn every_level_equals_the_definition() {
        for len in [1, 2, 63, 64, 65, 127, 129, 196, 255, 256, 257, 784] {
            let src = bytes(len);
            // 101 has no divisor in common with any of the lengths, so every byte moves.
            let places: Vec<u16> = (0..len).map(|at| (at * 101 % len) as u16).collect();
            let expected: Vec<u8> = places.iter().map(|&at| src[usize::from(at)]).collect();
            for level in Level::available() {
                let mut dst = vec![1; 2 * len];
                turn(level, &places, &src, &mut dst);
                assert!(dst == [&expected[..], &expected].concat(), "{level:?}, {len} bytes");
            }
        }
    }
}
