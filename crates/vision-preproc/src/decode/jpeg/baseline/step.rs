//! A step of the loop over Huffman codes (ITU-T T.81, F.2.2): one lookup.
//!
//! It has no branch that depends on the data but for what is not in the tables: where a block ends, a conditional move goes
//! on to the table of the next one. What limits it is how long a lookup takes before the next one can start.

use std::hint::select_unpredictable;

use super::entry::{Entry, MAX_BITS, SLOW, STEPS_SHIFT};
use super::huffman::{LOOKUP_BITS, LOOKUPS, MAX_TABLES};
use super::memory::{Memory, PLACES, SLOT, SLOTS};
use super::stream::{Scan, Stream};

/// Lookups between two refills.
pub(super) const STEPS: usize = 3;
const _: () = assert!(7 + STEPS as u32 * MAX_BITS < 64);

/// Where a stream is. It is handed on by value, so that it stays in registers: what takes its address is memory, and a
/// step would wait for it.
#[derive(Clone, Copy)]
pub(super) struct State {
    /// The next bits, the first one on top, zeros below.
    bits: u64,
    /// Where the first of them is, and above [`CURSOR`] the cursor, see [`Stream`]: both go on by one addition.
    position: u64,
    /// Where the lookups for the next bits start.
    lookup: u32,
    /// What follows on bit `ahead_from`, a multiple of 8, modulo 64.
    ahead: [u64; 2],
    ahead_from: u64,
}

/// The bit of a position at which the cursor starts. It is where an entry has its steps.
const CURSOR: u32 = STEPS_SHIFT;
pub(super) const BIT: u64 = (1 << CURSOR) - 1;

impl State {
    #[inline(always)]
    pub(super) fn new(stream: &Stream, memory: &Memory, scan: &Scan<'_>, bytes: &[u8]) -> Self {
        let (cursor, bit, slot) = (stream.cursor, stream.bit, stream.slot());
        let lookup = if cursor.is_multiple_of(SLOT) {
            (scan.blocks[slot % scan.blocks.len()].dc * LOOKUPS) as u32
        } else {
            memory.table(slot % SLOTS, cursor)
        };
        let position = bit as u64 & BIT | u64::from(cursor) << CURSOR;
        let mut state = Self { bits: 0, position, lookup, ahead: [0; 2], ahead_from: 0 };
        state.read(bytes);
        state
    }

    #[inline(always)]
    pub(super) fn bit(self) -> usize {
        (self.position & BIT) as usize
    }

    #[inline(always)]
    pub(super) fn cursor(self) -> u32 {
        (self.position >> CURSOR) as u32
    }

    /// Takes the next 64 bits, of those that were read when the last ones were taken: the position is known late, and
    /// reading takes its time.
    #[inline(always)]
    pub(super) fn refill(&mut self, bytes: &[u8]) {
        let shift = self.position.wrapping_sub(self.ahead_from) % 64;
        let [first, second] = self.ahead;
        self.bits = first << shift | second >> 1 >> (63 - shift);
        self.read(bytes);
    }

    /// Reads what the next refill is taken from.
    #[inline(always)]
    fn read(&mut self, bytes: &[u8]) {
        let at = self.bit() / 8;
        // It never is out of range: a batch is not begun if it could come to the end.
        let next = bytes.get(at..at + 16).and_then(|next| next.first_chunk()).unwrap_or(&[0; 16]);
        let next = u128::from_be_bytes(*next);
        self.ahead = [(next >> 64) as u64, next as u64];
        self.ahead_from = self.position / 8 * 8;
    }

    /// Reads and takes the next 64 bits.
    #[inline(always)]
    fn restart(&mut self, bytes: &[u8]) {
        self.read(bytes);
        let shift = self.position % 8;
        self.bits = self.ahead[0] << shift | self.ahead[1] >> 1 >> (63 - shift);
    }

    #[inline(always)]
    pub(super) fn step<const REDUCED: bool>(
        mut self,
        stream: &mut Stream,
        memory: &mut Memory,
        scan: &Scan<'_>,
        bytes: &[u8],
    ) -> Self {
        let index = self.lookup as usize % (MAX_TABLES * LOOKUPS)
            + (self.bits >> (64 - LOOKUP_BITS)) as usize;
        let mut entry = memory.lookup[index];
        if self.position.wrapping_add(entry.advance()) & u64::from(SLOW) << CURSOR != 0 {
            self.restart(bytes);
            entry = slow(self.cursor(), entry, self.bits, stream, memory, scan);
            self.position = self.position.wrapping_add(entry.bits().into());
            let before = self.bits;
            self.restart(bytes);
            entry = entry.without_bits(before, self.bits);
        }
        self.take::<REDUCED>(entry, memory)
    }

    /// Writes what `entry` says, and goes on behind it.
    #[inline(always)]
    fn take<const REDUCED: bool>(mut self, entry: Entry, memory: &mut Memory) -> Self {
        let (cursor, values) = (self.cursor(), [entry.first_value(), entry.value(self.bits)]);
        self.bits <<= entry.bits() & 63;
        let slot = (cursor / SLOT) as usize % SLOTS;
        let first = memory.places[usize::from(cursor.wrapping_add(entry.first()) as u8)];
        memory.coefficients[slot * 64 + usize::from(first)] = values[0];
        let second = memory.places[usize::from(cursor.wrapping_add(entry.second()) as u8)];
        memory.coefficients[slot * 64 + usize::from(second)] = values[1];
        let next = self.position.wrapping_add(entry.advance());
        // The last step of the block leaves what counts.
        memory.ends[slot] = next as u32;

        // What is looked up next should be known as soon as the entry is: all else has time.
        let order = memory.order[slot];
        let mut lookup = order as u32;
        if REDUCED {
            let unwanted = memory.unwanted[slot];
            let is_wanted = (next >> CURSOR) as u32 % SLOT < (unwanted >> 32) as u32;
            lookup = select_unpredictable(is_wanted, lookup, unwanted as u32);
        }
        self.lookup = select_unpredictable(entry.is_end(), (order >> 32) as u32, lookup);
        let end = (next | u64::from(SLOT - 1) << CURSOR).wrapping_add(1 << CURSOR);
        self.position = select_unpredictable(entry.is_end(), end, next);
        self
    }
}

/// Decodes the symbol that `bits` begin with, for which `entry` says nothing, or more than there is room for in the block.
#[cold]
#[inline(never)]
fn slow(
    cursor: u32,
    entry: Entry,
    bits: u64,
    stream: &mut Stream,
    memory: &mut Memory,
    scan: &Scan<'_>,
) -> Entry {
    let (slot, place) = ((cursor / SLOT) as usize % SLOTS, cursor % SLOT);
    match scan.symbol(cursor, entry, bits) {
        Ok(entry) if entry.is_end() => entry,
        Ok(entry) if place + entry.all() <= 64 => {
            let value = i32::from(entry.value(bits));
            // DC is looked at when it is known.
            if value.abs() > ALWAYS_NARROW && place > 0 {
                let to = PLACES[usize::from((place + entry.second()) as u8)];
                let step = scan.block(cursor).quant[usize::from(to)];
                memory.wide[slot] |= i16::try_from(value * i32::from(step)).is_err();
            }
            if place + entry.all() == 64 { entry.last() } else { entry }
        }
        _ => {
            stream.set_invalid(slot);
            Entry::end(bits, 1)
        }
    }
}

/// Values up to this one, times any quantisation step, fit into 16 bits.
const ALWAYS_NARROW: i32 = 127;
