//! Huffman tables (ITU-T T.81, annex C and F.2.2), made for decoding several symbols with one lookup.
//!
//! A symbol of an AC table is a run of zeros and a size, and `size` more bits follow that are the value. Most symbols
//! are short, code and value together, so a table that is indexed with the next [`LOOKUP_BITS`] bits can hold what
//! they come to: one coefficient or two, and the end of the block behind them. What does not fit goes through
//! [`Codes`], one symbol at a time.

use super::Irregular;

/// Index bits of the tables.
pub(super) const LOOKUP_BITS: u32 = 12;
const LOOKUPS: usize = 1 << LOOKUP_BITS;
/// Values of more bits are not in the tables, so that those of the tables, times any 8-bit quantisation step, fit
/// into 16 bits.
const MAX_LOOKUP_SIZE: u32 = 7;
/// Larger sizes of a difference do not occur in 8-bit images (T.81, table F.1).
pub(super) const MAX_DC_SIZE: u32 = 11;
/// Larger sizes of a coefficient do not occur in 8-bit images (T.81, table F.2).
pub(super) const MAX_AC_SIZE: u32 = 10;

/// The end of the block, in a count of positions.
pub(super) const END_OF_BLOCK: u32 = 128;

/// `BITS` and `HUFFVAL` of a table as the file has it (T.81, B.2.4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spec {
    /// How many codes there are of 1 to 16 bits.
    pub(super) counts: [u8; 16],
    /// The symbols in the order of their codes, zeros behind.
    pub(super) symbols: [u8; 256],
}

/// All codes of a table, by length.
#[derive(Debug)]
struct Codes {
    /// For each length the first code that is longer, aligned to 16 bits. All ones is never a code.
    limits: [u32; 16],
    /// What to add to a code of each length to get the index of its symbol.
    offsets: [i32; 16],
    symbols: [u8; 256],
}

impl Codes {
    fn new(spec: &Spec) -> Result<Self, Irregular> {
        let mut codes = Self { limits: [0; 16], offsets: [0; 16], symbols: spec.symbols };
        let (mut code, mut index) = (0_u32, 0_u32);
        for (length, &count) in (1..=16).zip(&spec.counts) {
            codes.offsets[length - 1] = index as i32 - code as i32;
            code += u32::from(count);
            index += u32::from(count);
            // No code may be all ones, so the next one must still be one of this length.
            if index > 256 || (count > 0 && code >= 1 << length) {
                return Err(Irregular);
            }
            codes.limits[length - 1] = code << (16 - length);
            code <<= 1;
        }
        Ok(codes)
    }

    /// Length and symbol of the code that `bits` begin with.
    fn symbol(&self, bits: u64) -> Result<(u32, u8), Irregular> {
        let code = (bits >> 48) as u32;
        let length = self.limits.iter().position(|&limit| code < limit).ok_or(Irregular)?;
        let index = (code >> (15 - length)) as i32 + self.offsets[length];
        Ok((length as u32 + 1, self.symbols[(index & 0xff) as usize]))
    }

    /// Calls `each` with length, first lookup and symbol of every code that fits into a lookup.
    fn for_short(spec: &Spec, mut each: impl FnMut(u32, usize, u8)) {
        let (mut at, mut index) = (0, 0);
        for (length, &count) in (1..=LOOKUP_BITS).zip(&spec.counts) {
            for _ in 0..count {
                each(length, at, spec.symbols[index]);
                at += LOOKUPS >> length;
                index += 1;
            }
        }
    }
}

/// The value that `size` bits on top of `bits` stand for (`EXTEND`, T.81, F.2.2.1).
fn extend(bits: u64, size: u32) -> i32 {
    if size == 0 {
        return 0;
    }
    let value = (bits >> (64 - size)) as i32;
    if value < 1 << (size - 1) { value + 1 - (1 << size) } else { value }
}

/// A table of DC differences.
#[derive(Debug)]
pub(super) struct Dc {
    /// Bits in the low half, 0 if it takes [`Dc::long`]; the difference in the high half.
    pub(super) lookup: Box<[u32; LOOKUPS]>,
    codes: Codes,
}

impl Dc {
    pub(super) fn new(spec: &Spec) -> Result<Self, Irregular> {
        let codes = Codes::new(spec)?;
        let symbols = spec.counts.iter().map(|&count| usize::from(count)).sum::<usize>();
        if spec.symbols[..symbols].iter().any(|&size| size > 15) {
            return Err(Irregular);
        }
        let mut lookup = Box::new([0; LOOKUPS]);
        Codes::for_short(spec, |length, at, size| {
            let (size, total) = (u32::from(size), length + u32::from(size));
            if total > LOOKUP_BITS || size > MAX_DC_SIZE {
                return;
            }
            let span = LOOKUPS >> total;
            for (value, entries) in
                lookup[at..at + (LOOKUPS >> length)].chunks_exact_mut(span).enumerate()
            {
                let bits = (value as u64).checked_shl(64 - size).unwrap_or(0);
                entries.fill(((extend(bits, size) as u32) << 16) | total);
            }
        });
        Ok(Self { lookup, codes })
    }

    /// Bits and value of the difference that `bits` begin with.
    #[cold]
    pub(super) fn long(&self, bits: u64) -> Result<(u32, i32), Irregular> {
        let (length, size) = self.codes.symbol(bits)?;
        let size = u32::from(size);
        if size > MAX_DC_SIZE {
            return Err(Irregular);
        }
        Ok((length + size, extend(bits << length, size)))
    }
}

