use std::fmt;

use crate::Error;

/// The dimensions of an image, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Size {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Size {
    /// Width times height.
    pub fn pixels(self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// The same image turned by a quarter.
    pub(crate) fn transposed(self) -> Self {
        Self { width: self.height, height: self.width }
    }

    pub(crate) fn rgb_bytes(self) -> usize {
        usize::try_from(self.pixels() * 3).expect("a checked image fits the address space")
    }
}

impl fmt::Display for Size {
    /// Width first, as in `640x480`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// An owned picture: `[height, width, 3]` RGB bytes, rows from the top, without padding.
#[derive(Clone, PartialEq, Eq)]
pub struct RgbImage {
    size: Size,
    pixels: Vec<u8>,
}

/// A borrowed picture: `[height, width, 3]` RGB bytes, rows from the top, without padding.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RgbView<'a> {
    size: Size,
    pixels: &'a [u8],
}

impl RgbImage {
    /// Takes over `pixels`, which holds `[height, width, 3]` RGB bytes.
    ///
    /// # Errors
    /// [`Error::Shape`] if a side is zero or the length is not `height * width * 3`.
    pub fn new(width: u32, height: u32, pixels: Vec<u8>) -> Result<Self, Error> {
        let size = Size { width, height };
        check(size, pixels.len())?;
        Ok(Self { size, pixels })
    }

    /// The pixels, borrowed.
    pub fn as_view(&self) -> RgbView<'_> {
        RgbView { size: self.size, pixels: &self.pixels }
    }

    /// Width and height.
    pub fn size(&self) -> Size {
        self.size
    }

    /// Columns.
    pub fn width(&self) -> u32 {
        self.size.width
    }

    /// Rows.
    pub fn height(&self) -> u32 {
        self.size.height
    }

    /// `[height, width, 3]` RGB bytes.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// Hands over `[height, width, 3]` RGB bytes.
    pub fn into_pixels(self) -> Vec<u8> {
        self.pixels
    }
}

impl<'a> RgbView<'a> {
    /// Borrows `pixels`, which holds `[height, width, 3]` RGB bytes.
    ///
    /// # Errors
    /// [`Error::Shape`] if a side is zero or the length is not `height * width * 3`.
    pub fn new(width: u32, height: u32, pixels: &'a [u8]) -> Result<Self, Error> {
        let size = Size { width, height };
        check(size, pixels.len())?;
        Ok(Self { size, pixels })
    }

    /// Width and height.
    pub fn size(&self) -> Size {
        self.size
    }

    /// Columns.
    pub fn width(&self) -> u32 {
        self.size.width
    }

    /// Rows.
    pub fn height(&self) -> u32 {
        self.size.height
    }

    /// `[height, width, 3]` RGB bytes.
    pub fn pixels(&self) -> &'a [u8] {
        self.pixels
    }

    /// The bytes of row `y`.
    ///
    /// # Panics
    /// If `y` is not below the height.
    pub fn row(&self, y: usize) -> &'a [u8] {
        let stride = self.size.width as usize * 3;
        &self.pixels[y * stride..(y + 1) * stride]
    }

    /// Copies the pixels.
    pub fn to_image(&self) -> RgbImage {
        RgbImage { size: self.size, pixels: self.pixels.to_vec() }
    }
}

fn check(size: Size, len: usize) -> Result<(), Error> {
    if size.pixels() == 0 || size.pixels().checked_mul(3) != Some(len as u64) {
        return Err(Error::Shape {
            expected: format!("[{}, {}, 3] bytes and no empty side", size.height, size.width),
            found: format!("{len} bytes"),
        });
    }
    Ok(())
}

// The pixels of a photograph in a log line help nobody, so only the dimensions are shown.
impl fmt::Debug for RgbImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RgbImage({})", self.size)
    }
}

impl fmt::Debug for RgbView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RgbView({})", self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_length_and_an_empty_side_are_errors() {
        assert!(RgbImage::new(2, 1, vec![0; 6]).is_ok());
        assert!(RgbImage::new(2, 1, vec![0; 5]).is_err());
        assert!(RgbImage::new(0, 1, vec![]).is_err());
        assert!(RgbView::new(u32::MAX, u32::MAX, &[]).is_err());
    }

    #[test]
    fn rows_count_from_the_top() {
        let image = RgbImage::new(1, 2, vec![1, 2, 3, 4, 5, 6]).unwrap();
        assert_eq!(image.as_view().row(1), [4, 5, 6]);
    }
}
