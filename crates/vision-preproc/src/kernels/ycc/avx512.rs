//! Sixty-four pixels at once, in two halves of 16 bits each.
//!
//! The constants are those of `avx2`.

use std::arch::x86_64::*;

use super::avx2::{BLUE, GREEN, RED};

/// Pixels at once.
pub(super) const STEP: usize = 64;

/// Which pixel of 64 each byte of the three vectors takes, and from which channel it is.
const PIXELS: [[u8; 64]; 3] = {
    let mut all = [[0; 64]; 3];
    let mut at = 0;
    while at < 192 {
        // The permutation of two vectors has green as its second one.
        all[at / 64][at % 64] = (at / 3) as u8 | if at % 3 == 1 { 64 } else { 0 };
        at += 1;
    }
    all
};

/// The bytes of each vector that are blue.
const BLUES: [u64; 3] = {
    let mut all = [0; 3];
    let mut at = 2;
    while at < 192 {
        all[at / 64] |= 1 << (at % 64);
        at += 3;
    }
    all
};

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
pub(super) fn row(y: &[u8], cb: &[u8], cr: &[u8], rgb: &mut [u8]) {
    let mut pixels = [_mm512_setzero_si512(); 3];
    for (pixels, bytes) in pixels.iter_mut().zip(&PIXELS) {
        *pixels = load(bytes, 0);
    }
    let zero = _mm512_setzero_si512();
    for at in super::starts(y.len(), STEP) {
        let [y, cb, cr] = [load(y, at), load(cb, at), load(cr, at)];
        let low = half([
            _mm512_unpacklo_epi8(y, zero),
            _mm512_unpacklo_epi8(cb, zero),
            _mm512_unpacklo_epi8(cr, zero),
        ]);
        let high = half([
            _mm512_unpackhi_epi8(y, zero),
            _mm512_unpackhi_epi8(cb, zero),
            _mm512_unpackhi_epi8(cr, zero),
        ]);
        // Each lane has 16 neighbours again.
        let r = _mm512_packus_epi16(low[0], high[0]);
        let g = _mm512_packus_epi16(low[1], high[1]);
        let b = _mm512_packus_epi16(low[2], high[2]);
        let to: &mut [u8] = &mut rgb[3 * at..3 * (at + STEP)];
        for (part, pixels) in pixels.iter().enumerate() {
            let rg = _mm512_permutex2var_epi8(r, *pixels, g);
            let rgb = _mm512_mask_permutexvar_epi8(rg, BLUES[part], *pixels, b);
            let to: &mut [u8] = &mut to[64 * part..64 * (part + 1)];
            // SAFETY: the slice has 64 bytes, and the store needs no alignment.
            unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), rgb) }
        }
    }
}

/// Y, Cb and Cr to red, green and blue, which may be out of range.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
fn half([y, cb, cr]: [__m512i; 3]) -> [__m512i; 3] {
    let centre = _mm512_set1_epi16(128);
    let (cb, cr) = (_mm512_sub_epi16(cb, centre), _mm512_sub_epi16(cr, centre));
    let red = _mm512_add_epi16(_mm512_mulhrs_epi16(cr, _mm512_set1_epi16(RED)), cr);
    let blue = _mm512_mulhrs_epi16(cb, _mm512_set1_epi16(BLUE));
    let blue = _mm512_add_epi16(blue, _mm512_add_epi16(cb, cb));
    let green = |pairs| {
        let rounding = _mm512_set1_epi32(1 << 14);
        _mm512_srai_epi32::<15>(_mm512_dpwssd_epi32(rounding, pairs, _mm512_set1_epi32(GREEN)))
    };
    let (low, high) = (_mm512_unpacklo_epi16(cb, cr), _mm512_unpackhi_epi16(cb, cr));
    let green = _mm512_packs_epi32(green(low), green(high));
    [_mm512_add_epi16(y, red), _mm512_add_epi16(y, green), _mm512_add_epi16(y, blue)]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
fn load(row: &[u8], at: usize) -> __m512i {
    let samples: &[u8] = &row[at..at + STEP];
    // SAFETY: the slice has 64 bytes, and the load needs no alignment.
    unsafe { _mm512_loadu_si512(samples.as_ptr().cast()) }
}
