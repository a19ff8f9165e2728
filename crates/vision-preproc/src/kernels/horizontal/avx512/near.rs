//! Five output pixels in a vector: a permutation of 64 bytes puts the neighbours of each channel of each pixel side by
//! side, so that 15 of 16 sums are used. The next neighbours follow 12 bytes later with the same permutation.

use std::arch::x86_64::*;

use super::{Line, combined};
use crate::kernels::horizontal::scalar;
use crate::kernels::{HALF, digits};
use crate::resize::Axis;

/// Output pixels in a vector.
const PIXELS: usize = 5;
/// Bytes that a step reads, and those from one step to the next.
const READS: usize = 64;
const ADVANCE: usize = 12;
/// Rows that share a pass over the weights.
const ROWS: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Table {
    /// For each vector the first byte that is read, from the beginning of the row.
    bases: Vec<usize>,
    /// For each vector the permutation, then for each step the low, middle and high digits.
    lines: Vec<Line>,
    steps: usize,
}

impl Table {
    /// Makes the table, unless five output pixels need more than 64 bytes at a time; returns whether it was made.
    pub(super) fn fill(&mut self, axis: &Axis) -> bool {
        self.bases.clear();
        self.lines.clear();
        self.steps = axis.most_taps().div_ceil(4);
        for first in (0..axis.output()).step_by(PIXELS) {
            let base = 3 * axis.taps_of(first).0;
            self.bases.push(base);
            let begin = self.lines.len();
            self.lines.resize(begin + 1 + 3 * self.steps, Line([0; 64]));
            let (order, weights) = self.lines[begin..].split_first_mut().expect("one and more");
            for slot in 0..PIXELS.min(axis.output() - first) {
                let (start, values) = axis.taps_of(first + slot);
                let offset = 3 * start - base;
                if offset + ADVANCE > READS {
                    return false;
                }
                for place in 0..12 {
                    let (channel, tap) = (place / 4, place % 4);
                    order.0[12 * slot + place] = (offset + 3 * tap + channel) as u8;
                    for (step, &weight) in values.iter().skip(tap).step_by(4).enumerate() {
                        for (digit, value) in digits(weight).into_iter().enumerate() {
                            weights[3 * step + digit].0[12 * slot + place] = value as u8;
                        }
                    }
                }
            }
        }
        true
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
pub(super) fn rows(axis: &Axis, table: &Table, src: &[u8], dst: &mut [u8]) {
    let (from, to) = (axis.input() * 3, axis.output() * 3);
    let several = dst.len() / to / ROWS * ROWS;
    let (first, rest) = dst.split_at_mut(several * to);
    for (at, dst) in first.chunks_exact_mut(ROWS * to).enumerate() {
        some_rows::<ROWS>(axis, table, &src[at * ROWS * from..], dst);
    }
    for (at, dst) in rest.chunks_exact_mut(to).enumerate() {
        some_rows::<1>(axis, table, &src[(several + at) * from..], dst);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
fn some_rows<const N: usize>(axis: &Axis, table: &Table, src: &[u8], dst: &mut [u8]) {
    let (from, to) = (axis.input() * 3, axis.output() * 3);
    // What the last row may read from its beginning: vectors that reach further are left to the specification.
    let readable = src.len() - (N - 1) * from;
    let reach = (table.steps - 1) * ADVANCE + READS;
    let vectors = table.bases.partition_point(|base| base + reach <= readable);
    // SAFETY: the vectors read `reach` bytes from their base, which lie in `src` for the last row and so for all; they
    // write their own pixels only, which lie in `dst`.
    unsafe { fast::<N>(table, vectors, src, from, dst, to) };
    let done = PIXELS * vectors;
    if done < axis.output() {
        for (src, dst) in src.chunks_exact(from).zip(dst.chunks_exact_mut(to)) {
            scalar::row(axis, done, src, &mut dst[done * 3..]);
        }
    }
}

/// # Safety
/// `N` rows of `from` bytes must begin in `src`, and the first `vectors` vectors must read nothing beyond it in the
/// last of them; `dst` must hold `N` rows of `to` bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
unsafe fn fast<const N: usize>(
    table: &Table,
    vectors: usize,
    src: &[u8],
    from: usize,
    dst: &mut [u8],
    to: usize,
) {
    let (zero, half) = (_mm512_setzero_si512(), _mm512_set1_epi32(HALF));
    let lines = table.lines.chunks_exact(1 + 3 * table.steps);
    for (at, (base, lines)) in table.bases[..vectors].iter().zip(lines).enumerate() {
        let order = lines[0].load();
        let mut sums = [[half, zero, zero]; N];
        for (step, weights) in lines[1..].as_chunks::<3>().0.iter().enumerate() {
            let weights = [weights[0].load(), weights[1].load(), weights[2].load()];
            for (i, sums) in sums.iter_mut().enumerate() {
                let place = base + step * ADVANCE + i * from;
                // SAFETY: the caller promises what a vector reads.
                let bytes = unsafe { _mm512_loadu_si512(src.as_ptr().add(place).cast()) };
                let values = _mm512_permutexvar_epi8(order, bytes);
                for (sum, weights) in sums.iter_mut().zip(weights) {
                    *sum = _mm512_dpbusd_epi32(*sum, values, weights);
                }
            }
        }
        let bytes = (to - 15 * at).min(15);
        for (i, sums) in sums.into_iter().enumerate() {
            let values = _mm512_cvtusepi32_epi8(_mm512_max_epi32(combined(sums), zero));
            // SAFETY: the pixels of the vector lie in row `i` of `dst`, and only they are written.
            unsafe {
                let place = dst.as_mut_ptr().add(i * to + 15 * at);
                _mm_mask_storeu_epi8(place.cast(), (1 << bytes) - 1, values);
            }
        }
    }
}
