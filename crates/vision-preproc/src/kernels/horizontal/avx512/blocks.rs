//! Four rows in a vector: their pixels are first put into blocks of four, `[R R R R G G G G B B B B - - - -]` for each
//! row. Then the four weights of a block are the same for all sums, and every load is a whole cache line.
#![allow(
    clippy::needless_range_loop,
    reason = "iterators over arrays of vectors by value have not the features of their callers, and are not inlined"
)]

use std::arch::x86_64::*;

use super::{Line, combined};
use crate::kernels::{HALF, digits};
use crate::resize::Axis;

/// Rows in a vector, and in the blocks made at a time.
const ROWS: usize = 4;
const MOST_ROWS: usize = 2 * ROWS;
/// Bytes of a block in a row.
const BLOCK: usize = 12;

#[derive(Debug, Default)]
pub(super) struct Table {
    /// For each output pixel its first block.
    firsts: Vec<usize>,
    /// For each output pixel and block four low digits, four middle ones and four high ones.
    quads: Vec<[i32; 3]>,
    /// Blocks for each output pixel; those that some need not have no weight.
    steps: usize,
    /// The blocks of up to eight rows: those of the first four, then those of the others.
    blocks: Vec<Line>,
}

impl Table {
    pub(super) fn fill(&mut self, axis: &Axis) {
        self.firsts.clear();
        self.quads.clear();
        self.steps =
            axis.taps().map(|(start, w)| (start % 4 + w.len()).div_ceil(4)).max().unwrap_or(1);
        for (at, (start, weights)) in axis.taps().enumerate() {
            self.firsts.push(start / 4);
            self.quads.resize((at + 1) * self.steps, [0; 3]);
            let quads = &mut self.quads[at * self.steps..];
            for (place, &weight) in (start % 4..).zip(weights) {
                for (quad, value) in quads[place / 4].iter_mut().zip(digits(weight)) {
                    *quad |= i32::from(value as u8) << (place % 4 * 8);
                }
            }
        }
        // The last pixels may have blocks without weight beyond the row.
        let blocks = axis.input().div_ceil(4).next_multiple_of(4) + self.steps;
        self.blocks.clear();
        self.blocks.resize(2 * blocks, Line([0; 64]));
    }

    /// The blocks of four rows, and those of the next four.
    fn halves(&mut self) -> (&mut [Line], &mut [Line]) {
        let half = self.blocks.len() / 2;
        self.blocks.split_at_mut(half)
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
pub(super) fn rows(axis: &Axis, table: &mut Table, src: &[u8], dst: &mut [u8]) {
    let (from, to) = (axis.input() * 3, axis.output() * 3);
    for (at, dst) in dst.chunks_mut(MOST_ROWS * to).enumerate() {
        let src = &src[at * MOST_ROWS * from..];
        let (first, second) = table.halves();
        let rows = dst.len() / to;
        make_blocks(src, from, rows.min(ROWS), first);
        if rows > ROWS {
            make_blocks(&src[ROWS * from..], from, rows - ROWS, second);
            weighted::<2>(table, dst, to);
        } else {
            weighted::<1>(table, dst, to);
        }
    }
}

/// The blocks of `rows` rows of `from` bytes; what belongs to no row is of no interest.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
fn make_blocks(src: &[u8], from: usize, rows: usize, blocks: &mut [Line]) {
    // Four blocks of a row.
    let mut order = [0; 64];
    for (at, place) in order.iter_mut().enumerate() {
        *place = (at / 16 * BLOCK + at % 4 * 3 + at % 16 / 4) as u8;
    }
    let order = Line(order).load();
    // A missing row is read from the place of the first.
    let starts: [usize; ROWS] = std::array::from_fn(|row| if row < rows { row * from } else { 0 });
    let used = from.div_ceil(BLOCK).next_multiple_of(4);
    for (at, blocks) in blocks[..used].as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let mut rows = [_mm512_setzero_si512(); ROWS];
        for i in 0..ROWS {
            rows[i] = _mm512_permutexvar_epi8(order, load(src, starts[i] + at * 4 * BLOCK));
        }
        // From four blocks of a row to four rows of a block.
        let low = [
            _mm512_shuffle_i32x4(rows[0], rows[1], 0x44),
            _mm512_shuffle_i32x4(rows[2], rows[3], 0x44),
        ];
        let high = [
            _mm512_shuffle_i32x4(rows[0], rows[1], 0xee),
            _mm512_shuffle_i32x4(rows[2], rows[3], 0xee),
        ];
        let values = [
            _mm512_shuffle_i32x4(low[0], low[1], 0x88),
            _mm512_shuffle_i32x4(low[0], low[1], 0xdd),
            _mm512_shuffle_i32x4(high[0], high[1], 0x88),
            _mm512_shuffle_i32x4(high[0], high[1], 0xdd),
        ];
        for i in 0..4 {
            // SAFETY: a line has 64 bytes, at a multiple of 64.
            unsafe { _mm512_store_si512(blocks[i].0.as_mut_ptr().cast(), values[i]) };
        }
    }
}

/// 64 bytes of `src`, or those that are there and zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load(src: &[u8], at: usize) -> __m512i {
    if at + 64 <= src.len() {
        // SAFETY: the bytes lie in `src`, as checked.
        return unsafe { _mm512_loadu_si512(src.as_ptr().add(at).cast()) };
    }
    let rest = src.get(at..).unwrap_or_default();
    // SAFETY: only the bytes of the mask are read, which are those of `rest`.
    unsafe { _mm512_maskz_loadu_epi8((1 << rest.len()) - 1, rest.as_ptr().cast()) }
}

