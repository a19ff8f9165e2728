//! The loop over Huffman codes (ITU-T T.81, F.2.2): bits to the coefficients of one block after the other.
//!
//! A step of the loop takes one lookup, and has no branch that depends on the data but for codes that are not in the
//! tables: where a block ends, a conditional move goes on to the table of the next one. What limits it is how long a
//! lookup takes before the next one can start, and so two streams in turns are nearly as fast as one.

use std::hint::select_unpredictable;

use super::frame::ZIGZAG;
use super::huffman::{Class, Entry, LOOKUP_BITS, LOOKUPS, MAX_TABLES, SLOW, Tables};
use crate::kernels::Zeroed;

/// Room for blocks; a power of two makes an index one by a mask.
const SLOTS: usize = 4096;

/// How many of them each stream has: a multiple of all numbers of blocks in an MCU.
const SLOTS_OF_STREAM: usize = 2040;
const _: () = assert!(2 * SLOTS_OF_STREAM < SLOTS && SLOTS_OF_STREAM.is_multiple_of(24));

/// Steps between two looks at what the streams have come to.
const BATCH: usize = 64;

/// Blocks that a batch can come to: one with a bad code takes a single step.
const BATCH_BLOCKS: usize = BATCH + 1;

/// Bytes that a batch can read: each step takes at most 27 bits, and eight bytes are read at a time.
const BATCH_BYTES: usize = BATCH * 27 / 8 + 16;

/// Lookups between two refills.
const STEPS: usize = 4;
const _: () = assert!(STEPS as u32 * LOOKUP_BITS <= 57 && BATCH.is_multiple_of(STEPS));

/// A cursor is a slot times this and the place of the last coefficient. What is behind the last place of a slot is
/// before the first place of the next one: that the DC difference comes next.
const SLOT: u32 = 256;

/// Before the DC difference of the block in `slot`.
const fn before(slot: usize) -> u32 {
    (slot as u32 * SLOT).wrapping_sub(1)
}

/// Where the coefficient at each place of the zigzag goes. The end of a block writes a zero at a place that does not
/// exist, for which the last one is taken: had there been a coefficient, there would be no end of block.
const PLACES: [u8; 256] = {
    let mut places = [63; 256];
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
    /// Quantisation steps, row by row.
    pub(super) quant: [i16; 64],
}

/// What the loop reads and writes, in one piece, so that one register points to all of it.
pub(super) struct Memory {
    /// The tables of the scan, one after the other.
    lookup: [Entry; MAX_TABLES * LOOKUPS],
    /// For the block in each slot where the lookups for its AC coefficients start (low half) and those for the DC
    /// difference of the block after it. The block in slot n is block n of an MCU, modulo the number of its blocks.
    order: [u64; SLOTS],
    /// Blocks row by row, with the difference in place of the DC coefficient, not dequantised; and room for a place
    /// that is given by a byte.
    coefficients: [i16; SLOTS * 64 + 256],
    /// The bit behind each block.
    ends: [u32; SLOTS],
    /// Whether a block has a coefficient that dequantised needs more than 16 bits.
    wide: [bool; SLOTS],
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
        for (slot, order) in self.order.iter_mut().enumerate() {
            let (this, next) = (&blocks[slot % blocks.len()], &blocks[(slot + 1) % blocks.len()]);
            *order = (this.ac * LOOKUPS) as u64 | ((next.dc * LOOKUPS) as u64) << 32;
        }
    }

    pub(super) fn coefficients_mut(&mut self) -> &mut [i16] {
        &mut self.coefficients
    }

    /// Whether the block in `slot` has a coefficient that dequantised needs more than 16 bits, DC excepted.
    pub(super) fn is_wide(&self, slot: usize) -> bool {
        self.wide[slot]
    }
}

/// A sequence of blocks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stream {
    /// The slot of the first block, and the bit that it starts at.
    first: usize,
    start: usize,
    /// The current block and the place of its last coefficient, see [`SLOT`].
    cursor: u32,
    /// The next bit.
    bit: usize,
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
        *self = Self { first: slot, start: bit, cursor: before(slot), bit, ..Self::default() };
    }

    /// The slots of the complete blocks.
    pub(super) fn slots(&self) -> std::ops::Range<usize> {
        self.first..self.slot()
    }

    /// The slot of the current block.
    fn slot(&self) -> usize {
        (self.cursor.wrapping_add(1) / SLOT) as usize
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
        if slot == self.first { self.start } else { memory.ends[slot - 1] as usize }
    }

    /// Decodes on for a batch.
    #[inline(always)]
    pub(super) fn batch(&mut self, memory: &mut Memory, scan: &Scan<'_>, bytes: &[u8]) {
        let mut state = State::new(*self, memory, scan);
        for _ in 0..BATCH / STEPS {
            state.refill(bytes);
            for _ in 0..STEPS {
                state.step(memory, scan, bytes);
            }
        }
        *self = state.stream;
        debug_assert!(self.is_inside(), "{self:?}");
    }

    /// Decodes two streams on for a batch.
    #[inline(always)]
    pub(super) fn batch_of_two(
        streams: &mut [Self; 2],
        memory: &mut Memory,
        scan: &Scan<'_>,
        bytes: &[u8],
    ) {
        let [mut a, mut b] = streams.map(|stream| State::new(stream, memory, scan));
        for _ in 0..BATCH / STEPS {
            a.refill(bytes);
            b.refill(bytes);
            for _ in 0..STEPS {
                a.step(memory, scan, bytes);
                b.step(memory, scan, bytes);
            }
        }
        *streams = [a.stream, b.stream];
        debug_assert!(streams.iter().all(Self::is_inside), "{streams:?}");
    }
}

