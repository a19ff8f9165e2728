//! Entropy-coded bytes without their stuffing.
//!
//! In entropy-coded data a byte 0xFF is followed by a stuffed 0x00, and any other follower is a marker that ends the
//! segment (ITU-T T.81, B.1.1.5). [`Segment`] removes the stuffing some kilobytes at a time, so that the decoder of
//! symbols can take eight bytes at once without looking at them.

use super::Irregular;

/// Bytes that are unstuffed at a time.
const CHUNK: usize = 96 << 10;
/// Zeros behind the end of a segment.
const MARGIN: usize = 1 << 10;
/// Bytes that are copied at a time if none of them is 0xFF.
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
            self.bytes = vec![0; CHUNK + STEP + MARGIN];
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
            if let Some(step) = rest.first_chunk::<STEP>() {
                self.bytes[self.len..self.len + STEP].copy_from_slice(step);
                // Not `contains`, which would stop early: this is a few vector instructions.
                if step.iter().fold(0, |found, &byte| found | u8::from(byte == 0xff)) == 0 {
                    self.at += STEP;
                    self.len += STEP;
                    continue;
                }
            }
            let plain = rest.iter().take(STEP - 1).take_while(|&&byte| byte != 0xff).count();
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
