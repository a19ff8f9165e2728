//! Sixteen weights in two halves. As with AVX-512, one shuffle and one shift spread the bits.

use std::arch::x86_64::{
    __m256, __m256i, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_loadu_si128, _mm_movehdup_ps,
    _mm_movehl_ps, _mm256_add_epi32, _mm256_add_ps, _mm256_and_si256, _mm256_blendv_ps,
    _mm256_broadcastsi128_si256, _mm256_castps_si256, _mm256_castps256_ps128, _mm256_castsi256_ps,
    _mm256_cmpgt_epi32, _mm256_cvtepi32_ps, _mm256_cvtepu16_epi32, _mm256_cvtph_ps,
    _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_mul_ps,
    _mm256_or_si256, _mm256_permutevar8x32_ps, _mm256_set1_epi32, _mm256_set1_ps,
    _mm256_setzero_ps, _mm256_shuffle_epi8, _mm256_slli_epi32, _mm256_srlv_epi32, _mm256_storeu_ps,
};

use super::{
    Row,
    codes::{Codes, E2M1, Floats},
    scalar,
    x86::{FLOATS, INTEGERS, places, stream},
};

/// Weights of a step.
const STEP: usize = 16;
/// Weights of a vector.
const HALF: usize = 8;

/// `Σ row x`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot(row: Floats<'_>, x: &[f32]) -> f32 {
    let whole = x.len() / HALF * HALF;
    let mut sums = [_mm256_setzero_ps(); 4];
    for (i, x) in x[..whole].chunks_exact(HALF).enumerate() {
        let at = i * HALF;
        // SAFETY: each load reads the eight values of a chunk that was cut out of the slice.
        let (w, x) = unsafe {
            let w = match row {
                Floats::F32(row) => _mm256_loadu_ps(row[at..at + HALF].as_ptr()),
                Floats::Bf16(row) => {
                    let bits = _mm_loadu_si128(row[at..at + HALF].as_ptr().cast());
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits)))
                }
                Floats::F16(row) => {
                    _mm256_cvtph_ps(_mm_loadu_si128(row[at..at + HALF].as_ptr().cast()))
                }
                Floats::Bytes(_) => return scalar::dot(row, x),
            };
            (w, _mm256_loadu_ps(x.as_ptr()))
        };
        sums[i % 4] = _mm256_fmadd_ps(w, x, sums[i % 4]);
    }
    let rest = row.slice(whole..x.len());
    total(sums) + scalar::dot(rest, &x[whole..])
}

#[target_feature(enable = "avx2,fma")]
fn total([a, b, c, d]: [__m256; 4]) -> f32 {
    let sum = _mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d));
    let sum = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
    let sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)))
}

/// `Σ w x` with the weights of a packed row.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot_packed(row: &Row<'_>, x: &[f32]) -> f32 {
    let mut sums = [_mm256_setzero_ps(); 4];
    let mut add = |at: usize, w: __m256| {
        // SAFETY: eight values that were cut out of the slice.
        let x = unsafe { _mm256_loadu_ps(x[at..at + HALF].as_ptr()) };
        let sum = &mut sums[at / HALF % 4];
        *sum = _mm256_fmadd_ps(w, x, *sum);
    };
    match each(row, x.len(), &mut add) {
        true => total(sums),
        false => scalar::dot_packed(row, x),
    }
}

/// The weights of a packed row.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn unpack(row: &Row<'_>, into: &mut [f32]) {
    let count = into.len();
    let mut store = |at: usize, w: __m256| {
        // SAFETY: eight places that were cut out of the slice.
        unsafe { _mm256_storeu_ps(into[at..at + HALF].as_mut_ptr(), w) };
    };
    if !each(row, count, &mut store) {
        scalar::unpack(row, into);
    }
}