/// A stream with what the next step needs in registers.
#[derive(Clone, Copy)]
struct State {
    stream: Stream,
    /// The next bits, the first one on top, zeros below.
    bits: u64,
    /// Where the lookups for the next bits start.
    lookup: u32,
}

impl State {
    #[inline(always)]
    fn new(stream: Stream, memory: &Memory, scan: &Scan<'_>) -> Self {
        let slot = stream.slot();
        let lookup = if stream.cursor == before(slot) {
            (scan.blocks[slot % scan.blocks.len()].dc * LOOKUPS) as u32
        } else {
            memory.order[slot % SLOTS] as u32
        };
        Self { stream, bits: 0, lookup }
    }

    /// Takes the next 57 bits at least.
    #[inline(always)]
    fn refill(&mut self, bytes: &[u8]) {
        // It never is out of range: a batch is not begun if it could come to the end.
        let next = bytes.get(self.stream.bit / 8..).and_then(|rest| rest.first_chunk());
        self.bits = u64::from_be_bytes(*next.unwrap_or(&[0; 8])) << (self.stream.bit % 8);
    }

    #[inline(always)]
    fn step(&mut self, memory: &mut Memory, scan: &Scan<'_>, bytes: &[u8]) {
        let cursor = self.stream.cursor;
        let index = self.lookup as usize + (self.bits >> (64 - LOOKUP_BITS)) as usize;
        let mut entry = memory.lookup[index % (MAX_TABLES * LOOKUPS)];
        let mut next = cursor.wrapping_add(entry.all());
        if next & SLOW != 0 {
            self.refill(bytes);
            let slow = scan.slow(cursor, entry, self.bits);
            let slot = self.stream.slot();
            memory.wide[slot % SLOTS] |= slow.is_wide;
            if slow.is_invalid {
                self.stream.first_invalid.get_or_insert(slot);
                self.stream.last_invalid = Some(slot);
            }
            next = cursor.wrapping_add(slow.entry.all());
            self.stream.bit += slow.entry.bits() as usize;
            self.refill(bytes);
            entry = slow.entry.without_bits();
        }
        self.bits <<= entry.bits() & 63;
        self.stream.bit += entry.bits() as usize;

        let (slot, values) = ((next / SLOT) as usize % SLOTS, entry.values());
        let first = PLACES[usize::from(cursor.wrapping_add(entry.first()) as u8)];
        memory.coefficients[slot * 64 + usize::from(first)] = values[0];
        let second = PLACES[usize::from(cursor.wrapping_add(entry.second()) as u8)];
        memory.coefficients[slot * 64 + usize::from(second)] = values[1];
        // The last step of the block leaves what counts.
        memory.ends[slot] = self.stream.bit as u32;

        let is_done = next as u8 >= 63;
        let order = memory.order[slot];
        self.lookup = select_unpredictable(is_done, (order >> 32) as u32, order as u32);
        self.stream.cursor = select_unpredictable(is_done, next | (SLOT - 1), next);
    }
}

/// The tables and the blocks of a scan.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scan<'a> {
    pub(super) tables: &'a Tables,
    /// The blocks of an MCU, in their order.
    pub(super) blocks: &'a [Block],
}

/// A symbol that was decoded the long way.
struct Slow {
    entry: Entry,
    is_wide: bool,
    is_invalid: bool,
}

impl Scan<'_> {
    /// Decodes the symbol for which `entry` says nothing, or more than there is room for in the block.
    #[inline(never)]
    fn slow(&self, cursor: u32, entry: Entry, bits: u64) -> Slow {
        let slot = cursor.wrapping_add(1) / SLOT;
        let block = &self.blocks[(slot % self.blocks.len() as u32) as usize];
        let is_dc = cursor % SLOT == SLOT - 1;
        let (class, table) = if is_dc { (Class::Dc, block.dc) } else { (Class::Ac, block.ac) };
        let entry = self.tables.symbol(class, table, entry, bits);
        match entry {
            Ok(entry) if cursor.wrapping_add(entry.all()) & SLOW == 0 => {
                let to = usize::from(PLACES[usize::from(cursor.wrapping_add(entry.first()) as u8)]);
                let step = block.quant[to];
                let value = i32::from(entry.values()[0]) * i32::from(step);
                // DC is looked at when it is known.
                let is_wide = !is_dc && i16::try_from(value).is_err();
                Slow { entry, is_wide, is_invalid: false }
            }
            _ => Slow { entry: Entry::end(1), is_wide: false, is_invalid: true },
        }
    }
}
