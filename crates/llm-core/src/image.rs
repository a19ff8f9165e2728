//! An image as a caller has it.

use std::{fmt, num::NonZeroU32, path::PathBuf, str::FromStr, sync::Arc};

use base64::{Engine as _, engine::general_purpose};
use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// An image as the caller has it; nothing is decoded or fetched here.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
#[non_exhaustive]
pub enum Image {
    /// A file that the provider reads.
    Path(PathBuf),
    /// An `http` or `https` address, for providers with [`Capability::ImageUrls`](crate::Capability).
    /// Others take what a loader made of it.
    Url(String),
    /// The bytes of an image file (JPEG, PNG, WebP and so on).
    Encoded(Arc<[u8]>),
    /// Pixels: `[height, width, 3]` RGB, 0..=255. Made by [`Image::rgb`], which checks the length.
    Rgb8 {
        /// Pixels per row.
        width: NonZeroU32,
        /// Rows.
        height: NonZeroU32,
        /// `height * width * 3` bytes.
        pixels: Arc<[u8]>,
    },
}

impl Image {
    /// Returns an image from the bytes of an image file.
    pub fn encoded(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self::Encoded(bytes.into())
    }

    /// Returns an image from base64 text of an image file, with or without padding; white space is
    /// ignored, and both the standard and the URL-safe alphabet are read.
    ///
    /// # Errors
    /// [`ErrorKind::Image`] if `text` is not base64 or is empty.
    pub fn base64(text: &str) -> Result<Self> {
        decode_base64(text).map(Self::Encoded)
    }

    /// Returns an image from a data URL: `data:image/png;base64,iVBORw0...`.
    ///
    /// # Errors
    /// [`ErrorKind::Image`] if `url` is not a base64 data URL of an image.
    pub fn data_url(url: &str) -> Result<Self> {
        let url = DataUrl::of(url, "image")?;
        if !url.media_type.starts_with("image/") {
            let message = format!("expected a data URL of an image, found `{}`", url.media_type);
            return Err(Error::new(ErrorKind::Image, message));
        }
        Self::base64(url.base64()?)
    }

    /// Returns an image from an address that begins with `http://` or `https://`.
    ///
    /// # Errors
    /// [`ErrorKind::Image`] if `url` is another address.
    pub fn url(url: impl Into<String>) -> Result<Self> {
        checked_address(url.into()).map(Self::Url)
    }

    /// Returns an image from pixels: `[height, width, 3]` RGB, 0..=255.
    ///
    /// # Errors
    /// [`ErrorKind::Image`] if a side is zero or `pixels` is not `height * width * 3` long.
    pub fn rgb(width: u32, height: u32, pixels: impl Into<Arc<[u8]>>) -> Result<Self> {
        let pixels = pixels.into();
        let fail = |what: String| Error::new(ErrorKind::Image, what);
        let (Some(w), Some(h)) = (NonZeroU32::new(width), NonZeroU32::new(height)) else {
            return Err(fail(format!("image has no pixels: {width}x{height}")));
        };
        let expected = u128::from(width) * u128::from(height) * 3;
        if pixels.len() as u128 != expected {
            return Err(fail(format!(
                "RGB image of {width}x{height} needs {expected} bytes, found {}",
                pixels.len()
            )));
        }
        Ok(Self::Rgb8 { width: w, height: h, pixels })
    }
}

/// Returns the bytes that `text` is the base64 of, with or without padding.
pub(crate) fn decode_base64(text: &str) -> Result<Arc<[u8]>> {
    let clean: String = text
        .chars()
        .filter(|c| !c.is_ascii_whitespace())
        .map(|c| match c {
            '-' => '+',
            '_' => '/',
            c => c,
        })
        .collect();
    let bytes = general_purpose::STANDARD_NO_PAD
        .decode(clean.trim_end_matches('='))
        .map_err(|e| Error::new(ErrorKind::Image, "image is not valid base64").with_source(e))?;
    match bytes.is_empty() {
        true => Err(Error::new(ErrorKind::Image, "base64 image is empty")),
        false => Ok(bytes.into()),
    }
}

/// Returns `url`, which begins with `http://` or `https://`.
pub(crate) fn checked_address(url: String) -> Result<String> {
    match url.starts_with("http://") || url.starts_with("https://") {
        true => Ok(url),
        false => Err(Error::new(
            ErrorKind::Image,
            format!("expected an address that begins with http:// or https://, found `{url}`"),
        )),
    }
}

/// The parts of a data URL.
pub(crate) struct DataUrl<'a> {
    pub(crate) media_type: &'a str,
    is_base64: bool,
    data: &'a str,
}

