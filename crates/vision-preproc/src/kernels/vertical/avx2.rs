//! 32 columns at a time, two rows at a time: their bytes are interleaved and widened, so that `vpmaddwd` multiplies a
//! column of two by halves of the two weights.
//!
//! A weight is `high * 2^16 + low` with both halves signed words. Neither product can overflow, since bytes are no
//! words of -32768; the sums are exact modulo 2^32, and so is `(high << 16) + low`, which fits 32 bits.

use std::arch::x86_64::*;

use super::scalar;
use crate::kernels::HALF;
use crate::resize::{Axis, PRECISION_BITS};

const COLUMNS: usize = 32;

/// For each two taps two numbers: the low halves and the high halves.
pub(super) fn pack(axis: &Axis, packed: &mut Vec<i32>) -> usize {
    let stride = axis.most_taps().div_ceil(4) * 4;
    let pair = |a: i32, b: i32| (a & 0xffff) | (b << 16);
    for (row, (_, weights)) in axis.taps().enumerate() {
        for weights in weights.chunks(2) {
            let (a, b) = (weights[0], weights.get(1).copied().unwrap_or(0));
            let high = |weight: i32| (weight - i32::from(weight as i16)) >> 16;
            packed.extend([pair(a, b), pair(high(a), high(b))]);
        }
        packed.resize((row + 1) * stride, 0);
    }
    stride
}

/// # Safety
/// `dst.len()` bytes must be readable in `src` from each of `offsets`, whose number is even.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn row(
    src: &[u8],
    offsets: &[usize],
    weights: &[i32],
    packed: &[i32],
    dst: &mut [u8],
) {
    let mut x = 0;
    for block in dst.as_chunks_mut::<COLUMNS>().0 {
        // SAFETY: the 32 columns from `x` lie in `dst`, hence in every row.
        let values = unsafe { columns(src, offsets, packed, x) };
        // SAFETY: a block has 32 bytes.
        unsafe { _mm256_storeu_si256(block.as_mut_ptr().cast(), values) };
        x += COLUMNS;
    }
    scalar::row(src, offsets, weights, x, dst);
}

/// # Safety
/// From each of `offsets` plus `x` 32 bytes must be readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn columns(src: &[u8], offsets: &[usize], packed: &[i32], x: usize) -> __m256i {
    let zero = _mm256_setzero_si256();
    let (mut low, mut high) = ([_mm256_set1_epi32(HALF); 4], [zero; 4]);
    for (&[a, b], &[low_pair, high_pair]) in
        offsets.as_chunks::<2>().0.iter().zip(packed.as_chunks::<2>().0)
    {
        // SAFETY: the caller's promise.
        let (a, b) = unsafe {
            let start = src.as_ptr().add(x);
            (_mm256_loadu_si256(start.add(a).cast()), _mm256_loadu_si256(start.add(b).cast()))
        };
        let (first, second) = (_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b));
        let pairs = [
            _mm256_unpacklo_epi8(first, zero),
            _mm256_unpackhi_epi8(first, zero),
            _mm256_unpacklo_epi8(second, zero),
            _mm256_unpackhi_epi8(second, zero),
        ];
        let (low_pair, high_pair) = (_mm256_set1_epi32(low_pair), _mm256_set1_epi32(high_pair));
        for i in 0..4 {
            low[i] = _mm256_add_epi32(low[i], _mm256_madd_epi16(pairs[i], low_pair));
            high[i] = _mm256_add_epi32(high[i], _mm256_madd_epi16(pairs[i], high_pair));
        }
    }
    let mut sums = low;
    for i in 0..4 {
        let sum = _mm256_add_epi32(_mm256_slli_epi32(high[i], 16), low[i]);
        sums[i] = _mm256_srai_epi32(sum, PRECISION_BITS as i32);
    }
    // Packing undoes the order that unpacking made, and clamps to bytes.
    _mm256_packus_epi16(_mm256_packs_epi32(sums[0], sums[1]), _mm256_packs_epi32(sums[2], sums[3]))
}
