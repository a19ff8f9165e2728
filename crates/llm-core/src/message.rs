//! What a user says: messages made of text and images.

use std::{fmt, num::NonZeroU32, path::PathBuf, sync::Arc};

use base64::{Engine as _, engine::general_purpose};

use crate::{Error, ErrorKind, Result};

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions that hold for the whole conversation.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// Returns the name that chat templates use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said, in order.
    pub parts: Vec<Part>,
}

impl Message {
    /// Returns a message of `role` made of `parts`.
    pub fn new(role: Role, parts: impl IntoIterator<Item = Part>) -> Self {
        Self { role, parts: parts.into_iter().collect() }
    }

    /// Returns a system message.
    pub fn system(text: impl Into<String>) -> Self {
        Self::new(Role::System, [Part::Text(text.into())])
    }

    /// Returns a user message made of `parts`: `Message::user(["What is this?".into(), image.into()])`.
    pub fn user(parts: impl IntoIterator<Item = Part>) -> Self {
        Self::new(Role::User, parts)
    }

    /// Returns an assistant message.
    pub fn assistant(text: impl Into<String>) -> Self {
        Self::new(Role::Assistant, [Part::Text(text.into())])
    }

    /// Returns the text parts, joined without a separator.
    #[must_use]
    pub fn text(&self) -> String {
        self.parts.iter().filter_map(Part::as_text).collect()
    }

    /// Iterates over the images of this message, in order.
    pub fn images(&self) -> impl Iterator<Item = &Image> {
        self.parts.iter().filter_map(|part| match part {
            Part::Image(image) => Some(image),
            Part::Text(_) => None,
        })
    }
}

/// A piece of a message.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Part {
    /// Plain text.
    Text(String),
    /// An image.
    Image(Image),
}

impl Part {
    /// Returns the text, unless this is an image.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Image(_) => None,
        }
    }

    /// Returns an image part that names a file; the provider reads it.
    pub fn image_file(path: impl Into<PathBuf>) -> Self {
        Self::Image(Image::Path(path.into()))
    }
}

impl From<&str> for Part {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Part {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Image> for Part {
    fn from(image: Image) -> Self {
        Self::Image(image)
    }
}

/// An image as the caller has it; nothing is decoded here.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub enum Image {
    /// A file that the provider reads.
    Path(PathBuf),
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
        let clean: String = text
            .chars()
            .filter(|c| !c.is_ascii_whitespace())
            .map(|c| match c {
                '-' => '+',
                '_' => '/',
                c => c,
            })
            .collect();
        let bytes =
            general_purpose::STANDARD_NO_PAD.decode(clean.trim_end_matches('=')).map_err(|e| {
                Error::new(ErrorKind::Image, "image is not valid base64").with_source(e)
            })?;
        if bytes.is_empty() {
            return Err(Error::new(ErrorKind::Image, "base64 image is empty"));
        }
        Ok(Self::encoded(bytes))
    }

    /// Returns an image from a data URL: `data:image/png;base64,iVBORw0...`.
    ///
    /// # Errors
    /// [`ErrorKind::Image`] if `url` is not a base64 data URL of an image.
    pub fn data_url(url: &str) -> Result<Self> {
        let fail = |what: String| Error::new(ErrorKind::Image, what);
        let (head, data) = url
            .strip_prefix("data:")
            .and_then(|rest| rest.split_once(','))
            .ok_or_else(|| fail("expected a data URL `data:image/...;base64,...`".to_owned()))?;
        let (media_type, is_base64) = match head.strip_suffix(";base64") {
            Some(media_type) => (media_type, true),
            None => (head, false),
        };
        if !media_type.starts_with("image/") {
            return Err(fail(format!("expected a data URL of an image, found `{media_type}`")));
        }
        if !is_base64 {
            return Err(fail("expected a base64 data URL, found another encoding".to_owned()));
        }
        Self::base64(data)
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

// Derived Debug would print megabytes of pixels.
impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => f.debug_tuple("Path").field(path).finish(),
            Self::Encoded(bytes) => write!(f, "Encoded({} bytes)", bytes.len()),
            Self::Rgb8 { width, height, .. } => write!(f, "Rgb8({width}x{height})"),
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
}
