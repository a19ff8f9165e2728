//! Images and videos that are files become bytes, so that a conversation does not change with them.

use std::{fs, io::Read, path::Path};

use llm_core::{Error, ErrorKind, Image, Message, Part, Result, VideoSource};

/// Largest file that is read, in bytes; none that a model takes is larger.
const MAX_BYTES: u64 = 256 << 20;

/// Returns `message` with the bytes of its images and videos.
pub(crate) fn read(mut message: Message) -> Result<Message> {
    for part in &mut message.parts {
        match part {
            Part::Image(image) => read_image(image)?,
            Part::Video(video) => match &mut video.source {
                VideoSource::Path(path) => {
                    video.source = VideoSource::Encoded(file("video", path)?.into());
                }
                VideoSource::Frames { frames, .. } => frames.iter_mut().try_for_each(read_image)?,
                _ => {}
            },
            _ => {}
        }
    }
    Ok(message)
}

fn read_image(image: &mut Image) -> Result<()> {
    if let Image::Path(path) = image {
        *image = Image::encoded(file("image", path)?);
    }
    Ok(())
}

fn file(kind: &str, path: &Path) -> Result<Vec<u8>> {
    let fail =
        |what: String| Error::new(ErrorKind::Image, format!("{kind} {}: {what}", path.display()));
    let mut bytes = Vec::new();
    let read =
        fs::File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes));
    read.map_err(|e| fail("cannot be read".to_owned()).with_source(e))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(fail(format!("expected at most {MAX_BYTES} bytes, found more")));
    }
    Ok(bytes)
}
