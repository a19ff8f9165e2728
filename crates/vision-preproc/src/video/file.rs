//! Video files: what their headers say, and their frames one after the other.

use std::fmt;

use super::{gif, mp4, webp};
use crate::{Error, Limits, RgbView, Size};

/// A format of moving pictures that this crate decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum VideoFormat {
    /// GIF.
    Gif,
    /// WebP, lossy and lossless.
    WebP,
    /// MP4 and `QuickTime` files with H.264 of 8 bits, 4:2:0, without interlacing; with the feature `h264`.
    Mp4,
}

impl fmt::Display for VideoFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gif => "GIF",
            Self::WebP => "WebP",
            Self::Mp4 => "MP4",
        })
    }
}

/// What the header of a video file says.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct VideoInfo {
    /// The format, recognised from the content.
    pub format: VideoFormat,
    /// Width and height of an upright frame.
    pub size: Size,
    /// The number of frames, 1 for a still image.
    pub frames: usize,
    /// Frames in a second, on average.
    pub fps: f64,
    /// What a decoder holds at most, in bytes, besides the file and the frame that it hands out.
    pub decoder_bytes: u64,
}

/// Frames in a second if a file says nothing.
const USUAL_FPS: f64 = 10.0;

impl VideoInfo {
    /// Of `frames` that last `ticks` together, of which there are `rate` in a second.
    pub(super) fn new(
        format: VideoFormat,
        size: Size,
        frames: usize,
        (ticks, rate): (u64, u64),
        decoder_bytes: u64,
    ) -> Self {
        let fps = match ticks {
            0 => USUAL_FPS,
            ticks => frames as f64 * rate as f64 / ticks as f64,
        };
        let fps = if fps > 0.0 { fps } else { USUAL_FPS };
        Self { format, size, frames, fps, decoder_bytes }
    }
}

/// What is read, for errors.
#[cfg(feature = "h264")]
const READ: &str =
    "pass MP4 or QuickTime with H.264, an animated GIF or WebP, or its frames as images";
#[cfg(not(feature = "h264"))]
const READ: &str = "pass an animated GIF or WebP, or its frames as images; MP4 with H.264 needs the feature `h264`";

/// Recognises the format of `bytes`, a video or a moving image.
fn format(bytes: &[u8]) -> Result<VideoFormat, Error> {
    let unsupported = |found: &str| Error::Unsupported { found: found.into(), advice: READ };
    match bytes {
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Ok(VideoFormat::Gif),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Ok(VideoFormat::WebP),
        [_, _, _, _, b'f', b't', b'y', b'p', brand @ ..] => match brand.get(..4) {
            Some(b"avif" | b"avis" | b"heic" | b"heix" | b"heim" | b"heis" | b"mif1" | b"msf1") => {
                Err(unsupported("HEIF or AVIF"))
            }
            _ => Ok(VideoFormat::Mp4),
        },
        // Old QuickTime files have no `ftyp`.
        [_, _, _, _, b'm', b'o', b'o', b'v', ..] | [_, _, _, _, b'm', b'd', b'a', b't', ..] => {
            Ok(VideoFormat::Mp4)
        }
        [0x1a, b'E', 0xdf, 0xa3, ..] => Err(unsupported("Matroska or WebM")),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'A', b'V', b'I', ..] => Err(unsupported("AVI")),
        [0x89, b'P', b'N', b'G', ..] => Err(unsupported("PNG or APNG")),
        [0xff, 0xd8, 0xff, ..] => Err(unsupported("JPEG")),
        [0x47, ..] if bytes.get(188) == Some(&0x47) => Err(unsupported("MPEG transport stream")),
        [0, 0, 1, 0xba | 0xb3, ..] => Err(unsupported("MPEG program stream")),
        [b'O', b'g', b'g', b'S', ..] => Err(unsupported("Ogg")),
        [b'F', b'L', b'V', ..] => Err(unsupported("Flash video")),
        [] => Err(unsupported("no bytes at all")),
        _ => Err(unsupported("neither a known video nor a moving image")),
    }
}

/// Reads the number, size and rate of the frames of a video file; no frame is decoded.
///
/// # Errors
/// [`Error::Unsupported`] if the content is of no format that this crate reads, or of one that this build does not;
/// [`Error::Video`] if it is broken or cut off.
pub fn probe_video(bytes: &[u8]) -> Result<VideoInfo, Error> {
    let format = format(bytes)?;
    let info = match format {
        VideoFormat::Gif => gif::probe(bytes),
        VideoFormat::WebP => webp::probe(bytes),
        VideoFormat::Mp4 => mp4::probe(bytes),
    };
    let info = info.map_err(|reason| reason.of(format))?;
    if info.frames == 0 || info.size.pixels() == 0 {
        return Err(Error::video(format, "the file holds no frame"));
    }
    Ok(info)
}

/// Decodes a video file and hands the frames with `indices`, which rise, to `take`; for each frame that is decoded on
/// the way it is called with `None`, so that a caller can give up.
///
/// Frames of GIF and WebP are as Pillow 13.0.0 composes them, and H.264 is bit-equal to other decoders; its colours
/// are those of BT.601 with 16 to 235 for black to white, whatever the file says.
///
/// # Errors
/// What `take` returns; otherwise [`Error::Limit`] if the bytes or the size exceed `limits`, before anything of that
/// size is allocated, [`Error::Shape`] for an index that does not rise or that no frame has, and as for
/// [`probe_video`].
pub fn decode_video<E: From<Error>>(
    bytes: &[u8],
    limits: &Limits,
    indices: &[usize],
    mut take: impl FnMut(Option<RgbView<'_>>) -> Result<(), E>,
) -> Result<(), E> {
    limits.check_encoded(bytes.len())?;
    let info = probe_video(bytes)?;
    limits.check_size(info.size)?;
    let rises = indices.windows(2).all(|pair| pair[0] < pair[1]);
    if !rises || indices.last().is_some_and(|&last| last >= info.frames) {
        let expected = format!("rising indices below {}", info.frames);
        return Err(Error::Shape { expected, found: format!("{indices:?}") }.into());
    }
    let mut given = None;
    let mut take = |frame: Option<RgbView<'_>>| {
        take(frame).map_err(|error| {
            given = Some(error);
            Stop::Given
        })
    };
    let decoded = match info.format {
        VideoFormat::Gif => gif::decode(bytes, indices, &mut take),
        VideoFormat::WebP => webp::decode(bytes, indices, &mut take),
        VideoFormat::Mp4 => mp4::decode(bytes, info.size, indices, &mut take),
    };
    match decoded {
        Ok(()) => Ok(()),
        Err(stop) => Err(given.unwrap_or_else(|| stop.of(info.format).into())),
    }
}

/// Who takes frames.
pub(super) type Take<'a> = &'a mut dyn FnMut(Option<RgbView<'_>>) -> Result<(), Stop>;

/// Why decoding ended early.
#[derive(Debug)]
pub(super) enum Stop {
    /// The caller said so.
    Given,
    Broken(Box<dyn std::error::Error + Send + Sync>),
    Unsupported(String),
}

impl Stop {
    fn of(self, format: VideoFormat) -> Error {
        match self {
            Self::Given => Error::video(format, "it was given up"),
            Self::Broken(reason) => Error::video(format, reason),
            Self::Unsupported(found) => Error::Unsupported { found, advice: READ },
        }
    }
}

impl<T: Into<Box<dyn std::error::Error + Send + Sync>>> From<T> for Stop {
    fn from(reason: T) -> Self {
        Self::Broken(reason.into())
    }
}
