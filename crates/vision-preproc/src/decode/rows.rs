//! Images as a stream of rows, so that what follows can work in the cache and no whole frame is held.

pub(crate) use super::Reason;
use super::{Format, bmp, gif, jpeg, png, webp};
use crate::kernels::advise_huge_pages;
use crate::mode::Reduction;
use crate::{RgbImage, Size};

/// A decoder that hands out RGB rows from top to bottom, in the stored orientation.
pub(crate) trait RowSource {
    /// Width and height of what is handed out.
    fn size(&self) -> Size;

    /// Writes as many whole rows as are ready and fit into `out` (stride `3 * width`); returns how many, 0 after the
    /// last.
    ///
    /// # Panics
    /// If not even one row fits.
    fn read(&mut self, out: &mut [u8]) -> Result<usize, Reason>;
}

/// Memory of decoders, kept for the next image.
#[derive(Default)]
pub(crate) struct Scratch {
    jpeg: Option<Box<jpeg::Scratch>>,
}

/// The rows of an image of any format.
pub(crate) enum Rows<'a> {
    Jpeg(Box<jpeg::Rows<'a>>),
    Whole(Whole<Vec<u8>>),
}

impl<'a> Rows<'a> {
    /// Opens `bytes`, which are of `format`, to be decoded at a size of `reduction` where that is possible. What is not
    /// decoded row by row is decoded here.
    pub(crate) fn open(
        bytes: &'a [u8],
        format: Format,
        reduction: Reduction,
        scratch: &mut Scratch,
    ) -> Result<Self, Reason> {
        let whole = match format {
            Format::Jpeg => {
                let scratch = scratch.jpeg.take().unwrap_or_default();
                return Ok(Self::Jpeg(Box::new(jpeg::Rows::open(bytes, reduction, scratch)?)));
            }
            Format::Png => png::decode(bytes)?,
            Format::WebP => webp::decode(bytes)?,
            Format::Gif => gif::decode(bytes)?,
            Format::Bmp => bmp::decode(bytes)?,
        };
        Ok(Self::Whole(Whole::new(whole.size(), whole.into_pixels())))
    }

    /// At what size the rows are.
    fn reduction(&self) -> Reduction {
        match self {
            Self::Jpeg(rows) => rows.reduction(),
            Self::Whole(_) => Reduction::Whole,
        }
    }

    /// Gives the memory of the decoder back.
    pub(crate) fn keep(self, scratch: &mut Scratch) {
        if let Self::Jpeg(rows) = self {
            scratch.jpeg = rows.into_scratch();
        }
    }

    /// All rows as one image.
    pub(crate) fn into_image(self) -> Result<RgbImage, Reason> {
        match self {
            Self::Jpeg(mut rows) => collect(&mut *rows),
            Self::Whole(Whole { size, pixels, .. }) => {
                Ok(RgbImage::new(size.width, size.height, pixels)?)
            }
        }
    }
}

impl RowSource for Rows<'_> {
    fn size(&self) -> Size {
        match self {
            Self::Jpeg(rows) => rows.size(),
            Self::Whole(whole) => whole.size(),
        }
    }

    fn read(&mut self, out: &mut [u8]) -> Result<usize, Reason> {
        match self {
            Self::Jpeg(rows) => rows.read(out),
            Self::Whole(whole) => whole.read(out),
        }
    }
}

