//! Huffman tables (ITU-T T.81, annex C and F.2.2), made for decoding several symbols with one lookup.
//!
//! A symbol of an AC table is a run of zeros and a size, and `size` more bits follow that are the value. Most symbols
//! are short, code and value together, so a table that is indexed with the next [`LOOKUP_BITS`] bits can hold what
//! they come to: one coefficient or two, and the end of the block behind them. What does not fit goes through
//! [`Codes`], one symbol at a time.
//!
//! Where an image is decoded at a reduced size, most coefficients of a block are not wanted. Of these only the lengths
//! count, so that one lookup passes over all codes that it knows, and values need not fit into it.

use super::Irregular;
use super::entry::{Entry, MAX_BITS, MAX_STEPS, extend};

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
    /// The same, of coefficients that are not wanted.
    Unwanted,
}

/// Room for tables; a power of two makes an index one by a mask.
pub(super) const MAX_TABLES: usize = 16;

/// The most tables of one scan: one of each class for three components.
const TABLES_OF_SCAN: usize = 9;

impl Tables {
    /// Makes room for the tables of another file.
    pub(super) fn start(&mut self) {
        if self.known.len() > MAX_TABLES - TABLES_OF_SCAN {
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
            Class::Unwanted => unwanted(spec, lookup),
        }
        self.known.push((class, spec.clone(), codes));
        Ok(index)
    }

    /// Length and symbol of the code that `bits` begin with.
    pub(super) fn code(&self, table: usize, bits: u64) -> Result<(u32, u8), Irregular> {
        self.known[table].2.symbol(bits)
    }
}

/// The difference of a DC coefficient that `bits` begin with; its code has `length` and `symbol`.
pub(super) fn difference(length: u32, symbol: u8, bits: u64) -> Result<Entry, Irregular> {
    let size = u32::from(symbol);
    if size > MAX_DC_SIZE {
        return Err(Irregular);
    }
    Ok(Entry::one(bits, length + size, 0, extend(bits << length, size)))
}

/// The AC coefficient, or the end of the block, that `bits` begin with; its code has `length` and `symbol`.
pub(super) fn coefficient(length: u32, symbol: u8, bits: u64) -> Result<Entry, Irregular> {
    if symbol == 0 {
        return Ok(Entry::end(bits, length));
    }
    let [run, size] = run_and_size(symbol).ok_or(Irregular)?;
    Ok(Entry::one(bits, length + size, run, extend(bits << length, size)))
}

/// Of an AC coefficient. Other runs without a value, but for `ZRL`, have no meaning in a sequential file.
fn run_and_size(symbol: u8) -> Option<[u32; 2]> {
    let (run, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
    (size <= MAX_AC_SIZE && (size > 0 || run == 15)).then_some([run, size])
}

/// The codes that a lookup can begin with.
struct ShortCodes(Box<[(u32, u8); LOOKUPS]>);

impl ShortCodes {
    fn new(spec: &Spec) -> Self {
        let mut codes = Box::new([(0, 0); LOOKUPS]);
        let (mut at, mut index) = (0, 0);
        for (length, &count) in (1..=LOOKUP_BITS).zip(&spec.counts) {
            for _ in 0..count {
                codes[at..at + (LOOKUPS >> length)].fill((length, spec.symbols[index]));
                at += LOOKUPS >> length;
                index += 1;
            }
        }
        Self(codes)
    }

    /// Length and symbol of the code behind the first `bits` bits of lookup `at`, if it does not depend on what follows.
    fn behind(&self, at: usize, bits: u32) -> Option<(u32, u8)> {
        let known = LOOKUP_BITS.checked_sub(bits)?;
        let (length, symbol) = self.0[(at << bits) % LOOKUPS];
        (1..=known).contains(&length).then_some((length, symbol))
    }

    /// What lookup `at` must be if it is decoded the long way.
    fn long(&self, at: usize) -> Entry {
        let (length, symbol) = self.0[at];
        Entry::long(length, symbol)
    }
}

/// The lookup at the top of 64 bits.
fn bits_of(at: usize) -> u64 {
    (at as u64) << (64 - LOOKUP_BITS)
}

/// Whether values of `size` bits behind the first `bits` bits can be in the tables: if their first bit is not, neither is
/// the sign.
fn is_value_known(bits: u32, size: u32) -> bool {
    bits + size <= MAX_BITS && (bits < LOOKUP_BITS || size == 0)
}

fn dc(spec: &Spec, lookup: &mut [Entry]) -> Result<(), Irregular> {
    let symbols = spec.counts.iter().map(|&count| usize::from(count)).sum::<usize>();
    if spec.symbols[..symbols].iter().any(|&size| size > 15) {
        return Err(Irregular);
    }
    let codes = ShortCodes::new(spec);
    for (at, entry) in lookup.iter_mut().enumerate() {
        let (length, symbol) = codes.0[at];
        let known = length > 0 && is_value_known(length, symbol.into());
        let known = if known { difference(length, symbol, bits_of(at)).ok() } else { None };
        *entry = known.unwrap_or_else(|| codes.long(at));
    }
    Ok(())
}

fn ac(spec: &Spec, lookup: &mut [Entry]) {
    let codes = ShortCodes::new(spec);
    for (at, entry) in lookup.iter_mut().enumerate() {
        *entry = one_or_two(&codes, at).unwrap_or_else(|| codes.long(at));
    }
}

/// The coefficients that lookup `at` says at least something of.
fn one_or_two(codes: &ShortCodes, at: usize) -> Option<Entry> {
    let lookup = bits_of(at);
    // Run and size of the coefficient behind the first bits, if it can be in the tables.
    let coefficient = |symbol, bits| {
        let known = |[_, size]: &[u32; 2]| *size <= MAX_LOOKUP_SIZE && is_value_known(bits, *size);
        run_and_size(symbol).filter(known)
    };
    let (length, symbol) = codes.behind(at, 0)?;
    if symbol == 0 {
        return Some(Entry::end(lookup, length));
    }
    let [run, size] = coefficient(symbol, length)?;
    let (bits, first) = (length + size, extend(lookup << length, size));
    let one = |bits| Entry::one(lookup, bits, run, first);
    let Some((length, symbol)) = codes.behind(at, bits) else { return Some(one(bits)) };
    if symbol == 0 {
        return Some(one(bits + length).last());
    }
    let behind = bits + length;
    let Some([next, size]) = coefficient(symbol, behind) else { return Some(one(bits)) };
    let values = [first, extend(lookup << behind, size)];
    let bits = behind + size;
    let two = |bits| Entry::two(lookup, bits, [run, run + 1 + next], values);
    Some(match codes.behind(at, bits) {
        Some((length, 0)) => two(bits + length).last(),
        _ => two(bits),
    })
}

/// As many codes as a lookup knows.
fn unwanted(spec: &Spec, lookup: &mut [Entry]) {
    let codes = ShortCodes::new(spec);
    for (at, entry) in lookup.iter_mut().enumerate() {
        *entry = codes.long(at);
        let (mut bits, mut steps) = (0, 0);
        while let Some((length, symbol)) = codes.behind(at, bits) {
            if symbol == 0 {
                *entry = Entry::pass(bits + length, steps).last();
                break;
            }
            let Some([run, size]) = run_and_size(symbol) else { break };
            bits += length + size;
            steps += run + 1;
            if bits > MAX_BITS || steps > MAX_STEPS {
                break;
            }
            *entry = Entry::pass(bits, steps);
        }
    }
}
