//! Thirty-two pixels at once, in two halves of 16 bits each.
//!
//! `vpmulhrsw` is `(a * b + 2^14) >> 15`. Of the constants, which have 16 bits after the point, all but that of red are
//! even, so one bit less changes nothing; for red it changes no result either, as the test over all values shows.

use std::arch::x86_64::*;

/// Pixels at once.
pub(super) const STEP: usize = 32;

/// 0.402, which with one whole is the share of Cr in red.
pub(super) const RED: i16 = 13_173;
/// -0.228, which with two wholes is the share of Cb in blue.
pub(super) const BLUE: i16 = -7_471;
/// The shares of Cb, in the low half, and of Cr in green.
pub(super) const GREEN: i32 = (-11_277_i16) as u16 as i32 | -23_401 << 16;

/// Which pixel of 16 each byte of the three vectors of 16 bytes takes from each channel; negative for none.
const INTERLEAVE: [[[i8; 16]; 3]; 3] = {
    let mut all = [[[-1; 16]; 3]; 3];
    let mut at = 0;
    while at < 48 {
        all[at / 16][at % 3][at % 16] = (at / 3) as i8;
        at += 1;
    }
    all
};

#[target_feature(enable = "avx2")]
pub(super) fn row(y: &[u8], cb: &[u8], cr: &[u8], rgb: &mut [u8]) {
    let mut interleave = [[_mm256_setzero_si256(); 3]; 3];
    for at in 0..9 {
        let bytes = &INTERLEAVE[at / 3][at % 3];
        // SAFETY: a reference to 16 bytes can be read, and the load needs no alignment.
        let bytes = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
        interleave[at / 3][at % 3] = _mm256_broadcastsi128_si256(bytes);
    }
    let zero = _mm256_setzero_si256();
    for at in super::starts(y.len(), STEP) {
        let [y, cb, cr] = [load(y, at), load(cb, at), load(cr, at)];
        let low = half([
            _mm256_unpacklo_epi8(y, zero),
            _mm256_unpacklo_epi8(cb, zero),
            _mm256_unpacklo_epi8(cr, zero),
        ]);
        let high = half([
            _mm256_unpackhi_epi8(y, zero),
            _mm256_unpackhi_epi8(cb, zero),
            _mm256_unpackhi_epi8(cr, zero),
        ]);
        // Each lane has 16 neighbours again.
        let r = _mm256_packus_epi16(low[0], high[0]);
        let g = _mm256_packus_epi16(low[1], high[1]);
        let b = _mm256_packus_epi16(low[2], high[2]);
        let to: &mut [u8] = &mut rgb[3 * at..3 * (at + STEP)];
        for (part, [from_r, from_g, from_b]) in interleave.iter().enumerate() {
            let rg =
                _mm256_or_si256(_mm256_shuffle_epi8(r, *from_r), _mm256_shuffle_epi8(g, *from_g));
            let rgb = _mm256_or_si256(rg, _mm256_shuffle_epi8(b, *from_b));
            // SAFETY: the slice has 96 bytes, and the last that is written is byte 48 + 32 + 16.
            unsafe {
                let to = to.as_mut_ptr().add(16 * part);
                _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(rgb));
                _mm_storeu_si128(to.add(48).cast(), _mm256_extracti128_si256::<1>(rgb));
            }
        }
    }
}

/// Y, Cb and Cr to red, green and blue, which may be out of range.
#[inline]
#[target_feature(enable = "avx2")]
fn half([y, cb, cr]: [__m256i; 3]) -> [__m256i; 3] {
    let centre = _mm256_set1_epi16(128);
    let (cb, cr) = (_mm256_sub_epi16(cb, centre), _mm256_sub_epi16(cr, centre));
    let red = _mm256_add_epi16(_mm256_mulhrs_epi16(cr, _mm256_set1_epi16(RED)), cr);
    let blue = _mm256_mulhrs_epi16(cb, _mm256_set1_epi16(BLUE));
    let blue = _mm256_add_epi16(blue, _mm256_add_epi16(cb, cb));
    let green = |pairs| {
        let sum = _mm256_madd_epi16(pairs, _mm256_set1_epi32(GREEN));
        _mm256_srai_epi32::<15>(_mm256_add_epi32(sum, _mm256_set1_epi32(1 << 14)))
    };
    let (low, high) = (_mm256_unpacklo_epi16(cb, cr), _mm256_unpackhi_epi16(cb, cr));
    let green = _mm256_packs_epi32(green(low), green(high));
    [_mm256_add_epi16(y, red), _mm256_add_epi16(y, green), _mm256_add_epi16(y, blue)]
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(row: &[u8], at: usize) -> __m256i {
    let samples: &[u8] = &row[at..at + STEP];
    // SAFETY: the slice has 32 bytes, and the load needs no alignment.
    unsafe { _mm256_loadu_si256(samples.as_ptr().cast()) }
}
