//! Videos as they are named on the command line.

use std::{ffi::OsStr, path::PathBuf};

use abstractllm::{
    Error, ErrorKind, Result, Video, VideoSource,
    vision::{self, Limits},
};

use crate::{
    args::VideoArgs,
    images::{self, Summary},
};

/// Reads the headers of the videos that `args` names, files or data URLs, so that nobody waits for a model to load
/// before hearing that one is not there.
///
/// # Errors
/// [`ErrorKind::Image`] that names the video; [`ErrorKind::InvalidRequest`] for a number that cannot be used.
pub(crate) fn open(args: &VideoArgs, limits: &Limits) -> Result<Vec<(Video, Summary)>> {
    args.videos.iter().map(|video| one(video, args, limits)).collect()
}

fn one(argument: &OsStr, args: &VideoArgs, limits: &Limits) -> Result<(Video, Summary)> {
    let text = argument.to_string_lossy();
    let (name, video) = match text.split_once(',') {
        Some((head, _)) if head.starts_with("data:") => (head.to_owned(), Video::data_url(&text)?),
        _ => (text.clone().into_owned(), Video::path(PathBuf::from(argument))),
    };
    if text.starts_with("http://") || text.starts_with("https://") {
        let message = format!("video {text}: addresses are not fetched; download it first");
        return Err(Error::new(ErrorKind::Image, message));
    }
    let video = video.with_sampling(args.sampling());
    video.validate()?;
    let probe = |bytes: &[u8]| -> Result<_, images::AnyError> {
        limits.check_encoded(bytes.len())?;
        let info = vision::probe_video(bytes)?;
        limits.check_size(info.size)?;
        Ok(info)
    };
    let info = match &video.source {
        VideoSource::Path(path) => images::read(path, limits).and_then(|bytes| probe(&bytes)),
        VideoSource::Encoded(bytes) => probe(bytes),
        _ => Err("expected a file or a data URL".into()),
    };
    let info = info.map_err(|source| {
        Error::new(ErrorKind::Image, format!("video {name}")).with_source(source)
    })?;
    let summary = Summary {
        source: name,
        format: info.format.to_string().to_lowercase(),
        width: info.size.width,
        height: info.size.height,
        frames: Some(info.frames),
    };
    Ok((video, summary))
}
