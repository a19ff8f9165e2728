//! Two blocks at once, one in each 128-bit lane of a row.
//!
//! Sums of products come from `vpmaddwd`, for which the rotations of the algorithm are multiplied out: [`EVEN`] and
//! [`ODD`]. The constants of a result add up to at most 61 213 in magnitude, and a factor is at most 2^15, so that
//! 32 bits hold every sum. The first pass can exceed 16 bits, with coefficients that no encoder makes; its results are
//! then saturated, which is noticed, and the blocks are done again in plain Rust.

use std::arch::x86_64::*;

use super::Job;

/// Factors of the rows 0, 4, 2 and 6 in the even half of the results 0 to 3.
pub(super) const EVEN: [[i16; 4]; 4] = [
    [8192, 8192, 10703, 4433],
    [8192, -8192, 4433, -10704],
    [8192, -8192, -4433, 10704],
    [8192, 8192, -10703, -4433],
];

/// Factors of the rows 1, 3, 5 and 7 in the odd half of the results 0 to 3.
pub(super) const ODD: [[i16; 4]; 4] = [
    [11363, 9633, 6437, 2260],
    [9633, -2259, -11362, -6436],
    [6437, -11362, 2261, 9633],
    [2260, -6436, 9633, -11363],
];

#[target_feature(enable = "avx2")]
pub(super) fn blocks(
    coefficients: &[i16],
    quant: &[i16; 64],
    jobs: &[Job],
    plane: &mut [u8],
    stride: usize,
) {
    let mut steps = [_mm256_setzero_si256(); 8];
    for (step, row) in steps.iter_mut().zip(quant.as_chunks().0) {
        *step = _mm256_broadcastsi128_si256(load(row));
    }
    for jobs in jobs.chunks(2) {
        // An odd last block is done twice.
        let [a, b] = [jobs[0], jobs[jobs.len() - 1]];
        let [from_a, from_b] = [a, b].map(|job| {
            let from = &coefficients[job.from as usize..job.from as usize + 64];
            from.as_chunks().0
        });
        let mut rows = steps;
        for y in 0..8 {
            let row = _mm256_set_m128i(load(&from_b[y]), load(&from_a[y]));
            rows[y] = _mm256_mullo_epi16(row, steps[y]);
        }
        rows = transform::<11>(rows);
        let mut largest = _mm256_abs_epi16(rows[0]);
        for row in &rows[1..] {
            largest = _mm256_max_epu16(largest, _mm256_abs_epi16(*row));
        }
        let full = _mm256_set1_epi16(i16::MAX);
        let saturated = _mm256_cmpeq_epi16(_mm256_max_epu16(largest, full), largest);
        if _mm256_movemask_epi8(saturated) != 0 {
            for &job in jobs {
                super::block(8, coefficients, quant, job, plane, stride);
            }
            continue;
        }
        let samples = bytes(transform::<18>(transpose(rows)));
        for (y, rows) in samples.into_iter().enumerate() {
            let high = _mm256_extracti128_si256::<1>(rows);
            store(_mm256_castsi256_si128(rows), &mut plane[a.to as usize..], 2 * y, stride);
            store(high, &mut plane[b.to as usize..], 2 * y, stride);
        }
    }
}

/// Writes the halves of `rows` to the rows `y` and `y + 1` of a block that begins with `plane`.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store(rows: __m128i, plane: &mut [u8], y: usize, stride: usize) {
    let rows = _mm_castsi128_pd(rows);
    let plane = &mut plane[y * stride..(y + 1) * stride + 8];
    let (first, second) = (_mm_cvtsd_f64(rows), _mm_cvtsd_f64(_mm_unpackhi_pd(rows, rows)));
    // SAFETY: the slice has eight bytes at its start and eight at its end, which is `stride` bytes further. The
    // intrinsics that store a half, which this compiles to, would want it aligned.
    unsafe {
        plane.as_mut_ptr().cast::<f64>().write_unaligned(first);
        plane.as_mut_ptr().add(stride).cast::<f64>().write_unaligned(second);
    }
}

