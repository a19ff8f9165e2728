//! Four blocks at once, one in each 128-bit lane of a row.
//!
//! Sums of products come from `vpdpwssd`, for which the rotations of the algorithm are multiplied out: [`EVEN`] and
//! [`ODD`]. The constants of a result add up to at most 61 213 in magnitude, and a factor is at most 2^15, so that
//! 32 bits hold every sum. The first pass can exceed 16 bits, with coefficients that no encoder makes; its results are
//! then saturated, which is noticed, and the blocks are done again in plain Rust.

use std::arch::x86_64::*;

use super::Job;
use super::avx2::{EVEN, ODD, store};

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn blocks(
    coefficients: &[i16],
    quant: &[i16; 64],
    jobs: &[Job],
    plane: &mut [u8],
    stride: usize,
) {
    let mut steps = [_mm512_setzero_si512(); 8];
    for (step, row) in steps.iter_mut().zip(quant.as_chunks().0) {
        *step = _mm512_broadcast_i32x4(load(row));
    }
    for jobs in jobs.chunks(4) {
        // If there are less than four, the last one is done again.
        let last = jobs.len() - 1;
        let jobs = [jobs[0], jobs[last.min(1)], jobs[last.min(2)], jobs[last]];
        let mut from = [&coefficients[..64]; 4];
        for (from, job) in from.iter_mut().zip(jobs) {
            *from = &coefficients[job.from as usize..job.from as usize + 64];
        }
        let mut rows = steps;
        for y in 0..8 {
            let row = _mm512_castsi128_si512(load(&from[0].as_chunks().0[y]));
            let row = _mm512_inserti32x4::<1>(row, load(&from[1].as_chunks().0[y]));
            let row = _mm512_inserti32x4::<2>(row, load(&from[2].as_chunks().0[y]));
            let row = _mm512_inserti32x4::<3>(row, load(&from[3].as_chunks().0[y]));
            rows[y] = _mm512_mullo_epi16(row, steps[y]);
        }
        rows = transform::<11>(rows);
        let mut largest = _mm512_abs_epi16(rows[0]);
        for row in &rows[1..] {
            largest = _mm512_max_epu16(largest, _mm512_abs_epi16(*row));
        }
        if _mm512_cmpge_epu16_mask(largest, _mm512_set1_epi16(i16::MAX)) != 0 {
            for job in jobs {
                super::block(8, coefficients, quant, job, plane, stride);
            }
            continue;
        }
        let samples = bytes(transform::<18>(transpose(rows)));
        for (y, rows) in samples.into_iter().enumerate() {
            let rows = [
                _mm512_castsi512_si128(rows),
                _mm512_extracti32x4_epi32::<1>(rows),
                _mm512_extracti32x4_epi32::<2>(rows),
                _mm512_extracti32x4_epi32::<3>(rows),
            ];
            for lane in 0..4 {
                store(rows[lane], &mut plane[jobs[lane].to as usize..], 2 * y, stride);
            }
        }
    }
}

/// One pass over the rows, whose results are divided by `1 << SHIFT`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn transform<const SHIFT: u32>(rows: [__m512i; 8]) -> [__m512i; 8] {
    let low = |a: usize, b: usize| _mm512_unpacklo_epi16(rows[a], rows[b]);
    let high = |a: usize, b: usize| _mm512_unpackhi_epi16(rows[a], rows[b]);
    let low = half::<SHIFT>([low(0, 4), low(2, 6), low(1, 3), low(5, 7)]);
    let high = half::<SHIFT>([high(0, 4), high(2, 6), high(1, 3), high(5, 7)]);
    let mut rows = rows;
    for at in 0..8 {
        rows[at] = _mm512_packs_epi32(low[at], high[at]);
    }
    rows
}

/// The same for half of the columns: pairs of the rows 0 and 4, 2 and 6, 1 and 3, 5 and 7.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn half<const SHIFT: u32>(pairs: [__m512i; 4]) -> [__m512i; 8] {
    let sum = |sum: __m512i, pairs: &[__m512i], factors: &[i16; 4]| {
        let [a, b, c, d] = *factors;
        let both = |a: i16, b: i16| _mm512_set1_epi32(i32::from(a as u16) | i32::from(b) << 16);
        let sum = _mm512_dpwssd_epi32(sum, pairs[0], both(a, b));
        _mm512_dpwssd_epi32(sum, pairs[1], both(c, d))
    };
    let rounding = _mm512_set1_epi32(1 << (SHIFT - 1));
    let mut results = [rounding; 8];
    for at in 0..4 {
        let even = sum(rounding, &pairs[..2], &EVEN[at]);
        let odd = sum(_mm512_setzero_si512(), &pairs[2..], &ODD[at]);
        results[at] = _mm512_srai_epi32::<SHIFT>(_mm512_add_epi32(even, odd));
        results[7 - at] = _mm512_srai_epi32::<SHIFT>(_mm512_sub_epi32(even, odd));
    }
    results
}

/// Swaps rows and columns in each lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn transpose(rows: [__m512i; 8]) -> [__m512i; 8] {
    // Three perfect shuffles of the 64 numbers: each turns the six bits of an index by one.
    let shuffle = |rows: [__m512i; 8]| {
        let mut shuffled = rows;
        for at in 0..4 {
            shuffled[2 * at] = _mm512_unpacklo_epi16(rows[at], rows[at + 4]);
            shuffled[2 * at + 1] = _mm512_unpackhi_epi16(rows[at], rows[at + 4]);
        }
        shuffled
    };
    shuffle(shuffle(shuffle(rows)))
}

/// Columns to samples: two rows in each lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn bytes(columns: [__m512i; 8]) -> [__m512i; 4] {
    // Ten bits count, as in `range_limit` of the scalar kernel.
    let wrap = |column| _mm512_srai_epi16::<6>(_mm512_slli_epi16::<6>(column));
    let mut packed = [_mm512_set1_epi8(-128); 4];
    for (packed, pair) in packed.iter_mut().zip(columns.as_chunks::<2>().0) {
        let signed = _mm512_packs_epi16(wrap(pair[0]), wrap(pair[1]));
        *packed = _mm512_xor_si512(*packed, signed);
    }
    let shuffle = |rows: [__m512i; 4]| {
        [
            _mm512_unpacklo_epi8(rows[0], rows[2]),
            _mm512_unpackhi_epi8(rows[0], rows[2]),
            _mm512_unpacklo_epi8(rows[1], rows[3]),
            _mm512_unpackhi_epi8(rows[1], rows[3]),
        ]
    };
    shuffle(shuffle(shuffle(packed)))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn load(row: &[i16; 8]) -> __m128i {
    // SAFETY: a reference to 16 bytes can be read, and the load needs no alignment.
    unsafe { _mm_loadu_si128(row.as_ptr().cast()) }
}