/// A table of AC coefficients.
#[derive(Debug)]
pub(super) struct Ac {
    pub(super) lookup: Box<[Entry; LOOKUPS]>,
    codes: Codes,
}

/// What the next bits come to. From the low end: 8 bits how many bits it takes (bit 7 set if it must go through
/// [`Ac::long`]); three times 8 bits by how many positions to go on from the last coefficient, to the first one, to the
/// second one, and altogether; 16 bits each for the first and the second coefficient. If there is no second one, it is
/// the first again. An end of block counts [`END_OF_BLOCK`] positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry(u64);

impl Entry {
    const LONG: Self = Self(0x80);

    fn new(bits: u32, steps: [u32; 3], values: [i32; 2]) -> Self {
        let steps = steps[0] | steps[1] << 8 | steps[2] << 16;
        let values = u64::from(values[0] as u16) | u64::from(values[1] as u16) << 16;
        Self(u64::from(bits) | u64::from(steps) << 8 | values << 32)
    }

    #[inline(always)]
    pub(super) fn is_long(self) -> bool {
        self.0 & 0x80 != 0
    }

    /// How many bits it takes.
    #[inline(always)]
    pub(super) fn bits(self) -> u32 {
        self.0 as u8 as u32
    }

    /// Positions from the last coefficient to the first of this entry.
    #[inline(always)]
    pub(super) fn first(self) -> u32 {
        (self.0 >> 8) as u8 as u32
    }

    /// Positions from the last coefficient to the second of this entry.
    #[inline(always)]
    pub(super) fn second(self) -> u32 {
        (self.0 >> 16) as u8 as u32
    }

    /// Positions from the last coefficient to where the next entry starts.
    #[inline(always)]
    pub(super) fn all(self) -> u32 {
        (self.0 >> 24) as u8 as u32
    }

    #[inline(always)]
    pub(super) fn values(self) -> [i16; 2] {
        [(self.0 >> 32) as i16, (self.0 >> 48) as i16]
    }
}

/// One symbol of an AC table with its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Symbol {
    /// A coefficient, `step` positions after the last one. Sixteen zeros (`ZRL`) are one of value 0.
    Coefficient {
        step: u32,
        value: i32,
    },
    EndOfBlock,
}

impl Ac {
    pub(super) fn new(spec: &Spec) -> Result<Self, Irregular> {
        let codes = Codes::new(spec)?;
        let mut single = Box::new([Entry::LONG; LOOKUPS]);
        Codes::for_short(spec, |length, at, symbol| {
            let size = u32::from(symbol & 15);
            let total = length + size;
            let of_symbol = &mut single[at..at + (LOOKUPS >> length)];
            match symbol {
                0x00 => {
                    let end = [64, 64, END_OF_BLOCK];
                    of_symbol.fill(Entry::new(total, end, [0; 2]));
                }
                // Runs without a value, but for `ZRL`, have no meaning in a sequential file.
                0x10 | 0x20 | 0x30 | 0x40 | 0x50 | 0x60 | 0x70 | 0x80 | 0x90 | 0xa0 | 0xb0
                | 0xc0 | 0xd0 | 0xe0 => {}
                _ if total > LOOKUP_BITS || size > MAX_LOOKUP_SIZE => {}
                _ => {
                    let step = u32::from(symbol >> 4) + 1;
                    let span = LOOKUPS >> total;
                    for (value, entries) in of_symbol.chunks_exact_mut(span).enumerate() {
                        let bits = (value as u64).checked_shl(64 - size).unwrap_or(0);
                        let value = extend(bits, size);
                        entries.fill(Entry::new(total, [step; 3], [value; 2]));
                    }
                }
            }
        });
        let mut lookup = single.clone();
        for (at, entry) in lookup.iter_mut().enumerate() {
            if entry.is_long() || entry.all() >= END_OF_BLOCK {
                continue;
            }
            // Entries with fewer bits than are left do not depend on the zeros that are shifted in.
            let next = |bits: u32| {
                let next = single[(at << bits) % LOOKUPS];
                (!next.is_long() && bits + next.bits() <= LOOKUP_BITS).then_some(next)
            };
            let (first, value) = (entry.first(), i32::from(entry.values()[0]));
            let Some(second) = next(entry.bits()) else { continue };
            let bits = entry.bits() + second.bits();
            if second.all() >= END_OF_BLOCK {
                *entry = Entry::new(bits, [first, first, first + END_OF_BLOCK], [value; 2]);
                continue;
            }
            let both = first + second.first();
            let values = [value, i32::from(second.values()[0])];
            *entry = Entry::new(bits, [first, both, both], values);
            if let Some(third) = next(bits).filter(|third| third.all() >= END_OF_BLOCK) {
                let steps = [first, both, both + END_OF_BLOCK];
                *entry = Entry::new(bits + third.bits(), steps, values);
            }
        }
        Ok(Self { lookup, codes })
    }

    /// Bits and meaning of the symbol that `bits` begin with.
    pub(super) fn long(&self, bits: u64) -> Result<(u32, Symbol), Irregular> {
        let (length, symbol) = self.codes.symbol(bits)?;
        let (run, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
        match (run, size) {
            (0, 0) => Ok((length, Symbol::EndOfBlock)),
            (0..15, 0) | (_, MAX_AC_SIZE_AND_MORE..) => Err(Irregular),
            _ => {
                let value = extend(bits << length, size);
                Ok((length + size, Symbol::Coefficient { step: run + 1, value }))
            }
        }
    }
}

const MAX_AC_SIZE_AND_MORE: u32 = MAX_AC_SIZE + 1;
