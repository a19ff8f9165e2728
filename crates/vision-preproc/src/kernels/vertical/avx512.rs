//! 64 columns at a time, four rows at a time: their bytes are interleaved, so that `vpdpbusd` multiplies a column of
//! four by a digit of the four weights and adds to 32 bits. Three digits make a weight; see `digits`.

use std::arch::x86_64::*;

use crate::kernels::{HALF, digits};
use crate::resize::{Axis, PRECISION_BITS};

const COLUMNS: usize = 64;

/// For each four taps three numbers: the four low digits, the four middle ones, the four high ones.
pub(super) fn pack(axis: &Axis, packed: &mut Vec<i32>) -> usize {
    let stride = axis.most_taps().div_ceil(4) * 3;
    for (row, (_, weights)) in axis.taps().enumerate() {
        for weights in weights.chunks(4) {
            let mut quad = [[0; 4]; 3];
            for (tap, &weight) in weights.iter().enumerate() {
                for (digits, digit) in quad.iter_mut().zip(digits(weight)) {
                    digits[tap] = digit as u8;
                }
            }
            packed.extend(quad.map(i32::from_le_bytes));
        }
        packed.resize((row + 1) * stride, 0);
    }
    stride
}

/// # Safety
/// `dst.len()` bytes must be readable in `src` from each of `offsets`, whose number is a multiple of four.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
pub(super) unsafe fn row(src: &[u8], offsets: &[usize], packed: &[i32], dst: &mut [u8]) {
    let (blocks, rest) = dst.as_chunks_mut::<COLUMNS>();
    let mut x = 0;
    for block in blocks {
        // SAFETY: the 64 columns from `x` lie in `dst`, hence in every row.
        let values = unsafe { columns::<false>(src, offsets, packed, x, !0) };
        // SAFETY: a block has 64 bytes.
        unsafe { _mm512_storeu_si512(block.as_mut_ptr().cast(), values) };
        x += COLUMNS;
    }
    if !rest.is_empty() {
        let mask = (1 << rest.len()) - 1;
        // SAFETY: the columns of the mask lie in `dst`, hence in every row.
        let values = unsafe { columns::<true>(src, offsets, packed, x, mask) };
        // SAFETY: only the bytes of the mask are written, which are those of `rest`.
        unsafe { _mm512_mask_storeu_epi8(rest.as_mut_ptr().cast(), mask, values) };
    }
}

/// # Safety
/// From each of `offsets` plus `x` 64 bytes must be readable, or with `TAIL` those of `mask`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
unsafe fn columns<const TAIL: bool>(
    src: &[u8],
    offsets: &[usize],
    packed: &[i32],
    x: usize,
    mask: u64,
) -> __m512i {
    let zero = _mm512_setzero_si512();
    let mut low = [_mm512_set1_epi32(HALF); 4];
    let (mut middle, mut high) = ([zero; 4], [zero; 4]);
    for (offsets, digits) in offsets.as_chunks::<4>().0.iter().zip(packed.as_chunks::<3>().0) {
        let mut rows = [zero; 4];
        for (row, at) in rows.iter_mut().zip(offsets) {
            // SAFETY: the caller's promise.
            *row = unsafe {
                let start = src.as_ptr().add(at + x);
                if TAIL {
                    _mm512_maskz_loadu_epi8(mask, start.cast())
                } else {
                    _mm512_loadu_si512(start.cast())
                }
            };
        }
        let (ab_low, ab_high) =
            (_mm512_unpacklo_epi8(rows[0], rows[1]), _mm512_unpackhi_epi8(rows[0], rows[1]));
        let (cd_low, cd_high) =
            (_mm512_unpacklo_epi8(rows[2], rows[3]), _mm512_unpackhi_epi8(rows[2], rows[3]));
        let quads = [
            _mm512_unpacklo_epi16(ab_low, cd_low),
            _mm512_unpackhi_epi16(ab_low, cd_low),
            _mm512_unpacklo_epi16(ab_high, cd_high),
            _mm512_unpackhi_epi16(ab_high, cd_high),
        ];
        for i in 0..4 {
            low[i] = _mm512_dpbusd_epi32(low[i], quads[i], _mm512_set1_epi32(digits[0]));
            middle[i] = _mm512_dpbusd_epi32(middle[i], quads[i], _mm512_set1_epi32(digits[1]));
            high[i] = _mm512_dpbusd_epi32(high[i], quads[i], _mm512_set1_epi32(digits[2]));
        }
    }
    let mut sums = low;
    for i in 0..4 {
        let upper = _mm512_add_epi32(_mm512_slli_epi32(high[i], 8), middle[i]);
        let sum = _mm512_add_epi32(_mm512_slli_epi32(upper, 8), low[i]);
        sums[i] = _mm512_srai_epi32(sum, PRECISION_BITS);
    }
    // Packing undoes the order that unpacking made, and clamps to bytes.
    _mm512_packus_epi16(_mm512_packs_epi32(sums[0], sums[1]), _mm512_packs_epi32(sums[2], sums[3]))
}
