//! A row of up to 16 pixels at a time: one permutation makes 16 bytes of each channel.

use std::arch::x86_64::*;

/// # Safety
/// `side` rows of `3 * side` bytes, `stride` apart, must lie in `src`; `side` is at most 16, and `dst` has three times
/// `frames` planes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
pub(super) unsafe fn planes(src: &[u8], stride: usize, side: usize, frames: usize, dst: &mut [u8]) {
    let mut order = [0_u8; 64];
    for (place, at) in order.iter_mut().zip(0..48) {
        *place = at % 16 * 3 + at / 16;
    }
    // SAFETY: the array has 64 bytes.
    let order = unsafe { _mm512_loadu_si512(order.as_ptr().cast()) };
    let (read, written) = ((1_u64 << (3 * side)) - 1, ((1_u32 << side) - 1) as u16);
    let plane = side * side;
    for y in 0..side {
        // SAFETY: only the bytes of the mask are read, which lie in `src` by the caller's promise.
        let row = unsafe { _mm512_maskz_loadu_epi8(read, src.as_ptr().add(y * stride).cast()) };
        let channels = _mm512_permutexvar_epi8(order, row);
        let channels = [
            _mm512_castsi512_si128(channels),
            _mm512_extracti32x4_epi32(channels, 1),
            _mm512_extracti32x4_epi32(channels, 2),
        ];
        // Storing whole vectors is quicker. What passes the end of a line is overwritten by the next.
        let whole = y * side + 16 <= plane;
        for (channel, &values) in channels.iter().enumerate() {
            // SAFETY: the line, and with `whole` what is written beyond it, lies in the first plane of the channel.
            unsafe {
                let line = dst.as_mut_ptr().add(channel * frames * plane + y * side);
                if whole {
                    _mm_storeu_si128(line.cast(), values);
                } else {
                    _mm_mask_storeu_epi8(line.cast(), written, values);
                }
            }
        }
    }
    for dst in dst.chunks_exact_mut(frames * plane) {
        let (first, others) = dst.split_at_mut(plane);
        for other in others.chunks_exact_mut(plane) {
            other.copy_from_slice(first);
        }
    }
}
