//! A permutation of bytes gathers four neighbours of a channel into each 32 bits, `vpdpbusd` multiplies them by a digit
//! of their four weights and adds. Three digits make a weight; see `digits`.
//!
//! Of 16 sums 15 are used, five pixels. They are five output pixels, each over its own neighbours, while the first and
//! the last read bytes within 128 of each other (shrinking by less than 10). Beyond that they are parts of one output
//! pixel: 20 neighbours at a time, added up at the end.
//!
//! What was tried and left: tiles (AMX), nine times as fast at products, lose it again to loading a tile, 15 ns.

use std::arch::x86_64::*;

use super::scalar;
use crate::kernels::{HALF, digits};
use crate::resize::{Axis, PRECISION_BITS};

/// Output or partial pixels in a vector.
const SLOTS: usize = 5;
/// Rows that share a pass over the weights, which otherwise would come from the second cache again and again.
const ROWS: usize = 4;

#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Line([u8; 64]);

/// A vector of output pixels.
#[derive(Clone, Copy, Debug)]
struct Group {
    /// The first byte that is read, from the beginning of the row.
    base: usize,
    /// Output pixels.
    pixels: usize,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    groups: Vec<Group>,
    /// For each group the permutation, then for each step the low, middle and high digits.
    lines: Vec<Line>,
    steps: usize,
    shape: Shape,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Shape {
    /// Five output pixels from within 64 bytes; four neighbours in a step.
    #[default]
    Near,
    /// Five output pixels from within 128 bytes; four neighbours in a step.
    Far,
    /// One output pixel; 20 neighbours in a step.
    Single,
}

impl Shape {
    /// Bytes from one step to the next.
    fn advance(self) -> usize {
        if self == Self::Single { 12 * SLOTS } else { 12 }
    }

    /// Bytes that a step reads.
    fn reads(self) -> usize {
        if self == Self::Far { 128 } else { 64 }
    }
}

impl Table {
    pub(super) fn fill(&mut self, axis: &Axis) {
        let start = |at: usize| axis.taps_of(at.min(axis.output() - 1)).0;
        let reach = (0..axis.output()).step_by(SLOTS);
        let reach = reach.map(|at| 3 * (start(at + SLOTS - 1) - start(at)) + 12).max().unwrap_or(0);
        self.shape = match reach {
            0..=64 => Shape::Near,
            65..=128 => Shape::Far,
            _ => Shape::Single,
        };
        let (pixels, taps) = if self.shape == Shape::Single { (1, 4 * SLOTS) } else { (SLOTS, 4) };
        self.steps = axis.most_taps().div_ceil(taps);
        self.groups.clear();
        self.lines.clear();
        for first in (0..axis.output()).step_by(pixels) {
            let pixels = pixels.min(axis.output() - first);
            let base = 3 * start(first);
            self.groups.push(Group { base, pixels });
            let begin = self.lines.len();
            self.lines.resize(begin + 1 + 3 * self.steps, Line([0; 64]));
            let (order, weights) = self.lines[begin..].split_first_mut().expect("one and more");
            for slot in 0..SLOTS {
                let (at, skipped) = match self.shape {
                    Shape::Single => (first, 4 * slot),
                    _ if slot < pixels => (first + slot, 0),
                    _ => continue,
                };
                let (tap, values) = axis.taps_of(at);
                let offset = 3 * (tap + skipped) - base;
                for (lane, k) in (0..3).flat_map(|channel| (0..4).map(move |k| (channel, k))) {
                    order.0[12 * slot + 4 * lane + k] = (offset + 3 * k + lane) as u8;
                }
                let steps = values.get(skipped..).unwrap_or_default().chunks(taps);
                for (step, values) in steps.enumerate() {
                    for (k, &weight) in values.iter().take(4).enumerate() {
                        for (digit, value) in digits(weight).into_iter().enumerate() {
                            for channel in 0..3 {
                                let line = &mut weights[3 * step + digit].0;
                                line[12 * slot + 4 * channel + k] = value as u8;
                            }
                        }
                    }
                }
            }
        }
    }
}

/// All rows of `dst`, whose sources lie one after the other in `src`.
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
    // What the last row may read from its beginning: groups that reach further are left to the specification.
    let readable = src.len() - (N - 1) * from;
    let reach = table.steps.saturating_sub(1) * table.shape.advance() + table.shape.reads();
    let groups = table.groups.partition_point(|group| group.base + reach <= readable);
    // SAFETY: the groups read `reach` bytes from their base, which lie in `src` for the last row and so for all; they
    // write their own pixels only, which lie in `dst`.
    unsafe {
        match table.shape {
            Shape::Near => fast_groups::<N, NEAR>(table, groups, src, from, dst, to),
            Shape::Far => fast_groups::<N, FAR>(table, groups, src, from, dst, to),
            Shape::Single => fast_groups::<N, SINGLE>(table, groups, src, from, dst, to),
        }
    }
    let done: usize = table.groups[..groups].iter().map(|group| group.pixels).sum();
    if done < axis.output() {
        for (src, dst) in src.chunks_exact(from).zip(dst.chunks_exact_mut(to)) {
            scalar::row(axis, done, src, &mut dst[done * 3..]);
        }
    }
}

