//! Entropy-coded bytes without their stuffing.
//!
//! In entropy-coded data a byte 0xFF is followed by a stuffed 0x00, and any other follower is a marker that ends the
//! segment (ITU-T T.81, B.1.1.5). [`Segment`] removes the stuffing some kilobytes at a time, so that the decoder of
//! symbols can take eight bytes at once without looking at them.

use super::Irregular;

/// Bytes that are unstuffed at a time.
const CHUNK: usize = 128 << 10;
/// Zeros behind the end of a segment.
const MARGIN: usize = 1 << 10;
/// Bytes that are copied at a time.
const STEP: usize = 32;

/// The data between two markers, a part at a time.
#[derive(Debug, Default)]
pub(super) struct Segment {
    /// Where the next stuffed byte is in the file.
    at: usize,
    /// Unstuffed bytes, and zeros.
    bytes: Vec<u8>,
    len: usize,
    /// The marker that ends the segment, once `at` has come to it. `at` is then behind it.
    marker: Option<u8>,
}

impl Segment {
    /// Starts at byte `at` of the file; memory of an earlier file is used again.
    pub(super) fn start(&mut self, at: usize) {
        self.at = at;
        self.len = 0;
        self.marker = None;
        if self.bytes.is_empty() {
            self.bytes = vec![0; CHUNK + 2 * STEP + MARGIN];
        }
    }

    /// The unstuffed bytes that are here, and zeros behind the end of the segment if that is here.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len + if self.is_whole() { MARGIN } else { 0 }]
    }

    /// How many bytes are here.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether the end of the segment is here.
    pub(super) fn is_whole(&self) -> bool {
        self.marker.is_some()
    }

    /// Forgets the bytes up to `from`, and unstuffs as many as there is room for.
    pub(super) fn advance(&mut self, file: &[u8], from: usize) -> Result<(), Irregular> {
        let from = from.min(self.len);
        self.bytes.copy_within(from..self.len, 0);
        self.len -= from;
        if !self.is_whole() {
            self.fill(file)?;
        }
        self.bytes[self.len..self.len + MARGIN].fill(0);
        Ok(())
    }

    /// Starts behind the marker, which must be `marker`.
    pub(super) fn restart(&mut self, marker: u8) -> Result<(), Irregular> {
        if self.marker != Some(marker) {
            return Err(Irregular);
        }
        self.len = 0;
        self.marker = None;
        Ok(())
    }

    /// Unstuffs until the chunk is full or a marker comes.
    fn fill(&mut self, file: &[u8]) -> Result<(), Irregular> {
        while self.len < CHUNK {
            let rest = file.get(self.at..).unwrap_or_default();
            let plain = copy_plain(rest, &mut self.bytes[self.len..CHUNK + STEP]);
            self.at += plain;
            self.len += plain;
            match rest[plain..] {
                // The chunk is full.
                [first, ..] if first != 0xff => {}
                [0xff, 0x00, ..] => {
                    self.bytes[self.len] = 0xff;
                    self.len += 1;
                    self.at += 2;
                }
                // Fill bytes may precede a marker, but not a stuffed zero.
                [0xff, ref fill @ ..] => {
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
                _ => return Err(Irregular),
            }
        }
        Ok(())
    }
}

/// Copies the bytes of `from` before the first 0xFF, as far as there is room for steps in `to`; returns how many.
fn copy_plain(from: &[u8], to: &mut [u8]) -> usize {
    let mut at = 0;
    for (from, to) in from.as_chunks::<STEP>().0.iter().zip(to.as_chunks_mut().0) {
        *to = *from;
        // Not `contains`, which would stop early: this is a few vector instructions.
        if from.iter().fold(0, |found, &byte| found | u8::from(byte == 0xff)) != 0 {
            let words = from.as_chunks().0.iter().map(|word| first_ff(u64::from_le_bytes(*word)));
            let (mut plain, mut ended) = (0, false);
            for word in words {
                plain += if ended { 0 } else { word };
                ended |= word < 8;
            }
            return at + plain;
        }
        at += STEP;
    }
    let rest = from[at..].iter().zip(&mut to[at..]).take(STEP);
    at + rest.take_while(|(from, _)| **from != 0xff).map(|(from, to)| *to = *from).count()
}

/// How many of the eight bytes are before the first one that is 0xFF.
fn first_ff(bytes: u64) -> usize {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    // The highest bit of each byte that is 0xFF: no sum carries into the next byte.
    let found = bytes & ((bytes & LOW) + 0x0101_0101_0101_0101) & !LOW;
    (found.trailing_zeros() / 8) as usize
}
