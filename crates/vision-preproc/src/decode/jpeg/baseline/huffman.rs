//! Huffman tables (ITU-T T.81, annex C and F.2.2), made for decoding several symbols with one lookup.
//!
//! A symbol of an AC table is a run of zeros and a size, and `size` more bits follow that are the value. Most symbols
//! are short, code and value together, so a table that is indexed with the next [`LOOKUP_BITS`] bits can hold what
//! they come to: one coefficient or two, and the end of the block behind them. What does not fit goes through
//! [`Codes`], one symbol at a time.

use super::Irregular;

/// Index bits of the tables.
pub(super) const LOOKUP_BITS: u32 = 12;
pub(super) const LOOKUPS: usize = 1 << LOOKUP_BITS;
/// Values of more bits are not in the tables, so that those of the tables, times any 8-bit quantisation step, fit
/// into 16 bits.
const MAX_LOOKUP_SIZE: u32 = 7;
/// Larger sizes of a difference do not occur in 8-bit images (T.81, table F.1).
const MAX_DC_SIZE: u32 = 11;
/// Larger sizes of a coefficient do not occur in 8-bit images (T.81, table F.2).
const MAX_AC_SIZE: u32 = 10;

/// What the end of a block adds to the place of the last coefficient.
///
/// Places up to 63, and places up to 62 behind the end of a block, do not have the bit [`SLOW`].
pub(super) const END_OF_BLOCK: u32 = 129;

/// The bit of a place that does not exist. An entry sets it for any place if it says nothing.
pub(super) const SLOW: u32 = 64;

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
    // Twice, since a shift by 64 is none.
    let value = (bits >> 1 >> (63 - size)) as i32;
    // A first bit of 0 makes it negative.
    let least = ((!bits >> 63) as i32).wrapping_neg() & ((1 << size) - 1);
    value - least
}

/// What the next bits come to. From the low end: 8 bits how many bits it takes; three times 8 bits by how many places
/// to go on from the last coefficient, to the first one, to the second one, and altogether; 16 bits each for the first
/// and the second coefficient. If there is no second one, it is the first again. A DC difference is one coefficient.
///
/// An entry that must be decoded the long way leads to no place, and has length and symbol of its code instead of
/// coefficients, or a length of 0 if the code is longer than a lookup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry(u64);

impl Entry {
    /// To be decoded the long way, code included.
    const LONG: Self = Self::long(0, 0);

    /// To be decoded the long way.
    const fn long(length: u32, symbol: u8) -> Self {
        Self(((SLOW + 1) as u64) << 24 | (length as u64) << 32 | (symbol as u64) << 40)
    }

    fn new(bits: u32, steps: [u32; 3], values: [i32; 2]) -> Self {
        let steps = steps[0] | steps[1] << 8 | steps[2] << 16;
        let values = u64::from(values[0] as u16) | u64::from(values[1] as u16) << 16;
        Self(u64::from(bits) | u64::from(steps) << 8 | values << 32)
    }

    /// One coefficient.
    pub(super) fn one(bits: u32, step: u32, value: i32) -> Self {
        Self::new(bits, [step; 3], [value; 2])
    }

    /// The end of a block, which writes a zero to a place that does not exist.
    pub(super) fn end(bits: u32) -> Self {
        Self::new(bits, [SLOW + 1, SLOW + 1, END_OF_BLOCK], [0; 2])
    }

    fn is_long(self) -> bool {
        self.all() == SLOW + 1
    }

    fn is_end(self) -> bool {
        self.all() >= END_OF_BLOCK
    }

    /// The same, after its bits were taken.
    pub(super) fn without_bits(self) -> Self {
        Self(self.0 & !0xff)
    }

    /// How many bits it takes.
    #[inline(always)]
    pub(super) fn bits(self) -> u32 {
        self.0 as u8 as u32
    }

    /// Places from the last coefficient to the first of this entry.
    #[inline(always)]
    pub(super) fn first(self) -> u32 {
        (self.0 >> 8) as u8 as u32
    }

    /// Places from the last coefficient to the second of this entry.
    #[inline(always)]
    pub(super) fn second(self) -> u32 {
        (self.0 >> 16) as u8 as u32
    }

    /// Places from the last coefficient to where the next entry starts.
    #[inline(always)]
    pub(super) fn all(self) -> u32 {
        (self.0 >> 24) as u8 as u32
    }

    #[inline(always)]
    pub(super) fn values(self) -> [i16; 2] {
        [(self.0 >> 32) as i16, (self.0 >> 48) as i16]
    }
}

/// The tables of a scan, and those of the scans before it, which are probably the same ones.
#[derive(Debug, Default)]
pub(super) struct Tables {
    known: Vec<(Class, Spec, Codes)>,
}

