//! `vpdpbusd` multiplies four neighbours of a channel by a digit of their four weights and adds to 32 bits. Three
//! digits make a weight; see `digits`. Two ways bring the neighbours together, and the scale decides:
//!
//! - `near.rs`, up to shrinking by about 4: five output pixels in a vector, each gathered from the same 64 bytes.
//! - `blocks.rs`, beyond: four rows in a vector, after their pixels were put into blocks of four.
//!
//! What was tried and left: gathering five pixels from 128 bytes where `near` ends, which was as fast as blocks, being
//! held up by loads that cross cache lines, and needed a third way for larger scales; tiles (AMX), nine times as fast
//! at products, which lose it again to loading a tile, 15 ns each on a Sapphire Rapids.

mod blocks;
mod near;

use std::arch::x86_64::*;

use crate::resize::{Axis, PRECISION_BITS};

/// The bytes of a vector.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Line([u8; 64]);

impl Line {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(&self) -> __m512i {
        // SAFETY: a line has 64 bytes, at a multiple of 64.
        unsafe { _mm512_load_si512(self.0.as_ptr().cast()) }
    }
}

#[derive(Debug, Default)]
pub(super) struct Table {
    /// Whether `near` is used; the table of the other is empty.
    is_near: bool,
    near: near::Table,
    blocks: blocks::Table,
}

impl Table {
    pub(super) fn fill(&mut self, axis: &Axis) {
        self.is_near = self.near.fill(axis);
        if !self.is_near {
            self.blocks.fill(axis);
        }
    }
}

/// All rows of `dst`, whose sources lie one after the other in `src`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
pub(super) fn rows(axis: &Axis, table: &mut Table, src: &[u8], dst: &mut [u8]) {
    if table.is_near {
        near::rows(axis, &table.near, src, dst);
    } else {
        blocks::rows(axis, &mut table.blocks, src, dst);
    }
}

/// Sums of products with the low, middle and high digits to sums of products, without their fraction bits.
#[inline]
#[target_feature(enable = "avx512f")]
fn combined([low, middle, high]: [__m512i; 3]) -> __m512i {
    let upper = _mm512_add_epi32(_mm512_slli_epi32(high, 8), middle);
    _mm512_srai_epi32(_mm512_add_epi32(_mm512_slli_epi32(upper, 8), low), PRECISION_BITS)
}
