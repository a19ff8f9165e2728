//! Reading numbers and texts one after the other, each only if the file is long enough for it.

use std::io::Read;

/// A reader that knows where it is and what is left.
#[derive(Debug)]
pub(super) struct Source<R> {
    reader: R,
    at: u64,
    end: u64,
}

impl<R: Read> Source<R> {
    /// Reads at most `end` bytes of `reader`.
    pub(super) fn new(reader: R, end: u64) -> Self {
        Self { reader, at: 0, end }
    }

    /// Returns how many bytes have been read.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Checks that there can be `count` things of at least `bytes` bytes each.
    ///
    /// # Errors
    /// A sentence that has `what` and the place.
    pub(super) fn expect(&self, what: &str, count: u64, bytes: u64) -> Result<(), String> {
        let left = self.end - self.at;
        match count.checked_mul(bytes).is_some_and(|bytes| bytes <= left) {
            true => Ok(()),
            false => Err(self.corrupt(&format!(
                "{what} of {count}, which take at least {bytes} bytes each; the header can have {left} \
                 bytes more"
            ))),
        }
    }

    /// Returns the next `N` bytes.
    ///
    /// # Errors
    /// As [`expect`](Self::expect).
    pub(super) fn bytes<const N: usize>(&mut self, what: &str) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        self.fill(what, &mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, String> {
        self.bytes(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, String> {
        self.bytes(what).map(u64::from_le_bytes)
    }

    /// Returns a text, which is written as its length in bytes and then these, UTF-8, of which there may be
    /// `most`.
    ///
    /// # Errors
    /// As [`expect`](Self::expect), and if it is no UTF-8.
    pub(super) fn text(&mut self, what: &str, most: u64) -> Result<String, String> {
        let start = self.at;
        let length = self.u64(what)?;
        if length > most {
            return Err(format!(
                "corrupt GGUF at byte {start}: {what} of {length} bytes, expected at most {most}"
            ));
        }
        self.expect(what, length, 1)?;
        let mut bytes = vec![0; usize::try_from(length).map_err(|e| e.to_string())?];
        self.fill(what, &mut bytes)?;
        String::from_utf8(bytes).map_err(|e| {
            format!("corrupt GGUF at byte {start}: {what} is not valid UTF-8: {}", e.utf8_error())
        })
    }

    /// Returns a message about what was read last.
    pub(super) fn corrupt(&self, reason: &str) -> String {
        format!("corrupt GGUF at byte {}: {reason}", self.at)
    }

    fn fill(&mut self, what: &str, bytes: &mut [u8]) -> Result<(), String> {
        let length = bytes.len() as u64;
        if length > self.end - self.at {
            return Err(
                self.corrupt(&format!("the file, or what may be of its header, ends in {what}"))
            );
        }
        self.reader
            .read_exact(bytes)
            .map_err(|e| self.corrupt(&format!("{what} cannot be read: {e}")))?;
        self.at += length;
        Ok(())
    }
}
