//! A sequence of blocks that are decoded one after the other, alone or in turns with another sequence.

use super::Irregular;
use super::entry::Entry;
use super::huffman::{Tables, coefficient, difference};
use super::memory::{Block, Memory, SLOT, SLOTS, SLOTS_OF_STREAM};
use super::step::{BIT, STEPS, State};

/// Steps between two looks at what the streams have come to.
const BATCH: usize = 60;
const _: () = assert!(BATCH.is_multiple_of(STEPS));

/// Blocks that a batch can come to: one with a bad code takes a single step.
const BATCH_BLOCKS: usize = BATCH + 1;

/// Bytes that a batch can read: each step takes at most 27 bits, and sixteen bytes are read at a time.
const BATCH_BYTES: usize = BATCH * 27 / 8 + 24;

/// A sequence of blocks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stream {
    /// The slot of the first block, and the bit that it starts at.
    first: usize,
    start: usize,
    /// The current block and the place of its next coefficient, see [`SLOT`].
    pub(super) cursor: u32,
    /// The next bit.
    pub(super) bit: usize,
    /// The slots of the first and of the last block that no file can have.
    first_invalid: Option<usize>,
    last_invalid: Option<usize>,
}

impl Stream {
    /// Clears what the stream has written, and starts again with a block of the MCU at bit `bit`. Stream 0 or 1 is
    /// `index`.
    pub(super) fn restart(&mut self, memory: &mut Memory, index: usize, bit: usize, block: usize) {
        let used = self.first..(self.slot() + 1).min(SLOTS);
        memory.coefficients[used.start * 64..used.end * 64].fill(0);
        memory.wide[used].fill(false);
        let slot = index * SLOTS_OF_STREAM + block;
        *self =
            Self { first: slot, start: bit, cursor: slot as u32 * SLOT, bit, ..Self::default() };
    }

    /// The slots of the complete blocks.
    pub(super) fn slots(&self) -> std::ops::Range<usize> {
        self.first..self.slot()
    }

    /// The slot of the current block.
    pub(super) fn slot(&self) -> usize {
        (self.cursor / SLOT) as usize
    }

    /// Whether a batch fits into the slots of the stream, and into `bytes`.
    pub(super) fn has_room(&self, bytes: &[u8]) -> bool {
        let slots = self.slot() % SLOTS_OF_STREAM + BATCH_BLOCKS < SLOTS_OF_STREAM;
        slots && self.bit / 8 + BATCH_BYTES <= bytes.len()
    }

    /// Whether the stream is where the next one has no slots.
    fn is_inside(&self) -> bool {
        self.slot() / SLOTS_OF_STREAM == self.first / SLOTS_OF_STREAM
    }

    /// Takes note of a block that no file can have.
    pub(super) fn set_invalid(&mut self, slot: usize) {
        self.first_invalid.get_or_insert(slot);
        self.last_invalid = Some(slot);
    }

    /// The slot of the first block that no file can have.
    pub(super) fn first_invalid(&self) -> Option<usize> {
        self.first_invalid
    }

    /// The slot behind the last block that no file can have, or the first one.
    pub(super) fn valid_from(&self) -> usize {
        self.last_invalid.map_or(self.first, |slot| slot + 1)
    }

    /// The bit that the block in `slot` starts at, which may be the one that is not complete.
    pub(super) fn start_of(&self, memory: &Memory, slot: usize) -> usize {
        if slot == self.first {
            self.start
        } else {
            (u64::from(memory.ends[slot - 1]) & BIT) as usize
        }
    }

    /// Decodes on for a batch.
    #[inline(always)]
    pub(super) fn batch<const REDUCED: bool>(
        &mut self,
        memory: &mut Memory,
        scan: &Scan<'_>,
        bytes: &[u8],
    ) {
        let mut state = State::new(self, memory, scan, bytes);
        for _ in 0..BATCH / STEPS {
            state.refill(bytes);
            for _ in 0..STEPS {
                state = state.step::<REDUCED>(self, memory, scan, bytes);
            }
        }
        self.stop(state);
    }

    /// Decodes two streams on for a batch.
    #[inline(always)]
    pub(super) fn batch_of_two<const REDUCED: bool>(
        [first, second]: &mut [Self; 2],
        memory: &mut Memory,
        scan: &Scan<'_>,
        bytes: &[u8],
    ) {
        let mut a = State::new(first, memory, scan, bytes);
        let mut b = State::new(second, memory, scan, bytes);
        for _ in 0..BATCH / STEPS {
            a.refill(bytes);
            b.refill(bytes);
            for _ in 0..STEPS {
                a = a.step::<REDUCED>(first, memory, scan, bytes);
                b = b.step::<REDUCED>(second, memory, scan, bytes);
            }
        }
        first.stop(a);
        second.stop(b);
    }

    fn stop(&mut self, state: State) {
        (self.cursor, self.bit) = (state.cursor(), state.bit());
        debug_assert!(self.is_inside(), "{self:?}");
    }
}

/// The tables and the blocks of a scan.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scan<'a> {
    pub(super) tables: &'a Tables,
    /// The blocks of an MCU, in their order.
    pub(super) blocks: &'a [Block],
    /// Whether there are coefficients that are not wanted.
    pub(super) is_reduced: bool,
}

impl Scan<'_> {
    /// The block that `cursor` is in.
    pub(super) fn block(&self, cursor: u32) -> &Block {
        let slot = cursor / SLOT;
        &self.blocks[(slot % self.blocks.len() as u32) as usize]
    }

    /// The single symbol that `bits` begin with, which led to `entry`.
    pub(super) fn symbol(&self, cursor: u32, entry: Entry, bits: u64) -> Result<Entry, Irregular> {
        let is_dc = cursor.is_multiple_of(SLOT);
        let (length, symbol) = match entry.code() {
            Some(code) => code,
            None => {
                let block = self.block(cursor);
                self.tables.code(if is_dc { block.dc } else { block.ac }, bits)?
            }
        };
        if is_dc { difference(length, symbol, bits) } else { coefficient(length, symbol, bits) }
    }
}
