//! One output pixel at a time: a source pixel is widened to four products of 32 bits, of which three are used.

use std::arch::aarch64::*;

use super::scalar;
use crate::kernels::HALF;
use crate::resize::{Axis, PRECISION_BITS};

/// Rows that share a pass over the weights.
const ROWS: usize = 4;

/// All rows of `dst`, whose sources lie one after the other in `src`.
#[target_feature(enable = "neon")]
pub(super) fn rows(axis: &Axis, src: &[u8], dst: &mut [u8]) {
    let (from, to) = (axis.input() * 3, axis.output() * 3);
    let several = dst.len() / to / ROWS * ROWS;
    let (first, rest) = dst.split_at_mut(several * to);
    for (at, dst) in first.chunks_exact_mut(ROWS * to).enumerate() {
        some_rows::<ROWS>(axis, &src[at * ROWS * from..], dst);
    }
    for (at, dst) in rest.chunks_exact_mut(to).enumerate() {
        some_rows::<1>(axis, &src[(several + at) * from..], dst);
    }
}

#[target_feature(enable = "neon")]
fn some_rows<const N: usize>(axis: &Axis, src: &[u8], dst: &mut [u8]) {
    let (from, to) = (axis.input() * 3, axis.output() * 3);
    // What the last row may read from its beginning: pixels that reach further are left to the specification.
    let readable = src.len() - (N - 1) * from;
    let mut done = 0;
    for (start, weights) in axis.taps() {
        // A source pixel is read with the byte that follows it.
        if 3 * (start + weights.len()) + 1 > readable {
            break;
        }
        let mut sums = [vdupq_n_s32(HALF); N];
        for (tap, &weight) in weights.iter().enumerate() {
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: the four bytes lie in `src` for the last row, as checked, and so for all.
                let pixel = unsafe {
                    src.as_ptr().add(i * from + 3 * (start + tap)).cast::<u32>().read_unaligned()
                };
                let bytes = vcreate_u8(u64::from(pixel));
                let wide = vmovl_u16(vget_low_u16(vmovl_u8(bytes)));
                *sum = vmlaq_n_s32(*sum, vreinterpretq_s32_u32(wide), weight);
            }
        }
        for (row, &sum) in dst.chunks_exact_mut(to).zip(&sums) {
            let words = vqmovn_s32(vshrq_n_s32::<{ PRECISION_BITS as i32 }>(sum));
            let bytes = vqmovun_s16(vcombine_s16(words, words));
            let pixel = vget_lane_u32::<0>(vreinterpret_u32_u8(bytes)).to_le_bytes();
            row[done * 3..done * 3 + 3].copy_from_slice(&pixel[..3]);
        }
        done += 1;
    }
    if done < axis.output() {
        for (src, dst) in src.chunks_exact(from).zip(dst.chunks_exact_mut(to)) {
            scalar::row(axis, done, src, &mut dst[done * 3..]);
        }
    }
}
