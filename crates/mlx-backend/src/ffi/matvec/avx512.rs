//! Sixteen weights at a time. Their bits are spread by one shuffle and one shift; codes of up to four
//! bits are then looked up in a register that holds what each means in this group.

use std::arch::x86_64::{
    __m512, __m512i, _mm256_loadu_si256, _mm512_add_epi32, _mm512_add_ps, _mm512_and_si512,
    _mm512_broadcast_i32x4, _mm512_castps_si512, _mm512_castsi512_ps, _mm512_cmplt_epi32_mask,
    _mm512_cvtepi32_ps, _mm512_cvtepu16_epi32, _mm512_cvtph_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_mask_blend_ps, _mm512_mul_ps, _mm512_or_si512,
    _mm512_permutexvar_ps, _mm512_reduce_add_ps, _mm512_set1_epi32, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_shuffle_epi8, _mm512_slli_epi32, _mm512_srlv_epi32, _mm512_storeu_ps,
};

use super::{
    Row,
    codes::{Codes, E2M1, Floats},
    scalar,
    x86::{FLOATS, INTEGERS, places, stream},
};

/// Weights of a step.
const STEP: usize = 16;

/// `Σ row x`.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn dot(row: Floats<'_>, x: &[f32]) -> f32 {
    let whole = x.len() / STEP * STEP;
    let mut sums = [_mm512_setzero_ps(); 4];
    for (i, x) in x[..whole].chunks_exact(STEP).enumerate() {
        let at = i * STEP;
        // SAFETY: each load reads the sixteen values of a chunk that was cut out of the slice.
        let (w, x) = unsafe {
            let w = match row {
                Floats::F32(row) => _mm512_loadu_ps(row[at..at + STEP].as_ptr()),
                Floats::Bf16(row) => {
                    let bits = _mm256_loadu_si256(row[at..at + STEP].as_ptr().cast());
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
                }
                Floats::F16(row) => {
                    _mm512_cvtph_ps(_mm256_loadu_si256(row[at..at + STEP].as_ptr().cast()))
                }
                Floats::Bytes(_) => return scalar::dot(row, x),
            };
            (w, _mm512_loadu_ps(x.as_ptr()))
        };
        sums[i % 4] = _mm512_fmadd_ps(w, x, sums[i % 4]);
    }
    let rest = row.slice(whole..x.len());
    total(sums) + scalar::dot(rest, &x[whole..])
}

#[target_feature(enable = "avx512f,avx512bw")]
fn total([a, b, c, d]: [__m512; 4]) -> f32 {
    _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)))
}

/// `Σ w x` with the weights of a packed row.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn dot_packed(row: &Row<'_>, x: &[f32]) -> f32 {
    let mut sums = [_mm512_setzero_ps(); 4];
    let mut add = |at: usize, w: __m512| {
        // SAFETY: sixteen values that were cut out of the slice.
        let x = unsafe { _mm512_loadu_ps(x[at..at + STEP].as_ptr()) };
        let sum = &mut sums[at / STEP % 4];
        *sum = _mm512_fmadd_ps(w, x, *sum);
    };
    match each(row, x.len(), &mut add) {
        true => total(sums),
        false => scalar::dot_packed(row, x),
    }
}

/// The weights of a packed row.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn unpack(row: &Row<'_>, into: &mut [f32]) {
    let count = into.len();
    let mut store = |at: usize, w: __m512| {
        // SAFETY: sixteen places that were cut out of the slice.
        unsafe { _mm512_storeu_ps(into[at..at + STEP].as_mut_ptr(), w) };
    };
    if !each(row, count, &mut store) {
        scalar::unpack(row, into);
    }
}

/// Hands the weights of a packed row to `take`, sixteen at a time with the place of the first; false
/// for codes that no checkpoint has.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn each(row: &Row<'_>, count: usize, take: &mut impl FnMut(usize, __m512)) -> bool {
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
#[target_feature(enable = "avx512f,avx512bw")]
fn packed<const BITS: usize, const KIND: bool>(
    row: &Row<'_>,
    count: usize,
    take: &mut impl FnMut(usize, __m512),
) {
    let (bytes, shifts) = const { places::<BITS, 64, STEP>(0) };
    // SAFETY: both arrays have 64 bytes.
    let (bytes, shifts): (__m512i, __m512i) = unsafe {
        (_mm512_loadu_si512(bytes.as_ptr().cast()), _mm512_loadu_si512(shifts.as_ptr().cast()))
    };
    let meaning = const { meaning::<BITS, KIND>() };
    // SAFETY: an array of 64 bytes.
    let meaning = unsafe { _mm512_loadu_ps(meaning.as_ptr()) };
    let step = STEP * BITS / 8;
    let groups = row.scales.iter().zip(row.biases).take(count / row.group);
    for (group, (&scale, &bias)) in groups.enumerate() {
        let (scale, bias) = (_mm512_set1_ps(scale), _mm512_set1_ps(bias));
        let table = match KIND {
            INTEGERS => _mm512_fmadd_ps(meaning, scale, bias),
            FLOATS => _mm512_mul_ps(meaning, scale),
        };
        for at in (group * row.group..(group + 1) * row.group).step_by(STEP) {
            let stream = stream(row.bytes, at / STEP * step, step);
            let codes = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(stream), bytes);
            let codes = _mm512_srlv_epi32(codes, shifts);
            let w = match (BITS, KIND) {
                // Of the bits above the code, the table is repeated.
                (0..=4, _) => _mm512_permutexvar_ps(codes, table),
                (_, INTEGERS) => {
                    let codes = _mm512_and_si512(codes, _mm512_set1_epi32((1 << BITS) - 1));
                    _mm512_fmadd_ps(_mm512_cvtepi32_ps(codes), scale, bias)
                }
                (_, FLOATS) => _mm512_mul_ps(e4m3(codes), scale),
            };
            take(at, w);
        }
    }
}

/// The values of E4M3 codes in the lowest eight bits of each lane.
#[target_feature(enable = "avx512f")]
fn e4m3(codes: __m512i) -> __m512 {
    let codes = _mm512_and_si512(codes, _mm512_set1_epi32(0xff));
    let magnitude = _mm512_and_si512(codes, _mm512_set1_epi32(0x7f));
    let small = _mm512_mul_ps(_mm512_cvtepi32_ps(magnitude), _mm512_set1_ps(1.0 / 512.0));
    let normal = _mm512_add_epi32(_mm512_slli_epi32::<20>(magnitude), _mm512_set1_epi32(120 << 23));
    let is_small = _mm512_cmplt_epi32_mask(magnitude, _mm512_set1_epi32(8));
    let value = _mm512_mask_blend_ps(is_small, _mm512_castsi512_ps(normal), small);
    let sign = _mm512_slli_epi32::<24>(_mm512_and_si512(codes, _mm512_set1_epi32(0x80)));
    let bits = _mm512_or_si512(_mm512_castps_si512(value), sign);
    _mm512_castsi512_ps(bits)
}

/// What each code of up to four bits means before it is scaled, whatever the bits above it.
const fn meaning<const BITS: usize, const KIND: bool>() -> [f32; 16] {
    let mut all = E2M1;
    let mut i = 0;
    while i < 16 && !KIND {
        all[i] = (i % (1 << BITS)) as f32;
        i += 1;
    }
    all
}
