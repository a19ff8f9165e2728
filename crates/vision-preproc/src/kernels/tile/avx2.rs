//! A row of up to 16 pixels at a time: shuffles of its three parts make 16 bytes of each channel.

use std::arch::x86_64::*;

use super::scalar;

const LANES: usize = 16;

/// `side` is from 8 to 16.
#[target_feature(enable = "avx2")]
pub(super) fn planes(src: &[u8], stride: usize, side: usize, frames: usize, dst: &mut [u8]) {
    if src.len() < (side - 1) * stride + 3 * LANES {
        return scalar::planes(src, stride, side, frames, dst);
    }
    // For each channel and part of 16 bytes, where the channel's bytes are; -1 gives zero.
    let mut orders = [[[-1_i8; LANES]; 3]; 3];
    for (channel, orders) in orders.iter_mut().enumerate() {
        for (pixel, place) in (channel..3 * LANES).step_by(3).enumerate() {
            orders[place / LANES][pixel] = (place % LANES) as i8;
        }
    }
    // SAFETY: the array has 16 bytes.
    let load = |order: &[i8; LANES]| unsafe { _mm_loadu_si128(order.as_ptr().cast()) };
    let plane = side * side;
    for (orders, dst) in orders.iter().zip(dst.chunks_exact_mut(frames * plane)) {
        let orders = [load(&orders[0]), load(&orders[1]), load(&orders[2])];
        let (first, others) = dst.split_at_mut(plane);
        for y in 0..side {
            let row = &src[y * stride..][..3 * LANES];
            // SAFETY: a row has three times 16 bytes.
            let parts = unsafe {
                [
                    _mm_loadu_si128(row.as_ptr().cast()),
                    _mm_loadu_si128(row.as_ptr().add(LANES).cast()),
                    _mm_loadu_si128(row.as_ptr().add(2 * LANES).cast()),
                ]
            };
            let values = _mm_or_si128(
                _mm_or_si128(
                    _mm_shuffle_epi8(parts[0], orders[0]),
                    _mm_shuffle_epi8(parts[1], orders[1]),
                ),
                _mm_shuffle_epi8(parts[2], orders[2]),
            );
            // What passes the end of a line is overwritten by the next; the last line has none.
            let mut line = [0; LANES];
            match first.get_mut(y * side..y * side + LANES) {
                // SAFETY: there is room for 16 bytes.
                Some(room) => unsafe { _mm_storeu_si128(room.as_mut_ptr().cast(), values) },
                None => {
                    // SAFETY: the array has 16 bytes.
                    unsafe { _mm_storeu_si128(line.as_mut_ptr().cast(), values) };
                    first[y * side..].copy_from_slice(&line[..side]);
                }
            }
        }
        for frame in others.chunks_exact_mut(plane) {
            frame.copy_from_slice(first);
        }
    }
}