/// Hands the weights of a packed row to `take`, eight at a time with the place of the first; false for
/// codes that no checkpoint has.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn each(row: &Row<'_>, count: usize, take: &mut impl FnMut(usize, __m256)) -> bool {
    match row.codes {
        Codes::Integers(2) => packed::<2, INTEGERS>(row, count, take),
        Codes::Integers(3) => packed::<3, INTEGERS>(row, count, take),
        Codes::Integers(4) => packed::<4, INTEGERS>(row, count, take),
        Codes::Integers(5) => packed::<5, INTEGERS>(row, count, take),
        Codes::Integers(6) => packed::<6, INTEGERS>(row, count, take),
        Codes::Integers(8) => packed::<8, INTEGERS>(row, count, take),
        Codes::Integers(_) => return false,
        Codes::Mxfp4 | Codes::Nvfp4 => packed::<4, FLOATS>(row, count, take),
        Codes::Mxfp8 => packed::<8, FLOATS>(row, count, take),
    }
    true
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn packed<const BITS: usize, const KIND: bool>(
    row: &Row<'_>,
    count: usize,
    take: &mut impl FnMut(usize, __m256),
) {
    let halves = const { [places::<BITS, 32, HALF>(0), places::<BITS, 32, HALF>(HALF)] };
    // SAFETY: all arrays have 32 bytes.
    let halves: [(__m256i, __m256i); 2] = halves.map(|(bytes, shifts)| unsafe {
        (_mm256_loadu_si256(bytes.as_ptr().cast()), _mm256_loadu_si256(shifts.as_ptr().cast()))
    });
    let mask = _mm256_set1_epi32((1 << BITS) - 1);
    let step = STEP * BITS / 8;
    let groups = row.scales.iter().zip(row.biases).take(count / row.group);
    for (group, (&scale, &bias)) in groups.enumerate() {
        let (scale, bias) = (_mm256_set1_ps(scale), _mm256_set1_ps(bias));
        for at in (group * row.group..(group + 1) * row.group).step_by(STEP) {
            let stream = _mm256_broadcastsi128_si256(stream(row.bytes, at / STEP * step, step));
            for (half, (bytes, shifts)) in halves.iter().enumerate() {
                let codes = _mm256_srlv_epi32(_mm256_shuffle_epi8(stream, *bytes), *shifts);
                let codes = _mm256_and_si256(codes, mask);
                let w = match (BITS, KIND) {
                    (_, INTEGERS) => _mm256_fmadd_ps(_mm256_cvtepi32_ps(codes), scale, bias),
                    (4, FLOATS) => _mm256_mul_ps(e2m1(codes), scale),
                    (_, FLOATS) => _mm256_mul_ps(e4m3(codes), scale),
                };
                take(at + half * HALF, w);
            }
        }
    }
}

/// The values of E2M1 codes: the magnitude by a table of eight, the sign from the fourth bit.
#[target_feature(enable = "avx2")]
fn e2m1(codes: __m256i) -> __m256 {
    // SAFETY: the first eight of sixteen values; a lane looks at the lowest three bits.
    let table = unsafe { _mm256_loadu_ps(E2M1.as_ptr()) };
    let magnitude = _mm256_castps_si256(_mm256_permutevar8x32_ps(table, codes));
    let sign = _mm256_slli_epi32::<28>(_mm256_and_si256(codes, _mm256_set1_epi32(8)));
    _mm256_castsi256_ps(_mm256_or_si256(magnitude, sign))
}

/// The values of E4M3 codes.
#[target_feature(enable = "avx2")]
fn e4m3(codes: __m256i) -> __m256 {
    let magnitude = _mm256_and_si256(codes, _mm256_set1_epi32(0x7f));
    let small = _mm256_mul_ps(_mm256_cvtepi32_ps(magnitude), _mm256_set1_ps(1.0 / 512.0));
    let normal = _mm256_add_epi32(_mm256_slli_epi32::<20>(magnitude), _mm256_set1_epi32(120 << 23));
    let is_small = _mm256_cmpgt_epi32(_mm256_set1_epi32(8), magnitude);
    let value = _mm256_blendv_ps(_mm256_castsi256_ps(normal), small, _mm256_castsi256_ps(is_small));
    let sign = _mm256_slli_epi32::<24>(_mm256_and_si256(codes, _mm256_set1_epi32(0x80)));
    _mm256_castsi256_ps(_mm256_or_si256(_mm256_castps_si256(value), sign))
}
