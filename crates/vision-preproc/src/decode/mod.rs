//! Encoded bytes to RGB, exactly as Pillow 13.0.0's `Image.open(...)`, `ImageOps.exif_transpose`, `convert("RGB")`.

use std::fmt;

use crate::mode::Reduction;
use crate::{Error, Limits, RgbImage, Size};

mod bmp;
mod exif;
mod gif;
mod jpeg;
pub(crate) mod orient;
mod png;
pub(crate) mod rows;
mod sniff;
mod webp;

pub use exif::Orientation;
#[cfg(fuzzing)]
pub use jpeg::compare_decoders;
#[cfg(feature = "stages")]
pub(crate) use jpeg::{Baseline, BaselineScratch};

/// A file format that this crate decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// JPEG: baseline, extended, progressive; Huffman or arithmetic coding; grey, colour, CMYK.
    Jpeg,
    /// PNG, every colour type and bit depth; of an animation its default image.
    Png,
    /// WebP, lossy and lossless; of an animation its first frame.
    WebP,
    /// GIF, its first frame.
    Gif,
    /// Windows and OS/2 bitmaps.
    Bmp,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Gif => "GIF",
            Self::Bmp => "BMP",
        })
    }
}

/// What the header of an encoded image says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageInfo {
    /// The format, recognised from the content.
    pub format: Format,
    /// Columns of the upright image.
    pub width: u32,
    /// Rows of the upright image.
    pub height: u32,
    /// How the stored image is turned; already applied to `width` and `height`.
    pub orientation: Orientation,
}

impl ImageInfo {
    /// Width and height of the upright image.
    pub fn size(&self) -> Size {
        Size { width: self.width, height: self.height }
    }
}

/// Stored size and orientation, read from a header.
#[derive(Clone, Copy, Debug)]
struct Header {
    stored: Size,
    orientation: Orientation,
}

/// Reads format and size of an image from its header; nothing is decoded or allocated.
///
/// # Errors
/// [`Error::Unsupported`] if the content is of no format that this crate reads; [`Error::Decode`] if the header is
/// broken or cut off.
pub fn probe(bytes: &[u8]) -> Result<ImageInfo, Error> {
    let format = sniff::format(bytes)?;
    let header = match format {
        Format::Jpeg => jpeg::header(bytes),
        Format::Png => png::header(bytes),
        Format::WebP => webp::header(bytes),
        Format::Gif => gif::header(bytes),
        Format::Bmp => bmp::header(bytes),
    };
    let header = header.map_err(|reason| Error::decode(format, reason))?;
    let size = header.orientation.apply(header.stored);
    Ok(ImageInfo {
        format,
        width: size.width,
        height: size.height,
        orientation: header.orientation,
    })
}

/// Decodes an image to upright RGB, `[height, width, 3]`.
///
/// The format is recognised from the content. EXIF orientation is applied, alpha is dropped (not blended), and every
/// colour type becomes RGB as Pillow 13.0.0's `convert("RGB")` makes it; colour profiles are ignored, as there.
///
/// # Errors
/// [`Error::Limit`] if the encoded bytes or the dimensions in the header exceed `limits`, before anything of that size
/// is allocated; [`Error::Unsupported`] and [`Error::Decode`] as for [`probe`], the latter also for bytes that end too
/// early.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<RgbImage, Error> {
    limits.check_encoded(bytes.len())?;
    let info = probe(bytes)?;
    limits.check_size(info.size())?;
    let mut scratch = rows::Scratch::default();
    let image = rows::Rows::open(bytes, info.format, Reduction::Whole, &mut scratch)
        .and_then(rows::Rows::into_image);
    let image = image.map_err(|reason| Error::decode(info.format, reason))?;
    Ok(orient::upright(image, info.orientation))
}

/// Why a decoder gave up, before the format is named.
pub(crate) type Reason = Box<dyn std::error::Error + Send + Sync>;

/// A palette as Pillow holds it: entries beyond the stored ones are the grey of their index.
struct Palette([[u8; 3]; 256]);

impl Palette {
    /// `stored` is a list of RGB triples; what does not fill a triple is ignored.
    fn new(stored: &[u8]) -> Self {
        let mut entries = std::array::from_fn(|index| [index as u8; 3]);
        for (entry, stored) in entries.iter_mut().zip(stored.as_chunks().0) {
            *entry = *stored;
        }
        Self(entries)
    }

    fn expand(&self, indices: &[u8], rgb: &mut [u8]) {
        for (pixel, &index) in rgb.as_chunks_mut().0.iter_mut().zip(indices) {
            *pixel = self.0[usize::from(index)];
        }
    }
}

fn expand_grey(grey: &[u8], rgb: &mut [u8]) {
    for (pixel, &value) in rgb.as_chunks_mut().0.iter_mut().zip(grey) {
        *pixel = [value; 3];
    }
}
