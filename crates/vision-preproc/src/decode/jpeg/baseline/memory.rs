//! What the loop over codes reads and writes.

use super::entry::Entry;
use super::frame::ZIGZAG;
use super::huffman::{LOOKUPS, MAX_TABLES};
use crate::kernels::Zeroed;

/// Room for blocks; a power of two makes an index one by a mask.
pub(super) const SLOTS: usize = 4096;

/// How many of them each stream has: a multiple of all numbers of blocks in an MCU.
pub(super) const SLOTS_OF_STREAM: usize = 2040;
const _: () = assert!(2 * SLOTS_OF_STREAM < SLOTS && SLOTS_OF_STREAM.is_multiple_of(24));

/// A cursor is a slot times this and the place of the coefficient that comes next. The DC difference has place 0.
pub(super) const SLOT: u32 = 256;

/// Where the coefficient at each place of the zigzag goes. The end of a block writes a zero at a place that does not
/// exist, for which the last one is taken: had there been a coefficient, there would be no end of block.
pub(super) const PLACES: [u8; SLOT as usize] = {
    let mut places = [63; SLOT as usize];
    let mut at = 0;
    while at < 64 {
        places[at] = ZIGZAG[at];
        at += 1;
    }
    places
};

/// A block of an MCU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub(super) component: usize,
    /// Where it is among the component's blocks.
    pub(super) x: usize,
    pub(super) y: usize,
    /// Its tables.
    pub(super) dc: usize,
    pub(super) ac: usize,
    /// From which place of the zigzag on coefficients are not wanted (64 if all are), and the table for them.
    pub(super) wanted: usize,
    pub(super) unwanted: usize,
    /// Quantisation steps, row by row.
    pub(super) quant: [i16; 64],
}

/// What the loop reads and writes, in one piece, so that one register points to all of it.
pub(super) struct Memory {
    /// The tables of the scan, one after the other.
    pub(super) lookup: [Entry; (MAX_TABLES + 1) * LOOKUPS],
    /// For the block in each slot where the lookups for its AC coefficients start (low half) and those for the DC
    /// difference of the block after it. The block in slot n is block n of an MCU, modulo the number of its blocks.
    pub(super) order: [u64; SLOTS],
    /// Where the lookups for coefficients that are not wanted start (low half), and from which place on that is.
    pub(super) unwanted: [u64; SLOTS],
    /// Blocks row by row, with the difference in place of the DC coefficient, not dequantised; and room for a place
    /// that is given by a byte.
    pub(super) coefficients: [i16; SLOTS * 64 + 256],
    /// The bit behind each block, and above it bits that say nothing; see [`State`](super::step::State).
    pub(super) ends: [u32; SLOTS],
    /// [`PLACES`].
    pub(super) places: [u8; SLOT as usize],
    /// Whether a block has a coefficient that dequantised needs more than 16 bits.
    pub(super) wide: [bool; SLOTS],
}

// SAFETY: zeros are values of all its numbers, and of `bool`.
#[allow(unsafe_code, reason = "it is too large for the stack")]
unsafe impl Zeroed for Memory {}

impl Memory {
    /// Where the tables are made.
    pub(super) fn lookup_mut(&mut self) -> &mut [Entry] {
        &mut self.lookup
    }

    /// Prepares for a scan of MCUs of `blocks`.
    pub(super) fn set_order(&mut self, blocks: &[Block]) {
        self.places = PLACES;
        let pairs = blocks.iter().zip(blocks.iter().skip(1).chain(blocks)).cycle();
        for ((order, unwanted), (this, next)) in
            self.order.iter_mut().zip(&mut self.unwanted).zip(pairs)
        {
            *order = (this.ac * LOOKUPS) as u64 | ((next.dc * LOOKUPS) as u64) << 32;
            *unwanted = (this.unwanted * LOOKUPS) as u64 | (this.wanted as u64) << 32;
        }
    }

    /// Where the lookups start when the block in `slot` has come to `cursor`.
    pub(super) fn table(&self, slot: usize, cursor: u32) -> u32 {
        let (order, unwanted) = (self.order[slot], self.unwanted[slot]);
        if cursor % SLOT < (unwanted >> 32) as u32 { order as u32 } else { unwanted as u32 }
    }

    pub(super) fn coefficients_mut(&mut self) -> &mut [i16] {
        &mut self.coefficients
    }

    /// Whether the block in `slot` has a coefficient that dequantised needs more than 16 bits, DC excepted.
    pub(super) fn is_wide(&self, slot: usize) -> bool {
        self.wide[slot]
    }
}
