//! What a sequence parameter set says of pictures: ITU-T H.264, 7.3.2.1.1.

use super::Stop;
use crate::Size;

/// Profiles whose parameter sets speak of colours and depths.
const HIGH: [u32; 13] = [100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135];

/// The size of pictures in blocks of 16 by 16 pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PictureSize {
    columns: u64,
    rows: u64,
}

impl PictureSize {
    /// Reads a unit.
    ///
    /// # Errors
    /// If it is cut off, or speaks of what is not decoded.
    pub(super) fn read(unit: &[u8]) -> Result<Self, Stop> {
        let mut bits = Bits::of(unit);
        let unsupported = |what: String| Stop::Unsupported(format!("H.264 {what}"));
        bits.take(8)?;
        let profile = bits.take(8)?;
        bits.take(16)?;
        bits.number()?;
        if HIGH.contains(&profile) {
            let chroma = bits.number()?;
            if chroma != 1 {
                return Err(unsupported(format!("with chroma format {chroma}, not 4:2:0")));
            }
            let (luma, chroma) = (bits.number()?, bits.number()?);
            if (luma, chroma) != (0, 0) {
                return Err(unsupported("of more than 8 bits".to_owned()));
            }
            bits.take(1)?;
            if bits.take(1)? == 1 {
                for list in 0..8 {
                    if bits.take(1)? == 1 {
                        bits.skip_scaling_list(if list < 6 { 16 } else { 64 })?;
                    }
                }
            }
        }
        bits.number()?;
        match bits.number()? {
            0 => drop(bits.number()?),
            1 => {
                bits.take(1)?;
                bits.number()?;
                bits.number()?;
                for _ in 0..bits.number()?.min(255) {
                    bits.number()?;
                }
            }
            _ => {}
        }
        bits.number()?;
        bits.take(1)?;
        let columns = u64::from(bits.number()?) + 1;
        let rows = u64::from(bits.number()?) + 1;
        if bits.take(1)? == 0 {
            return Err(unsupported("with interlacing".to_owned()));
        }
        Ok(Self { columns, rows })
    }

    /// Checks that pictures are of the size that the header says, up to what is cut off at their edges.
    pub(super) fn check(self, stored: Size) -> Result<(), Stop> {
        let blocks = (u64::from(stored.width).div_ceil(16), u64::from(stored.height).div_ceil(16));
        match blocks == (self.columns, self.rows) {
            true => Ok(()),
            false => Err(format!(
                "the header says {stored}, the pictures are {}x{}",
                self.columns * 16,
                self.rows * 16
            )
            .into()),
        }
    }
}

/// The bits of a unit, without the bytes that keep it from looking like the start of one.
struct Bits {
    bytes: Vec<u8>,
    at: usize,
}

impl Bits {
    fn of(unit: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(unit.len());
        let mut zeros = 0;
        for &byte in unit {
            if zeros >= 2 && byte == 3 {
                zeros = 0;
                continue;
            }
            zeros = if byte == 0 { zeros + 1 } else { 0 };
            bytes.push(byte);
        }
        Self { bytes, at: 0 }
    }

    fn bit(&mut self) -> Result<u32, Stop> {
        let byte = self.bytes.get(self.at / 8).ok_or("the parameters of H.264 are cut off")?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Ok(bit.into())
    }

    fn take(&mut self, count: usize) -> Result<u32, Stop> {
        (0..count).try_fold(0, |value, _| Ok(value << 1 | self.bit()?))
    }

    /// An unsigned number as Exp-Golomb code.
    fn number(&mut self) -> Result<u32, Stop> {
        let mut zeros = 0;
        while self.bit()? == 0 {
            zeros += 1;
            if zeros > 31 {
                return Err("a number in the parameters of H.264 is too large".into());
            }
        }
        Ok((1 << zeros) - 1 + self.take(zeros)?)
    }

    fn skip_scaling_list(&mut self, length: usize) -> Result<(), Stop> {
        let (mut last, mut next) = (8_i64, 8_i64);
        for _ in 0..length {
            if next != 0 {
                let code = i64::from(self.number()?);
                let delta = if code % 2 == 1 { (code + 1) / 2 } else { -(code / 2) };
                next = (last + delta).rem_euclid(256);
            }
            last = if next == 0 { last } else { next };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// That of `testdata/video/bframes.mp4`, of x264: 64 x 48 pixels in the profile High.
    const X264: [u8; 23] = [
        0x67, 0x64, 0x00, 0x0a, 0xac, 0xd9, 0x84, 0x7a, 0x10, 0x00, 0x00, 0x03, 0x00, 0x10, 0x00,
        0x00, 0x03, 0x01, 0x40, 0xf1, 0x22, 0x59, 0xa0,
    ];

    #[test]
    fn the_size_is_read_and_compared() {
        let found = PictureSize::read(&X264).unwrap();
        assert_eq!((found.columns, found.rows), (4, 3));
        assert!(found.check(Size { width: 64, height: 48 }).is_ok());
        assert!(found.check(Size { width: 50, height: 33 }).is_ok());
        assert!(found.check(Size { width: 65, height: 48 }).is_err());
    }

    #[test]
    fn what_is_cut_off_is_an_error() {
        for length in 0..8 {
            assert!(PictureSize::read(&X264[..length]).is_err(), "{length}");
        }
        assert!(PictureSize::read(&[0x67, 66, 0, 10, 0, 0, 0, 0, 0, 0]).is_err());
    }
}
