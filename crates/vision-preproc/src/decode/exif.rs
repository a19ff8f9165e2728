//! The one EXIF tag that changes pixels: how the camera was held.

use crate::Size;

/// How the stored rows and columns must be turned to be seen upright, as numbered by EXIF tag 0x0112.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Orientation {
    /// 1: as stored.
    #[default]
    Upright,
    /// 2: mirrored left to right.
    FlipHorizontal,
    /// 3: turned by half a turn.
    Rotate180,
    /// 4: mirrored top to bottom.
    FlipVertical,
    /// 5: mirrored along the diagonal from the top left.
    Transpose,
    /// 6: to be turned by a quarter, clockwise.
    Rotate90,
    /// 7: mirrored along the diagonal from the top right.
    Transverse,
    /// 8: to be turned by a quarter, counter-clockwise.
    Rotate270,
}

impl Orientation {
    /// Every orientation, in the order of the EXIF numbers 1 to 8.
    pub const ALL: [Self; 8] = [
        Self::Upright,
        Self::FlipHorizontal,
        Self::Rotate180,
        Self::FlipVertical,
        Self::Transpose,
        Self::Rotate90,
        Self::Transverse,
        Self::Rotate270,
    ];

    /// Whether width and height change places.
    pub fn swaps_sides(self) -> bool {
        matches!(self, Self::Transpose | Self::Rotate90 | Self::Transverse | Self::Rotate270)
    }

    /// Whether the stored columns run from right to left once the sides are swapped (if they are).
    pub(crate) fn flips_x(self) -> bool {
        matches!(self, Self::FlipHorizontal | Self::Rotate180 | Self::Transverse | Self::Rotate270)
    }

    /// Whether the stored rows run from bottom to top once the sides are swapped (if they are).
    pub(crate) fn flips_y(self) -> bool {
        matches!(self, Self::Rotate180 | Self::FlipVertical | Self::Transverse | Self::Rotate90)
    }

    /// The size after turning.
    pub fn apply(self, stored: Size) -> Size {
        if self.swaps_sides() { stored.transposed() } else { stored }
    }

    /// Pillow ignores numbers outside 1 to 8, and so does this.
    fn from_number(number: u32) -> Self {
        let index = (number as usize).wrapping_sub(1);
        Self::ALL.get(index).copied().unwrap_or_default()
    }
}

/// The orientation of an image whose file carries these EXIF and XMP blocks.
///
/// EXIF wins if it has the tag, as in `PIL.Image.getexif`.
pub(super) fn orientation(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> Orientation {
    let number = exif.and_then(from_exif).or_else(|| xmp.and_then(from_xmp));
    number.map(Orientation::from_number).unwrap_or_default()
}

/// Tag 0x0112 of the first directory of a TIFF block, with or without the `Exif` prefix of JPEG.
fn from_exif(mut block: &[u8]) -> Option<u32> {
    // Some writers put the prefix twice.
    for _ in 0..2 {
        block = block.strip_prefix(b"Exif\0\0").unwrap_or(block);
    }
    let big = match block.get(..4)? {
        b"MM\0*" => true,
        b"II*\0" => false,
        _ => return None,
    };
    let u16_at = |at: usize| {
        let bytes = block.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(u32::from(if big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }))
    };
    let u32_at = |at: usize| {
        let bytes = block.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    };
    let directory = u32_at(4)? as usize;
    for entry in 0..u16_at(directory)? as usize {
        let at = directory.checked_add(2 + 12 * entry)?;
        if u16_at(at)? == 0x0112 {
            // Byte, short or long; anything else is no orientation.
            return match u16_at(at + 2)? {
                1 => block.get(at + 8).map(|&value| value.into()),
                3 => u16_at(at + 8),
                4 => u32_at(at + 8),
                _ => None,
            };
        }
    }
    None
}

/// The digit of `tiff:Orientation="6"` or `<tiff:Orientation>6`.
fn from_xmp(text: &[u8]) -> Option<u32> {
    let name = b"tiff:Orientation";
    text.windows(name.len()).enumerate().filter(|(_, window)| window == name).find_map(|(at, _)| {
        let rest = &text[at + name.len()..];
        let rest = rest.strip_prefix(b"=\"").or_else(|| rest.strip_prefix(b">"))?;
        rest.first().filter(|digit| digit.is_ascii_digit()).map(|digit| u32::from(digit - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exif(big: bool, number: u16) -> Vec<u8> {
        let mut block = b"Exif\0\0".to_vec();
        if big {
            block.extend(b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01");
            block.extend(number.to_be_bytes());
        } else {
            block.extend(b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0");
            block.extend(number.to_le_bytes());
        }
        block
    }

    #[test]
    fn both_byte_orders_are_read_and_odd_numbers_are_ignored() {
        for number in 1..=8 {
            for big in [false, true] {
                let found = orientation(Some(&exif(big, number)), None);
                assert_eq!(found, Orientation::ALL[usize::from(number) - 1]);
            }
        }
        assert_eq!(orientation(Some(&exif(true, 9)), None), Orientation::Upright);
        assert_eq!(orientation(Some(&exif(true, 0)), None), Orientation::Upright);
    }

    #[test]
    fn xmp_counts_only_without_the_exif_tag() {
        let xmp = br#"<rdf tiff:Orientation="6"/>"#;
        assert_eq!(orientation(None, Some(xmp)), Orientation::Rotate90);
        assert_eq!(orientation(Some(&exif(true, 1)), Some(xmp)), Orientation::Upright);
        let element = b"<tiff:Orientation>8</tiff:Orientation>";
        assert_eq!(orientation(None, Some(element)), Orientation::Rotate270);
    }

    #[test]
    fn cut_blocks_have_no_orientation() {
        let block = exif(false, 6);
        for len in 0..block.len() {
            assert_eq!(orientation(Some(&block[..len]), None), Orientation::Upright, "{len}");
        }
    }
}