const NEAR: u8 = 0;
const FAR: u8 = 1;
const SINGLE: u8 = 2;

/// # Safety
/// `N` rows of `from` bytes must begin in `src`, and the first `groups` groups must read nothing beyond it in the last
/// of them; `dst` must hold `N` rows of `to` bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
unsafe fn fast_groups<const N: usize, const SHAPE: u8>(
    table: &Table,
    groups: usize,
    src: &[u8],
    from: usize,
    dst: &mut [u8],
    to: usize,
) {
    let zero = _mm512_setzero_si512();
    let half = _mm512_set1_epi32(HALF);
    // Parts of one pixel must be rounded once, not five times.
    let half = if SHAPE == SINGLE { _mm512_maskz_mov_epi32(0b111, half) } else { half };
    let advance = table.shape.advance();
    let lines = table.lines.chunks_exact(1 + 3 * table.steps);
    let mut out = dst.as_mut_ptr();
    for (group, lines) in table.groups[..groups].iter().zip(lines) {
        let order = load(&lines[0]);
        let second = _mm512_test_epi8_mask(order, _mm512_set1_epi8(64));
        let (mut low, mut middle, mut high) = ([half; N], [zero; N], [zero; N]);
        // SAFETY: the caller promises what a group reads.
        let mut start = unsafe { src.as_ptr().add(group.base) };
        for weights in lines[1..].as_chunks::<3>().0 {
            let weights = [load(&weights[0]), load(&weights[1]), load(&weights[2])];
            for i in 0..N {
                // SAFETY: as above.
                let row = unsafe { start.add(i * from) };
                // SAFETY: as above.
                let bytes = unsafe { _mm512_loadu_si512(row.cast()) };
                let mut values = _mm512_permutexvar_epi8(order, bytes);
                if SHAPE == FAR {
                    // SAFETY: as above.
                    let bytes = unsafe { _mm512_loadu_si512(row.add(64).cast()) };
                    values = _mm512_mask_permutexvar_epi8(values, second, order, bytes);
                }
                low[i] = _mm512_dpbusd_epi32(low[i], values, weights[0]);
                middle[i] = _mm512_dpbusd_epi32(middle[i], values, weights[1]);
                high[i] = _mm512_dpbusd_epi32(high[i], values, weights[2]);
            }
            // The pointer may leave `src` after the last step, where it is not read.
            start = start.wrapping_add(advance);
        }
        let mask = (1 << (3 * group.pixels)) - 1;
        for i in 0..N {
            let upper = _mm512_add_epi32(_mm512_slli_epi32(high[i], 8), middle[i]);
            let mut sum = _mm512_add_epi32(_mm512_slli_epi32(upper, 8), low[i]);
            if SHAPE == SINGLE {
                let fifth = _mm512_alignr_epi32(sum, sum, 12);
                let pairs = _mm512_add_epi32(sum, _mm512_alignr_epi32(sum, sum, 3));
                let four = _mm512_add_epi32(pairs, _mm512_alignr_epi32(pairs, pairs, 6));
                sum = _mm512_add_epi32(four, fifth);
            }
            let sum = _mm512_max_epi32(_mm512_srai_epi32(sum, PRECISION_BITS), zero);
            // SAFETY: only the pixels of the group are written, which lie in row `i` of `dst`.
            unsafe {
                _mm_mask_storeu_epi8(out.add(i * to).cast(), mask, _mm512_cvtusepi32_epi8(sum));
            }
        }
        // SAFETY: the pixels of all groups make a row.
        out = unsafe { out.add(3 * group.pixels) };
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(line: &Line) -> __m512i {
    // SAFETY: a line has 64 bytes.
    unsafe { _mm512_load_si512(line.0.as_ptr().cast()) }
}