/// One pass over the rows, whose results are divided by `1 << SHIFT`.
#[inline]
#[target_feature(enable = "avx2")]
fn transform<const SHIFT: i32>(rows: [__m256i; 8]) -> [__m256i; 8] {
    let low = |a: usize, b: usize| _mm256_unpacklo_epi16(rows[a], rows[b]);
    let high = |a: usize, b: usize| _mm256_unpackhi_epi16(rows[a], rows[b]);
    let low = half::<SHIFT>([low(0, 4), low(2, 6), low(1, 3), low(5, 7)]);
    let high = half::<SHIFT>([high(0, 4), high(2, 6), high(1, 3), high(5, 7)]);
    let mut rows = rows;
    for at in 0..8 {
        rows[at] = _mm256_packs_epi32(low[at], high[at]);
    }
    rows
}

/// The same for half of the columns: pairs of the rows 0 and 4, 2 and 6, 1 and 3, 5 and 7.
#[inline]
#[target_feature(enable = "avx2")]
fn half<const SHIFT: i32>(pairs: [__m256i; 4]) -> [__m256i; 8] {
    let products = |pair: __m256i, factors: &[i16]| {
        let factors = i32::from(factors[0] as u16) | i32::from(factors[1]) << 16;
        _mm256_madd_epi16(pair, _mm256_set1_epi32(factors))
    };
    let sum = |pairs: &[__m256i], factors: &[i16; 4]| {
        let first = products(pairs[0], &factors[..2]);
        _mm256_add_epi32(first, products(pairs[1], &factors[2..]))
    };
    let rounding = _mm256_set1_epi32(1 << (SHIFT - 1));
    let mut results = [rounding; 8];
    for at in 0..4 {
        let even = _mm256_add_epi32(sum(&pairs[..2], &EVEN[at]), rounding);
        let odd = sum(&pairs[2..], &ODD[at]);
        results[at] = _mm256_srai_epi32::<SHIFT>(_mm256_add_epi32(even, odd));
        results[7 - at] = _mm256_srai_epi32::<SHIFT>(_mm256_sub_epi32(even, odd));
    }
    results
}

/// Swaps rows and columns in each lane.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(rows: [__m256i; 8]) -> [__m256i; 8] {
    // Three perfect shuffles of the 64 numbers: each turns the six bits of an index by one.
    let shuffle = |rows: [__m256i; 8]| {
        let mut shuffled = rows;
        for at in 0..4 {
            shuffled[2 * at] = _mm256_unpacklo_epi16(rows[at], rows[at + 4]);
            shuffled[2 * at + 1] = _mm256_unpackhi_epi16(rows[at], rows[at + 4]);
        }
        shuffled
    };
    shuffle(shuffle(shuffle(rows)))
}

/// Columns to samples: two rows in each lane.
#[inline]
#[target_feature(enable = "avx2")]
fn bytes(columns: [__m256i; 8]) -> [__m256i; 4] {
    // Ten bits count, as in `range_limit` of the scalar kernel.
    let wrap = |column| _mm256_srai_epi16::<6>(_mm256_slli_epi16::<6>(column));
    let mut packed = [_mm256_set1_epi8(-128); 4];
    for (packed, pair) in packed.iter_mut().zip(columns.as_chunks::<2>().0) {
        let signed = _mm256_packs_epi16(wrap(pair[0]), wrap(pair[1]));
        *packed = _mm256_xor_si256(*packed, signed);
    }
    let shuffle = |rows: [__m256i; 4]| {
        [
            _mm256_unpacklo_epi8(rows[0], rows[2]),
            _mm256_unpackhi_epi8(rows[0], rows[2]),
            _mm256_unpacklo_epi8(rows[1], rows[3]),
            _mm256_unpackhi_epi8(rows[1], rows[3]),
        ]
    };
    shuffle(shuffle(shuffle(packed)))
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load(row: &[i16; 8]) -> __m128i {
    // SAFETY: a reference to 16 bytes can be read, and the load needs no alignment.
    unsafe { _mm_loadu_si128(row.as_ptr().cast()) }
}