/// The output pixels of up to `Q` times four rows from their blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
fn weighted<const Q: usize>(table: &Table, dst: &mut [u8], to: usize) {
    let order = _mm512_broadcast_i32x4(_mm_setr_epi8(
        0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1,
    ));
    let last = table.firsts.len() - 1;
    let rows = dst.len() / to;
    for first in (0..=last).step_by(4) {
        // Beyond the end the last pixel is made again.
        let [a, b] = two_pixels::<Q>(table, [first, last.min(first + 1)]);
        let [c, d] = two_pixels::<Q>(table, [last.min(first + 2), last.min(first + 3)]);
        let bytes = (to - 3 * first).min(BLOCK);
        let mask = ((1_u32 << bytes) - 1) as u16;
        for q in 0..Q {
            // Each lane of 128 bits is a row, here of up to four pixels.
            let packed =
                _mm512_packus_epi16(_mm512_packs_epi32(a[q], b[q]), _mm512_packs_epi32(c[q], d[q]));
            let packed = _mm512_shuffle_epi8(packed, order);
            let lanes = [
                _mm512_castsi512_si128(packed),
                _mm512_extracti32x4_epi32(packed, 1),
                _mm512_extracti32x4_epi32(packed, 2),
                _mm512_extracti32x4_epi32(packed, 3),
            ];
            for i in 0..ROWS.min(rows - q * ROWS) {
                let pixels = &mut dst[(q * ROWS + i) * to + 3 * first..][..bytes];
                // SAFETY: only the bytes of the mask are written, which are those of `pixels`.
                unsafe { _mm_mask_storeu_epi8(pixels.as_mut_ptr().cast(), mask, lanes[i]) };
            }
        }
    }
}

/// Output pixels `at` of `Q` times four rows, `[R G B -]` for each.
///
/// Two at a time, because the sums of one would wait for each other: `vpdpbusd` takes five cycles.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
fn two_pixels<const Q: usize>(table: &Table, at: [usize; 2]) -> [[__m512i; Q]; 2] {
    let zero = _mm512_setzero_si512();
    let (half, steps) = (table.blocks.len() / 2, table.steps);
    let first = [table.firsts[at[0]], table.firsts[at[1]]];
    assert!(first[0].max(first[1]) + steps <= half, "blocks of an output pixel");
    let quads = [&table.quads[at[0] * steps..][..steps], &table.quads[at[1] * steps..][..steps]];
    let mut sums = [[[_mm512_set1_epi32(HALF), zero, zero]; Q]; 2];
    for step in 0..steps {
        for i in 0..2 {
            let digits = quads[i][step].as_ptr();
            // SAFETY: there are three digits, numbers of 32 bits.
            let digits = unsafe {
                [
                    _mm512_broadcastd_epi32(_mm_loadu_si32(digits.cast())),
                    _mm512_broadcastd_epi32(_mm_loadu_si32(digits.add(1).cast())),
                    _mm512_broadcastd_epi32(_mm_loadu_si32(digits.add(2).cast())),
                ]
            };
            for q in 0..Q {
                // SAFETY: the block lies in its half, as asserted.
                let block =
                    unsafe { (*table.blocks.as_ptr().add(q * half + first[i] + step)).load() };
                for digit in 0..3 {
                    let sum = &mut sums[i][q][digit];
                    *sum = _mm512_dpbusd_epi32(*sum, block, digits[digit]);
                }
            }
        }
    }
    let mut values = [[zero; Q]; 2];
    for i in 0..2 {
        for q in 0..Q {
            values[i][q] = combined(sums[i][q]);
        }
    }
    values
}
