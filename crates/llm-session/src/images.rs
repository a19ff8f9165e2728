//! Images that are files become bytes, so that a conversation does not change with them.

use std::{fs, io::Read, path::Path};

use llm_core::{Error, ErrorKind, Image, Message, Part, Result};

/// Largest file that is read, in bytes; no image that a model takes is larger.
const MAX_BYTES: u64 = 256 << 20;

/// Returns `message` with the bytes of its images.
pub(crate) fn read(mut message: Message) -> Result<Message> {
    for part in &mut message.parts {
        if let Part::Image(Image::Path(path)) = part {
            *part = Part::Image(file(path)?);
        }
    }
    Ok(message)
}

fn file(path: &Path) -> Result<Image> {
    let fail =
        |what: String| Error::new(ErrorKind::Image, format!("image {}: {what}", path.display()));
    let mut bytes = Vec::new();
    let read =
        fs::File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes));
    read.map_err(|e| fail("cannot be read".to_owned()).with_source(e))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(fail(format!("expected at most {MAX_BYTES} bytes, found more")));
    }
    Ok(Image::encoded(bytes))
}
