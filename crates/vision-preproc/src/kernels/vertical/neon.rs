//! 16 columns at a time, one row after the other, in products of 32 bits.

use std::arch::aarch64::*;

use super::scalar;
use crate::kernels::HALF;
use crate::resize::PRECISION_BITS;

const COLUMNS: usize = 16;

/// # Safety
/// `dst.len()` bytes must be readable in `src` from each of `offsets`.
#[target_feature(enable = "neon")]
pub(super) unsafe fn row(src: &[u8], offsets: &[usize], weights: &[i32], dst: &mut [u8]) {
    let mut x = 0;
    for block in dst.as_chunks_mut::<COLUMNS>().0 {
        // SAFETY: the 16 columns from `x` lie in `dst`, hence in every row.
        let values = unsafe { columns(src, offsets, weights, x) };
        // SAFETY: a block has 16 bytes.
        unsafe { vst1q_u8(block.as_mut_ptr(), values) };
        x += COLUMNS;
    }
    scalar::row(src, offsets, weights, x, dst);
}

/// # Safety
/// From each of `offsets` plus `x` 16 bytes must be readable.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn columns(src: &[u8], offsets: &[usize], weights: &[i32], x: usize) -> uint8x16_t {
    let mut sums = [vdupq_n_s32(HALF); 4];
    for (at, &weight) in offsets.iter().zip(weights) {
        // SAFETY: the caller's promise.
        let values = unsafe { vld1q_u8(src.as_ptr().add(at + x)) };
        let (low, high) = (vmovl_u8(vget_low_u8(values)), vmovl_high_u8(values));
        let wide = [
            vmovl_u16(vget_low_u16(low)),
            vmovl_high_u16(low),
            vmovl_u16(vget_low_u16(high)),
            vmovl_high_u16(high),
        ];
        for (sum, values) in sums.iter_mut().zip(wide) {
            *sum = vmlaq_n_s32(*sum, vreinterpretq_s32_u32(values), weight);
        }
    }
    const SHIFT: i32 = PRECISION_BITS as i32;
    let [a, b, c, d] = sums;
    let first =
        vcombine_s16(vqmovn_s32(vshrq_n_s32::<SHIFT>(a)), vqmovn_s32(vshrq_n_s32::<SHIFT>(b)));
    let second =
        vcombine_s16(vqmovn_s32(vshrq_n_s32::<SHIFT>(c)), vqmovn_s32(vshrq_n_s32::<SHIFT>(d)));
    vcombine_u8(vqmovun_s16(first), vqmovun_s16(second))
}
