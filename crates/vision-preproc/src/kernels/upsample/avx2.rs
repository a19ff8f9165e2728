//! Sixteen samples at once, in 16 bits each; the two results of each are the halves of its 16 bits.

use std::arch::x86_64::*;

/// Samples at once.
const STEP: usize = 16;

#[target_feature(enable = "avx2")]
pub(super) fn h2v1(near: &[u8], to: &mut [u8], width: usize) {
    for (at, to) in (0..width).step_by(STEP).zip(to.as_chunks_mut().0) {
        let [last, this, next] = [load(near, at), load(near, at + 1), load(near, at + 2)];
        let this = triple(this);
        let left = _mm256_add_epi16(_mm256_add_epi16(this, last), _mm256_set1_epi16(1));
        let right = _mm256_add_epi16(_mm256_add_epi16(this, next), _mm256_set1_epi16(2));
        // The right result belongs into the high half: of a shift by 2 and one by 8 it is the net.
        let right = _mm256_slli_epi16::<8>(_mm256_srli_epi16::<2>(right));
        store(to, _mm256_or_si256(_mm256_srli_epi16::<2>(left), right));
    }
}

#[target_feature(enable = "avx2")]
pub(super) fn h2v2(near: &[u8], far: &[u8], to: &mut [u8], width: usize) {
    let column = |at| _mm256_add_epi16(triple(load(near, at)), load(far, at));
    for (at, to) in (0..width).step_by(STEP).zip(to.as_chunks_mut().0) {
        let [last, this, next] = [column(at), column(at + 1), column(at + 2)];
        let this = triple(this);
        let left = _mm256_add_epi16(_mm256_add_epi16(this, last), _mm256_set1_epi16(8));
        let right = _mm256_add_epi16(_mm256_add_epi16(this, next), _mm256_set1_epi16(7));
        let right = _mm256_slli_epi16::<8>(_mm256_srli_epi16::<4>(right));
        store(to, _mm256_or_si256(_mm256_srli_epi16::<4>(left), right));
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn triple(x: __m256i) -> __m256i {
    _mm256_add_epi16(_mm256_add_epi16(x, x), x)
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(row: &[u8], at: usize) -> __m256i {
    let samples: &[u8] = &row[at..at + STEP];
    // SAFETY: the slice has 16 bytes, and the load needs no alignment.
    _mm256_cvtepu8_epi16(unsafe { _mm_loadu_si128(samples.as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(to: &mut [u8; 2 * STEP], samples: __m256i) {
    // SAFETY: a reference to 32 bytes can be written, and the store needs no alignment.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), samples) }
}
