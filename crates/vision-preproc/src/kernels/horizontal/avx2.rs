//! One output pixel at a time, four neighbours in a step: a shuffle makes pairs of each channel as words, two pairs for
//! each half of the vector, and `vpmaddwd` multiplies them by halves of their weights; see `vertical/avx2.rs` for why
//! that is exact.

use std::arch::x86_64::*;

use super::scalar;
use crate::kernels::HALF;
use crate::resize::{Axis, PRECISION_BITS};

/// Rows that share a pass over the weights.
const ROWS: usize = 4;
/// Bytes that a step reads, and those it uses.
const READS: usize = 16;
const ADVANCE: usize = 12;

#[derive(Debug, Default)]
pub(super) struct Table {
    /// For each output pixel and step the low halves, then the high halves, of the weights.
    words: Vec<[[i16; 16]; 2]>,
    steps: usize,
}

impl Table {
    pub(super) fn fill(&mut self, axis: &Axis) {
        self.steps = axis.most_taps().div_ceil(4);
        self.words.clear();
        for (at, (_, weights)) in axis.taps().enumerate() {
            for weights in weights.chunks(4) {
                let mut words = [[0; 16]; 2];
                for (k, &weight) in weights.iter().enumerate() {
                    let low = weight as i16;
                    let high = ((weight - i32::from(low)) >> 16) as i16;
                    for lane in 0..3 {
                        let place = k / 2 * 8 + lane * 2 + k % 2;
                        (words[0][place], words[1][place]) = (low, high);
                    }
                }
                self.words.push(words);
            }
            self.words.resize((at + 1) * self.steps, [[0; 16]; 2]);
        }
    }
}

/// All rows of `dst`, whose sources lie one after the other in `src`.
#[target_feature(enable = "avx2")]
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

#[target_feature(enable = "avx2")]
fn some_rows<const N: usize>(axis: &Axis, table: &Table, src: &[u8], dst: &mut [u8]) {
    let (from, to) = (axis.input() * 3, axis.output() * 3);
    // What the last row may read from its beginning: pixels that reach further are left to the specification.
    let readable = src.len() - (N - 1) * from;
    let reach = table.steps.saturating_sub(1) * ADVANCE + READS;
    let mut done = 0;
    for ((start, _), words) in axis.taps().zip(table.words.chunks_exact(table.steps)) {
        if 3 * start + reach > readable {
            break;
        }
        // SAFETY: the pixel reads `reach` bytes from its start, which lie in `src` for the last row and so for all.
        let pixels = unsafe { pixels::<N>(&src[3 * start..], from, words) };
        for (row, pixel) in dst.chunks_exact_mut(to).zip(pixels) {
            row[done * 3..done * 3 + 3].copy_from_slice(&pixel.to_le_bytes()[..3]);
        }
        done += 1;
    }
    if done < axis.output() {
        for (src, dst) in src.chunks_exact(from).zip(dst.chunks_exact_mut(to)) {
            scalar::row(axis, done, src, &mut dst[done * 3..]);
        }
    }
}

/// One output pixel of `N` rows, in the lower three bytes of each number.
///
/// # Safety
/// For each of `N` rows, `from` bytes apart, 16 bytes must be readable in `src` at each step, 12 bytes apart.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn pixels<const N: usize>(src: &[u8], from: usize, words: &[[[i16; 16]; 2]]) -> [i32; N] {
    // Pairs of neighbours for red, green and blue, with zeros between: words. -1 gives zero.
    #[rustfmt::skip]
    let order = _mm256_setr_epi8(
        0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1,
        6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1,
    );
    let (mut low, mut high) = ([_mm256_setzero_si256(); N], [_mm256_setzero_si256(); N]);
    for (step, [low_words, high_words]) in words.iter().enumerate() {
        // SAFETY: both arrays have 32 bytes.
        let weights = unsafe {
            [
                _mm256_loadu_si256(low_words.as_ptr().cast()),
                _mm256_loadu_si256(high_words.as_ptr().cast()),
            ]
        };
        for i in 0..N {
            // SAFETY: the caller's promise.
            let bytes =
                unsafe { _mm_loadu_si128(src.as_ptr().add(i * from + step * ADVANCE).cast()) };
            let pairs = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(bytes), order);
            low[i] = _mm256_add_epi32(low[i], _mm256_madd_epi16(pairs, weights[0]));
            high[i] = _mm256_add_epi32(high[i], _mm256_madd_epi16(pairs, weights[1]));
        }
    }
    let mut pixels = [0; N];
    for (i, pixel) in pixels.iter_mut().enumerate() {
        let sum = _mm256_add_epi32(_mm256_slli_epi32(high[i], 16), low[i]);
        let sum = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
        let sum = _mm_add_epi32(sum, _mm_set1_epi32(HALF));
        let sum = _mm_srai_epi32(sum, PRECISION_BITS as i32);
        let sum = _mm_packs_epi32(sum, sum);
        *pixel = _mm_cvtsi128_si32(_mm_packus_epi16(sum, sum));
    }
    pixels
}
