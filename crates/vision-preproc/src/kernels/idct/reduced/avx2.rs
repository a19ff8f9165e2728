//! Four blocks at once, two in each 128-bit lane: a quarter of a register holds four coefficients.
//!
//! The first pass takes pairs of rows; for the second one the columns of a row are shuffled into the same pairs, so that
//! both are sums of products by `vpmaddwd`. The constants of a result add up to 31 520, so 32 bits hold every sum. The
//! first pass can exceed 16 bits, with coefficients that no encoder makes; its results are then saturated, which is
//! noticed, and the blocks are done again in plain Rust.

use std::arch::x86_64::*;

use super::super::Job;
use super::super::avx2::load;
use super::scalar::ODD;

/// Four rows, or columns, of several blocks.
type Four = [__m256i; 4];

/// Blocks to four by four samples.
#[target_feature(enable = "avx2")]
pub(super) fn fours(
    coefficients: &[i16],
    quant: &[i16; 64],
    jobs: &[Job],
    plane: &mut [u8],
    stride: usize,
) {
    let steps = quant.as_chunks::<8>().0;
    let steps: Four = std::array::from_fn(|y| _mm256_broadcastq_epi64(load(&steps[y])));
    // The columns 0 and 2, 1 and 3 of both blocks of a lane.
    let pairs_of_row = lanes([0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]);
    for jobs in jobs.chunks(4) {
        // If there are less than four, the last one is done again.
        let last = jobs.len() - 1;
        let jobs = [jobs[0], jobs[last.min(1)], jobs[last.min(2)], jobs[last]];
        let rows = dequantised(coefficients, &steps, jobs);
        let [a, b, c, d] = rows;
        let low = points::<11>([_mm256_unpacklo_epi16(a, c), _mm256_unpacklo_epi16(b, d)]);
        let high = points::<11>([_mm256_unpackhi_epi16(a, c), _mm256_unpackhi_epi16(b, d)]);
        let rows: Four = std::array::from_fn(|y| _mm256_packs_epi32(low[y], high[y]));
        if is_saturated(&rows) {
            for job in jobs {
                super::block(4, coefficients, quant, job, plane, stride);
            }
            continue;
        }
        let [a, b, c, d] = rows.map(|row| _mm256_shuffle_epi8(row, pairs_of_row));
        // Of the first block of each lane, then of the second one.
        let first = [_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d)];
        let second = [_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d)];
        for (jobs, [top, bottom]) in [([jobs[0], jobs[2]], first), ([jobs[1], jobs[3]], second)] {
            let even = _mm256_unpacklo_epi64(top, bottom);
            let odd = _mm256_unpackhi_epi64(top, bottom);
            let samples = bytes(points::<18>([even, odd]));
            let halves = [_mm256_castsi256_si128(samples), _mm256_extracti128_si256::<1>(samples)];
            for (job, samples) in jobs.into_iter().zip(halves) {
                let mut rows = [[0; 4]; 4];
                // SAFETY: a reference to 16 bytes can be written, and the store needs no alignment.
                unsafe { _mm_storeu_si128(rows.as_mut_ptr().cast(), samples) }
                super::write(&rows, job, plane, stride);
            }
        }
    }
}

/// The first half of the first four rows of each block, times its steps.
#[inline]
#[target_feature(enable = "avx2")]
fn dequantised(coefficients: &[i16], steps: &Four, jobs: [Job; 4]) -> Four {
    let [a, b, c, d] = jobs.map(|job| {
        let from = &coefficients[job.from as usize..job.from as usize + 32];
        from.as_chunks::<8>().0
    });
    std::array::from_fn(|y| {
        let low = _mm_unpacklo_epi64(load(&a[y]), load(&b[y]));
        let high = _mm_unpacklo_epi64(load(&c[y]), load(&d[y]));
        _mm256_mullo_epi16(_mm256_set_m128i(high, low), steps[y])
    })
}

/// Four points from the pairs 0 and 2, 1 and 3, divided by `1 << SHIFT`.
#[inline]
#[target_feature(enable = "avx2")]
fn points<const SHIFT: i32>([even, odd]: [__m256i; 2]) -> Four {
    let products = |pairs, a: i16, b: i16| {
        _mm256_madd_epi16(pairs, _mm256_set1_epi32(i32::from(a as u16) | i32::from(b) << 16))
    };
    let half = _mm256_set1_epi32(1 << (SHIFT - 1));
    let shifted = |sum| _mm256_srai_epi32::<SHIFT>(sum);
    let sum = _mm256_add_epi32(products(even, 8192, 8192), half);
    let difference = _mm256_add_epi32(products(even, 8192, -8192), half);
    let outer = products(odd, ODD[0], ODD[1]);
    let inner = products(odd, ODD[1], -ODD[0]);
    [
        shifted(_mm256_add_epi32(sum, outer)),
        shifted(_mm256_add_epi32(difference, inner)),
        shifted(_mm256_sub_epi32(difference, inner)),
        shifted(_mm256_sub_epi32(sum, outer)),
    ]
}

/// Whether a number is an end of the 16-bit range.
#[inline]
#[target_feature(enable = "avx2")]
fn is_saturated(rows: &Four) -> bool {
    let mut largest = _mm256_abs_epi16(rows[0]);
    for row in &rows[1..] {
        largest = _mm256_max_epu16(largest, _mm256_abs_epi16(*row));
    }
    let full = _mm256_set1_epi16(i16::MAX);
    let saturated = _mm256_cmpeq_epi16(_mm256_max_epu16(largest, full), largest);
    _mm256_movemask_epi8(saturated) != 0
}

/// Columns of 32 bits to samples, row by row.
#[inline]
#[target_feature(enable = "avx2")]
fn bytes([a, b, c, d]: Four) -> __m256i {
    // Ten bits count, as in `range_limit` of the scalar kernel.
    let wrap = |values| _mm256_srai_epi16::<6>(_mm256_slli_epi16::<6>(values));
    let (left, right) = (wrap(_mm256_packs_epi32(a, b)), wrap(_mm256_packs_epi32(c, d)));
    let columns = _mm256_xor_si256(_mm256_packs_epi16(left, right), _mm256_set1_epi8(-128));
    _mm256_shuffle_epi8(columns, lanes([0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15]))
}

/// The same bytes in both lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn lanes(bytes: [i8; 16]) -> __m256i {
    // SAFETY: a reference to 16 bytes can be read, and the load needs no alignment.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
}