/// Opens `bytes`, which are of `format`, and lets `work` have the rows, with the reduction that they have: `wanted` or
/// none. If it comes out on the way that the file cannot be reduced, `work` starts again with the rows of the whole.
pub(crate) fn with_rows<T>(
    bytes: &[u8],
    format: Format,
    wanted: Reduction,
    scratch: &mut Scratch,
    work: &mut dyn FnMut(&mut Rows<'_>, Reduction) -> Result<T, Reason>,
) -> Result<T, Reason> {
    let mut rows = Rows::open(bytes, format, wanted, scratch)?;
    let reduction = rows.reduction();
    let done = work(&mut rows, reduction);
    let again = done.is_err() && matches!(&rows, Rows::Jpeg(rows) if rows.is_irregular());
    rows.keep(scratch);
    if again { with_rows(bytes, format, Reduction::Whole, scratch, work) } else { done }
}

/// The rows of an image that is in memory as a whole.
pub(crate) struct Whole<P> {
    size: Size,
    pixels: P,
    /// The first byte that was not handed out.
    at: usize,
}

impl<P: AsRef<[u8]>> Whole<P> {
    /// Rows of `[size.height, size.width, 3]` bytes.
    pub(crate) fn new(size: Size, pixels: P) -> Self {
        assert_eq!(pixels.as_ref().len(), size.rgb_bytes(), "pixels of {size}");
        Self { size, pixels, at: 0 }
    }
}

impl<P: AsRef<[u8]>> RowSource for Whole<P> {
    fn size(&self) -> Size {
        self.size
    }

    fn read(&mut self, out: &mut [u8]) -> Result<usize, Reason> {
        let stride = self.size.width as usize * 3;
        assert!(out.len() >= stride, "room for {} bytes of a row of {stride}", out.len());
        let rest = &self.pixels.as_ref()[self.at..];
        let len = rest.len().min(out.len() / stride * stride);
        out[..len].copy_from_slice(&rest[..len]);
        self.at += len;
        Ok(len / stride)
    }
}

/// Reads the rows that are left into an image.
pub(crate) fn collect(source: &mut dyn RowSource) -> Result<RgbImage, Reason> {
    let size = source.size();
    let stride = size.width as usize * 3;
    let mut pixels = vec![0; size.rgb_bytes()];
    advise_huge_pages(&mut pixels);
    let mut at = 0;
    while at < pixels.len() {
        match source.read(&mut pixels[at..])? {
            0 => return Err("the file has fewer rows than its header says".into()),
            rows => at += rows * stride,
        }
    }
    Ok(RgbImage::new(size.width, size.height, pixels)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_in_any_portions_are_the_image() {
        let file = |name: &str| {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/preproc/formats");
            std::fs::read(format!("{folder}/{name}")).unwrap()
        };
        for (name, format) in [
            ("jpeg_2.jpg", Format::Jpeg),
            ("jpeg_2_progressive.jpg", Format::Jpeg),
            ("jpeg_grey.jpg", Format::Jpeg),
            ("jpeg_cmyk.jpg", Format::Jpeg),
            ("png_palette.png", Format::Png),
        ] {
            let bytes = file(name);
            let image = Rows::open(&bytes, format, Reduction::Whole, &mut Scratch::default())
                .unwrap()
                .into_image()
                .unwrap();
            let stride = image.width() as usize * 3;
            for portion in [1, 7, 1000] {
                let mut rows =
                    Rows::open(&bytes, format, Reduction::Whole, &mut Scratch::default()).unwrap();
                assert_eq!(rows.size(), image.size());
                // The bytes after the last whole row must be left alone.
                let mut out = vec![0; portion * stride + 2];
                let mut pixels = Vec::new();
                loop {
                    let read = rows.read(&mut out).unwrap();
                    assert_eq!(out[portion * stride..], [0, 0], "{name}");
                    if read == 0 {
                        break;
                    }
                    pixels.extend_from_slice(&out[..read * stride]);
                }
                assert!(pixels == image.pixels(), "{name} in portions of {portion}");
            }
        }
    }

    #[test]
    fn a_file_that_ends_early_is_an_error_and_no_last_row() {
        let path =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/preproc/formats/jpeg_0.jpg");
        let bytes = std::fs::read(path).unwrap();
        let mut rows = Rows::open(
            &bytes[..bytes.len() / 2],
            Format::Jpeg,
            Reduction::Whole,
            &mut Scratch::default(),
        )
        .unwrap();
        let mut out = vec![0; rows.size().rgb_bytes()];
        let reason = loop {
            match rows.read(&mut out) {
                Ok(0) => panic!("the end of half a file was taken for the last row"),
                Ok(_) => {}
                Err(reason) => break reason,
            }
        };
        assert_eq!(reason.to_string(), "the file is truncated");
    }
}