/// What the symbols of a table mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Sizes of DC differences.
    Dc,
    /// Runs and sizes of AC coefficients.
    Ac,
}

/// Twice as many tables as a scan of three components needs, rounded to a power of two.
pub(super) const MAX_TABLES: usize = 8;

impl Tables {
    /// Makes room for the tables of another file.
    pub(super) fn start(&mut self) {
        if self.known.len() > 4 {
            self.known.clear();
        }
    }

    /// The index of a table in `lookup`, where it is made if it is not known.
    pub(super) fn index(
        &mut self,
        class: Class,
        spec: &Spec,
        lookup: &mut [Entry],
    ) -> Result<usize, Irregular> {
        let same =
            |(known_class, known, _): &(Class, Spec, Codes)| *known_class == class && known == spec;
        if let Some(index) = self.known.iter().position(same) {
            return Ok(index);
        }
        let index = self.known.len();
        let codes = Codes::new(spec)?;
        let lookup = lookup.chunks_exact_mut(LOOKUPS).nth(index).ok_or(Irregular)?;
        match class {
            Class::Dc => dc(spec, lookup)?,
            Class::Ac => ac(spec, lookup),
        }
        self.known.push((class, spec.clone(), codes));
        Ok(index)
    }

    /// The single symbol that `bits` begin with, which led to `entry`; `table` is of `class`.
    pub(super) fn symbol(
        &self,
        class: Class,
        table: usize,
        entry: Entry,
        bits: u64,
    ) -> Result<Entry, Irregular> {
        let (length, symbol) = match (entry.0 >> 32) as u8 {
            length @ 1.. if entry.is_long() => (length.into(), (entry.0 >> 40) as u8),
            _ => self.known[table].2.symbol(bits)?,
        };
        let (run, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
        let value = extend(bits << length, size);
        match class {
            Class::Dc if size <= MAX_DC_SIZE => Ok(Entry::one(length + size, 1, value)),
            Class::Ac if symbol == 0 => Ok(Entry::end(length)),
            // Other runs without a value, but for `ZRL`, have no meaning in a sequential file.
            Class::Ac if size <= MAX_AC_SIZE && (size > 0 || run == 15) => {
                Ok(Entry::one(length + size, run + 1, value))
            }
            _ => Err(Irregular),
        }
    }
}

fn dc(spec: &Spec, lookup: &mut [Entry]) -> Result<(), Irregular> {
    let symbols = spec.counts.iter().map(|&count| usize::from(count)).sum::<usize>();
    if spec.symbols[..symbols].iter().any(|&size| size > 15) {
        return Err(Irregular);
    }
    lookup.fill(Entry::LONG);
    Codes::for_short(spec, |length, at, size| {
        let entries = &mut lookup[at..at + (LOOKUPS >> length)];
        entries.fill(Entry::long(length, size));
        let (size, total) = (u32::from(size), length + u32::from(size));
        if total <= LOOKUP_BITS && size <= MAX_DC_SIZE {
            fill_values(entries, size, total, 1);
        }
    });
    Ok(())
}

fn ac(spec: &Spec, lookup: &mut [Entry]) {
    let mut single = Box::new([Entry::LONG; LOOKUPS]);
    Codes::for_short(spec, |length, at, symbol| {
        let (run, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
        let total = length + size;
        let entries = &mut single[at..at + (LOOKUPS >> length)];
        match (run, size) {
            (0, 0) => entries.fill(Entry::end(total)),
            (1..15, 0) => entries.fill(Entry::long(length, symbol)),
            _ if total > LOOKUP_BITS || size > MAX_LOOKUP_SIZE => {
                entries.fill(Entry::long(length, symbol));
            }
            _ => fill_values(entries, size, total, run + 1),
        }
    });
    for (at, entry) in lookup.iter_mut().enumerate() {
        *entry = single[at];
        if entry.is_long() || entry.is_end() {
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
        if second.is_end() {
            *entry = Entry::new(bits, [first, first, first + END_OF_BLOCK], [value; 2]);
            continue;
        }
        let both = first + second.first();
        let values = [value, i32::from(second.values()[0])];
        *entry = Entry::new(bits, [first, both, both], values);
        if let Some(third) = next(bits).filter(|third| third.is_end()) {
            let steps = [first, both, both + END_OF_BLOCK];
            *entry = Entry::new(bits + third.bits(), steps, values);
        }
    }
}

/// Fills the entries of a code, one value of `size` bits after the other; `total` bits with the code.
fn fill_values(entries: &mut [Entry], size: u32, total: u32, step: u32) {
    for (value, entries) in entries.chunks_exact_mut(LOOKUPS >> total).enumerate() {
        let bits = (value as u64) << 1 << (63 - size);
        entries.fill(Entry::one(total, step, extend(bits, size)));
    }
}
