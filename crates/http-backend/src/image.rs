//! Images as services take them: the bytes of a file in a common format.

use std::{borrow::Cow, fs::File, io::Read, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use llm_core::{Error, ErrorKind, Image, Result};

/// Largest image file; services refuse smaller ones already.
const MAX_BYTES: u64 = 64 << 20;

/// An image to send.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// An address that the service fetches.
    Url(String),
    /// A file: its media type, and its bytes in base64.
    File { media_type: &'static str, base64: String },
}

impl Sent {
    /// Reads `image`, the one with this index in the request; pixels become a PNG file.
    ///
    /// # Errors
    /// [`ErrorKind::Image`] if it cannot be read, is too large or is no PNG, JPEG, WebP or GIF.
    pub(crate) fn read(index: usize, image: &Image) -> Result<Self> {
        let fail = |what: String| Error::new(ErrorKind::Image, format!("image {index}: {what}"));
        let bytes: Cow<'_, [u8]> = match image {
            Image::Url(url) => return Ok(Self::Url(url.clone())),
            Image::Path(path) => Cow::Owned(read(path).map_err(fail)?),
            Image::Encoded(bytes) => Cow::Borrowed(bytes),
            Image::Rgb8 { width, height, pixels } => {
                Cow::Owned(png_file(width.get(), height.get(), pixels).map_err(fail)?)
            }
            other => return Err(fail(format!("{other:?} cannot be sent"))),
        };
        if bytes.len() as u64 > MAX_BYTES {
            return Err(fail(format!("expected at most {MAX_BYTES} bytes, found {}", bytes.len())));
        }
        let media_type = media_type(&bytes)
            .ok_or_else(|| fail("expected a PNG, JPEG, WebP or GIF file".to_owned()))?;
        Ok(Self::File { media_type, base64: STANDARD.encode(&bytes) })
    }

    /// Returns the address, or the file as a data URL.
    #[cfg(feature = "openai")]
    pub(crate) fn into_url(self) -> String {
        match self {
            Self::Url(url) => url,
            Self::File { media_type, base64 } => format!("data:{media_type};base64,{base64}"),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let fail = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let mut bytes = Vec::new();
    // One byte more than allowed, which the caller sees; the size of a pipe is not known before.
    File::open(path).map_err(fail)?.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(fail)?;
    Ok(bytes)
}

fn png_file(width: u32, height: u32, pixels: &[u8]) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(|e| e.to_string())?;
    writer.write_image_data(pixels).map_err(|e| e.to_string())?;
    writer.finish().map_err(|e| e.to_string())?;
    Ok(bytes)
}

fn media_type(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x89, b'P', b'N', b'G', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_become_a_png_with_the_same_pixels() {
        let pixels: Vec<u8> = (0..2 * 3 * 3).collect();
        let image = Image::rgb(2, 3, pixels.clone()).unwrap();
        let Sent::File { media_type, base64 } = Sent::read(0, &image).unwrap() else { panic!() };
        assert_eq!(media_type, "image/png");
        let file = STANDARD.decode(base64).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
        let mut found = vec![0; pixels.len()];
        let info = reader.next_frame(&mut found).unwrap();
        assert_eq!((info.width, info.height, found), (2, 3, pixels));
    }

    #[test]
    fn what_is_no_image_is_named() {
        let missing = Image::Path("no-such-folder/a.png".into());
        let error = Sent::read(1, &missing).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Image);
        assert!(error.to_string().starts_with("image 1: cannot read no-such-folder/a.png: "));
        let error = Sent::read(0, &Image::encoded(b"BM....".to_vec())).unwrap_err();
        assert_eq!(error.to_string(), "image 0: expected a PNG, JPEG, WebP or GIF file");
    }
}
