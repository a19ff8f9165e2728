//! Entropy-coded data to coefficients (ITU-T T.81, F.2.2).

use super::Irregular;
use super::bits::{Segment, Window};
use super::frame::ZIGZAG;
use super::huffman::{Ac, Dc, END_OF_BLOCK, LOOKUP_BITS, Symbol};
use crate::kernels::BitWork;

/// Where the coefficient at each place of the zigzag goes; behind the block, for places that do not exist.
///
/// That is where the next block's DC coefficient will be written, so nothing of value is overwritten.
const PLACES: [u8; 256] = {
    let mut places = [64; 256];
    let mut at = 0;
    while at < 64 {
        places[at] = ZIGZAG[at];
        at += 1;
    }
    places
};

/// A block of coefficients has 64; writing one is done through a window of 256, which no place can leave.
const REACH: usize = 256;

/// Coefficients that `blocks` blocks need.
pub(super) const fn coefficients(blocks: usize) -> usize {
    blocks * 64 + REACH
}

/// What a block holds: the place of its last coefficient in the zigzag, and [`Extent::WIDE`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Extent(u8);

impl Extent {
    /// A dequantised coefficient of the block may be more than 16 bits.
    const WIDE: u8 = 0x80;

    pub(super) fn is_dc_only(self) -> bool {
        self.0 == 0
    }

    pub(super) fn is_wide(self) -> bool {
        self.0 & Self::WIDE != 0
    }
}

/// What is needed for the blocks of one component.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tables<'a> {
    pub(super) dc: &'a Dc,
    pub(super) ac: &'a Ac,
    pub(super) quant: &'a [i16; 64],
}

/// What the scan is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout<'a> {
    /// The tables of each component.
    pub(super) tables: [Tables<'a>; 3],
    /// The component of each block of an MCU.
    pub(super) blocks: &'a [u8],
}

/// Where in the scan the next block begins.
#[derive(Debug, Default)]
pub(super) struct Position {
    pub(super) segment: Segment,
    pub(super) window: Window,
    /// The last DC coefficient of each component.
    pub(super) predictions: [i32; 3],
}

impl Position {
    /// Goes to the first byte of a scan.
    pub(super) fn start(&mut self, at: usize) {
        self.segment.start(at);
        self.window = Window::default();
        self.predictions = [0; 3];
    }

    /// Goes on behind the restart marker that must come here.
    pub(super) fn restart(&mut self, file: &[u8], marker: u8) -> Result<(), Irregular> {
        self.predictions = [0; 3];
        self.segment.restart(file, &mut self.window, marker)
    }
}

/// Decodes as many MCUs as `extents` has room for.
///
/// The coefficients must be zero before, [`coefficients`] of them, and are row by row afterwards, not dequantised.
pub(super) struct Mcus<'a> {
    pub(super) file: &'a [u8],
    pub(super) position: &'a mut Position,
    pub(super) layout: Layout<'a>,
    pub(super) coefficients: &'a mut [i16],
    pub(super) extents: &'a mut [Extent],
}

impl BitWork for Mcus<'_> {
    type Output = Result<(), Irregular>;

    #[inline(always)]
    fn run(self) -> Self::Output {
        let Self { file, position, layout, coefficients, extents } = self;
        let Position { segment, window, predictions } = position;
        let mut at = 0;
        for extents in extents.chunks_exact_mut(layout.blocks.len()) {
            segment.prepare(file, window)?;
            let bytes = segment.bytes();
            for (extent, &component) in extents.iter_mut().zip(layout.blocks) {
                let component = usize::from(component);
                let (_, rest) = coefficients.split_at_mut_checked(at).ok_or(Irregular)?;
                let out = rest.first_chunk_mut().ok_or(Irregular)?;
                let tables = &layout.tables[component];
                *extent = block(bytes, window, tables, &mut predictions[component], out)?;
                at += 64;
            }
        }
        segment.check(window)
    }
}

/// Decodes one block.
#[inline(always)]
fn block(
    bytes: &[u8],
    at: &mut Window,
    tables: &Tables<'_>,
    prediction: &mut i32,
    out: &mut [i16; REACH],
) -> Result<Extent, Irregular> {
    let mut window = *at;
    window.refill(bytes)?;
    let entry = tables.dc.lookup[(window.bits >> (64 - LOOKUP_BITS)) as usize];
    let (bits, difference) = match entry & 0xffff {
        0 => tables.dc.long(window.bits)?,
        bits => (bits, entry as i32 >> 16),
    };
    window.consume(bits);
    let dc = *prediction + difference;
    *prediction = dc;
    out[0] = i16::try_from(dc).map_err(|_| Irregular)?;
    let mut wide = is_wide(dc, tables.quant[0]);
    // The place of the last coefficient.
    let mut place = 0;
    'block: loop {
        window.refill(bytes)?;
        // Four lookups take at most 48 bits of the 56.
        for _ in 0..4 {
            let entry = tables.ac.lookup[(window.bits >> (64 - LOOKUP_BITS)) as usize];
            if entry.is_long() {
                window.refill(bytes)?;
                let long = symbol(window.bits, tables, place, out)?;
                window.consume(long.bits);
                place = long.place;
                wide |= long.is_wide;
                if long.is_last {
                    break 'block;
                }
                continue 'block;
            }
            let (first, second) = (place + entry.first(), place + entry.second());
            let values = entry.values();
            out[usize::from(PLACES[usize::from(first as u8)])] = values[0];
            out[usize::from(PLACES[usize::from(second as u8)])] = values[1];
            let next = place + entry.all();
            if next >= 63 {
                if next == 63 || (END_OF_BLOCK..END_OF_BLOCK + 63).contains(&next) {
                    window.consume(entry.bits());
                    place = next & 63;
                    break 'block;
                }
                // The block ends within the entry, whose second half then belongs to the next block.
                loop {
                    window.refill(bytes)?;
                    let long = symbol(window.bits, tables, place, out)?;
                    window.consume(long.bits);
                    place = long.place;
                    wide |= long.is_wide;
                    if long.is_last {
                        break 'block;
                    }
                }
            }
            window.consume(entry.bits());
            place = next;
        }
    }
    *at = window;
    Ok(Extent(place as u8 | if wide { Extent::WIDE } else { 0 }))
}

/// A symbol that was decoded the long way, after its coefficient was written.
struct Long {
    /// How many bits it took.
    bits: u32,
    /// The place of the last coefficient.
    place: u32,
    is_wide: bool,
    /// Whether the block ends with it.
    is_last: bool,
}

/// Decodes one symbol the long way.
#[inline(never)]
fn symbol(
    bits: u64,
    tables: &Tables<'_>,
    place: u32,
    out: &mut [i16; REACH],
) -> Result<Long, Irregular> {
    let (bits, symbol) = tables.ac.long(bits)?;
    let Symbol::Coefficient { step, value } = symbol else {
        return Ok(Long { bits, place, is_wide: false, is_last: true });
    };
    let place = place + step;
    if place > 63 {
        return Err(Irregular);
    }
    let to = usize::from(PLACES[place as usize]);
    out[to] = value as i16;
    let is_wide = is_wide(value, tables.quant[to]);
    Ok(Long { bits, place, is_wide, is_last: place == 63 })
}

fn is_wide(coefficient: i32, step: i16) -> bool {
    i16::try_from(coefficient * i32::from(step)).is_err()
}
