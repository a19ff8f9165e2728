//! Entropy-coded bytes without their stuffing, and a window of bits on them.
//!
//! In entropy-coded data a byte 0xFF is followed by a stuffed 0x00, and any other follower is a marker that ends the
//! segment (ITU-T T.81, B.1.1.5). [`Segment`] removes the stuffing some kilobytes at a time, so that the decoder of
//! symbols can take eight bytes at once without looking at them.

use super::Irregular;

/// More than an MCU can take: ten blocks of 64 symbols of at most 27 bits.
const MCU_BYTES: usize = 2304;
/// Bytes that are unstuffed at a time; they stay in the first-level cache until they are decoded.
const CHUNK: usize = 8192;
/// Bytes that are copied at a time if none of them is 0xFF.
const STEP: usize = 32;

/// The data between two markers, a part at a time.
#[derive(Debug, Default)]
pub(super) struct Segment {
    /// Where the next stuffed byte is in the file.
    at: usize,
    /// Unstuffed bytes; beyond `len` there are zeros enough for an MCU if the segment has ended.
    bytes: Vec<u8>,
    len: usize,
    /// The marker that ends the segment, once `at` has come to it. `at` is then behind it.
    marker: Option<u8>,
}

/// A position in a [`Segment`], with the next bits in a register.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Window {
    /// The next bits, the first one on top.
    pub(super) bits: u64,
    /// How many of `bits` have been counted as taken from the segment. There may be more, and all that is below is
    /// either zero or what the segment holds there, so that it can be added again.
    pub(super) count: u32,
    /// The first byte of the segment that is not counted.
    pub(super) at: usize,
}

impl Segment {
    /// Starts at byte `at` of the file; memory of an earlier file is used again.
    pub(super) fn start(&mut self, at: usize) {
        self.at = at;
        self.len = 0;
        self.marker = None;
        self.bytes.resize(CHUNK + 2 * MCU_BYTES, 0);
    }

    /// The unstuffed bytes that are here.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Makes sure that the next MCU can be read without a look at the length: either its bytes are here, or the end
    /// of the segment is, with zeros behind.
    pub(super) fn prepare(&mut self, file: &[u8], window: &mut Window) -> Result<(), Irregular> {
        if self.marker.is_some() || self.len - window.at.min(self.len) >= MCU_BYTES {
            return Ok(());
        }
        self.bytes.copy_within(window.at..self.len, 0);
        self.len -= window.at;
        window.at = 0;
        self.fill(file)?;
        if self.marker.is_some() {
            self.bytes[self.len..].fill(0);
        }
        Ok(())
    }

    /// Whether the bits that were read up to `window` were all there.
    pub(super) fn check(&self, window: &Window) -> Result<(), Irregular> {
        if self.left(window) < 0 { Err(Irregular) } else { Ok(()) }
    }

    /// Checks that only padding is left, and that `marker` ends it; the next segment begins then.
    pub(super) fn restart(
        &mut self,
        file: &[u8],
        window: &mut Window,
        marker: u8,
    ) -> Result<(), Irregular> {
        self.prepare(file, window)?;
        self.check(window)?;
        if self.marker != Some(marker) || self.left(window) >= 8 {
            return Err(Irregular);
        }
        self.len = 0;
        self.marker = None;
        *window = Window::default();
        Ok(())
    }

    /// How many bits of the buffer are behind `window`; negative if it has run over the end.
    fn left(&self, window: &Window) -> i64 {
        (self.len as i64 - window.at as i64) * 8 + i64::from(window.count)
    }

    /// Unstuffs until the chunk is full or a marker comes.
    fn fill(&mut self, file: &[u8]) -> Result<(), Irregular> {
        let full = CHUNK + MCU_BYTES;
        while self.len + STEP <= full {
            let rest = file.get(self.at..).unwrap_or_default();
            if let Some(step) = rest.first_chunk::<STEP>() {
                self.bytes[self.len..self.len + STEP].copy_from_slice(step);
                // Not `contains`, which would stop early: this is a few vector instructions.
                if step.iter().fold(0, |found, &byte| found | u8::from(byte == 0xff)) == 0 {
                    self.at += STEP;
                    self.len += STEP;
                    continue;
                }
            }
            let plain = rest.iter().take(STEP).take_while(|&&byte| byte != 0xff).count();
            self.bytes[self.len..self.len + plain].copy_from_slice(&rest[..plain]);
            self.at += plain;
            self.len += plain;
            match rest.get(plain..).unwrap_or_default() {
                [0xff, 0x00, ..] => {
                    self.bytes[self.len] = 0xff;
                    self.len += 1;
                    self.at += 2;
                }
                // Fill bytes may precede a marker, but not a stuffed zero.
                [0xff, fill @ ..] => {
                    let skip = fill.iter().take_while(|&&byte| byte == 0xff).count();
                    match fill.get(skip) {
                        None | Some(0) => return Err(Irregular),
                        Some(&marker) => {
                            self.at += skip + 2;
                            self.marker = Some(marker);
                            return Ok(());
                        }
                    }
                }
                // The file ends without a marker. libjpeg decides how many of the last rows that costs.
                [] => return Err(Irregular),
                [_, ..] => {}
            }
        }
        Ok(())
    }
}

impl Window {
    /// Fills up to at least 56 bits.
    #[inline(always)]
    pub(super) fn refill(&mut self, bytes: &[u8]) -> Result<(), Irregular> {
        let Some(next) = bytes.get(self.at..).and_then(|rest| rest.first_chunk()) else {
            return Err(Irregular);
        };
        self.bits |= u64::from_be_bytes(*next) >> self.count;
        self.at += ((63 - self.count) >> 3) as usize;
        self.count |= 56;
        Ok(())
    }

    /// Drops `count` bits, of which there must be as many.
    #[inline(always)]
    pub(super) fn consume(&mut self, count: u32) {
        self.bits <<= count & 63;
        self.count = self.count.wrapping_sub(count);
    }
}
