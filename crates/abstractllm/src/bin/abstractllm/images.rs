//! Images as they are named on the command line.

use std::{
    ffi::OsStr,
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use abstractllm::{
    Error, ErrorKind, Image, Result,
    vision::{self, ImageInfo, Limits},
};
use serde::Serialize;

/// An image that could be read and has a sound header.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) image: Image,
    pub(crate) info: ImageInfo,
    pub(crate) summary: Summary,
}

/// What is printed of an image or a video.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) source: String,
    pub(crate) format: String,
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// Of a video.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) frames: Option<usize>,
}

/// Reads what `argument` names: a file or a data URL. Its header is checked here, so that nobody
/// waits for a model to load before hearing that a file is not there.
///
/// # Errors
/// [`ErrorKind::Image`] that names the image.
pub(crate) fn open(argument: &OsStr, limits: &Limits) -> Result<Source> {
    let (name, image) = parse(argument)?;
    let fail = |source: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(ErrorKind::Image, format!("image {name}")).with_source(source)
    };
    let info = match &image {
        Image::Path(path) => read(path, limits).and_then(|bytes| probe(&bytes, limits)),
        Image::Encoded(bytes) => probe(bytes, limits),
        _ => Err("expected a file or a data URL".into()),
    }
    .map_err(fail)?;
    let summary = Summary {
        source: name,
        format: info.format.to_string().to_lowercase(),
        width: info.width,
        height: info.height,
        frames: None,
    };
    Ok(Source { image, info, summary })
}

/// Returns the name for messages and the image, which is not read yet.
fn parse(argument: &OsStr) -> Result<(String, Image)> {
    let text = argument.to_string_lossy();
    if text.starts_with("data:") {
        // The whole would fill the screen.
        let name = text.split_once(',').map_or("data URL", |(head, _)| head).to_owned();
        return Ok((name, Image::data_url(&text)?));
    }
    if text.starts_with("http://") || text.starts_with("https://") {
        let message = format!("image {text}: addresses are not fetched; download it first");
        return Err(Error::new(ErrorKind::Image, message));
    }
    Ok((text.into_owned(), Image::Path(PathBuf::from(argument))))
}

pub(crate) type AnyError = Box<dyn std::error::Error + Send + Sync>;

pub(crate) fn read(path: &Path, limits: &Limits) -> Result<Vec<u8>, AnyError> {
    if path.is_dir() {
        return Err("is a directory, not a file".into());
    }
    let mut bytes = Vec::new();
    // One more than allowed, so that the check sees the excess.
    fs::File::open(path)?.take(limits.max_encoded_bytes + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn probe(bytes: &[u8], limits: &Limits) -> Result<ImageInfo, AnyError> {
    limits.check_encoded(bytes.len())?;
    let info = vision::probe(bytes)?;
    limits.check_size(info.size())?;
    Ok(info)
}