impl<'a> DataUrl<'a> {
    /// Splits `url`, which should be of a `kind`, such as `image`.
    pub(crate) fn of(url: &'a str, kind: &str) -> Result<Self> {
        let parts = url.strip_prefix("data:").and_then(|rest| rest.split_once(','));
        let (head, data) = parts.ok_or_else(|| {
            let message = format!("expected a data URL `data:{kind}/...;base64,...`");
            Error::new(ErrorKind::Image, message)
        })?;
        let (media_type, is_base64) =
            head.strip_suffix(";base64").map_or((head, false), |media_type| (media_type, true));
        Ok(Self { media_type, is_base64, data })
    }

    /// Returns the data, which must be in base64.
    pub(crate) fn base64(&self) -> Result<&'a str> {
        let other = "expected a base64 data URL, found another encoding";
        self.is_base64.then_some(self.data).ok_or_else(|| Error::new(ErrorKind::Image, other))
    }
}

// Derived Debug would print megabytes of pixels.
impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => f.debug_tuple("Path").field(path).finish(),
            Self::Url(url) => f.debug_tuple("Url").field(url).finish(),
            Self::Encoded(bytes) => write!(f, "Encoded({} bytes)", bytes.len()),
            Self::Rgb8 { width, height, .. } => write!(f, "Rgb8({width}x{height})"),
        }
    }
}

/// How closely images are looked at, for services that let one choose; read from its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ImageDetail {
    /// The service decides.
    #[default]
    Auto,
    /// Small and cheap.
    Low,
    /// As closely as the service can.
    High,
}

impl FromStr for ImageDetail {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "low" => Ok(Self::Low),
            "high" => Ok(Self::High),
            _ => Err(Error::new(
                ErrorKind::InvalidRequest,
                format!("expected auto, low or high, found `{text}`"),
            )),
        }
    }
}

/// An image as it is stored: bytes in base64, and pixels not yet checked.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stored {
    Path(PathBuf),
    Url(String),
    Encoded(String),
    Rgb8 { width: u32, height: u32, pixels: String },
}

impl From<Image> for Stored {
    fn from(image: Image) -> Self {
        let text = |bytes: &[u8]| general_purpose::STANDARD.encode(bytes);
        match image {
            Image::Path(path) => Self::Path(path),
            Image::Url(url) => Self::Url(url),
            Image::Encoded(bytes) => Self::Encoded(text(&bytes)),
            Image::Rgb8 { width, height, pixels } => {
                Self::Rgb8 { width: width.get(), height: height.get(), pixels: text(&pixels) }
            }
        }
    }
}

impl TryFrom<Stored> for Image {
    type Error = Error;

    fn try_from(stored: Stored) -> Result<Self> {
        match stored {
            Stored::Path(path) => Ok(Self::Path(path)),
            Stored::Url(url) => Self::url(url),
            Stored::Encoded(text) => Self::base64(&text),
            Stored::Rgb8 { width, height, pixels } => match Self::base64(&pixels)? {
                Self::Encoded(pixels) => Self::rgb(width, height, pixels),
                other => Ok(other),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_reads_both_alphabets_and_line_breaks() {
        let expected = Image::encoded(vec![0xfb, 0xff, 0xfe, 0x01]);
        for text in ["+//+AQ==", "-__-AQ", "+//+\r\nAQ=="] {
            assert_eq!(Image::base64(text).unwrap(), expected, "{text}");
        }
        for text in ["", "====", "!", "+//+A"] {
            assert_eq!(Image::base64(text).unwrap_err().kind(), ErrorKind::Image, "{text}");
        }
    }

    #[test]
    fn data_url_must_be_a_base64_image() {
        let image = Image::data_url("data:image/png;base64,AQID").unwrap();
        assert_eq!(image, Image::encoded(vec![1, 2, 3]));
        for (url, says) in [
            ("http://example.org/a.png", "expected a data URL"),
            ("data:text/plain;base64,AQID", "found `text/plain`"),
            ("data:image/png,AQID", "another encoding"),
            ("data:image/png;base64,%%%", "not valid base64"),
        ] {
            let error = Image::data_url(url).unwrap_err();
            assert!(error.to_string().contains(says), "{url}: {error}");
        }
    }

    #[test]
    fn rgb_checks_its_length() {
        assert!(Image::rgb(2, 1, vec![0; 6]).is_ok());
        let error = Image::rgb(2, 2, vec![0; 6]).unwrap_err();
        assert_eq!(error.to_string(), "RGB image of 2x2 needs 12 bytes, found 6");
        assert!(Image::rgb(0, 2, vec![]).is_err());
        // The product overflows 32 bits; it must not be taken for a small number.
        assert!(Image::rgb(u32::MAX, u32::MAX, vec![0; 3]).is_err());
    }

    #[test]
    fn what_is_stored_is_checked_when_it_is_read() {
        for (json, says) in [
            (r#"{"rgb8": {"width": 2, "height": 2, "pixels": "AQID"}}"#, "needs 12 bytes, found 3"),
            (r#"{"url": "file:///etc/passwd"}"#, "begins with http:// or https://"),
            (r#"{"encoded": "%"}"#, "not valid base64"),
        ] {
            let error = serde_json::from_str::<Image>(json).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
