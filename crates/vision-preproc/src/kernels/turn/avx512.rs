//! Up to 256 bytes lie in four vectors, of which 64 places pick at a time.

use std::arch::x86_64::*;

const LANES: usize = 64;

/// All slices are of one length, at most 256.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
pub(super) fn turn(places: &[u16], src: &[u8], dst: &mut [u8]) {
    let part = |at: usize| src.chunks(LANES).nth(at).unwrap_or_default();
    let parts = [load(part(0)), load(part(1)), load(part(2)), load(part(3))];
    for (places, dst) in places.chunks(LANES).zip(dst.chunks_mut(LANES)) {
        let mask = !0_u64 >> (LANES - dst.len());
        // SAFETY: only the numbers and bytes of the mask are read and written, which are those of the chunks.
        unsafe {
            let low = _mm512_maskz_loadu_epi16(mask as u32, places.as_ptr().cast());
            let high = _mm512_maskz_loadu_epi16(
                (mask >> 32) as u32,
                places.as_ptr().wrapping_add(32).cast(),
            );
            let order = _mm512_inserti64x4(
                _mm512_castsi256_si512(_mm512_cvtepi16_epi8(low)),
                _mm512_cvtepi16_epi8(high),
                1,
            );
            let values = _mm512_mask_blend_epi8(
                _mm512_movepi8_mask(order),
                _mm512_permutex2var_epi8(parts[0], order, parts[1]),
                _mm512_permutex2var_epi8(parts[2], order, parts[3]),
            );
            _mm512_mask_storeu_epi8(dst.as_mut_ptr().cast(), mask, values);
        }
    }
}

/// Up to 64 bytes and zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load(bytes: &[u8]) -> __m512i {
    let mask = if bytes.is_empty() { 0 } else { !0_u64 >> (LANES - bytes.len()) };
    // SAFETY: only the bytes of the mask are read.
    unsafe { _mm512_maskz_loadu_epi8(mask, bytes.as_ptr().cast()) }
}
