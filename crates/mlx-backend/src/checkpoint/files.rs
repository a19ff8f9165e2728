//! Reading the small files of a checkpoint, with a bound on their size.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use serde_json::Value;

use crate::{Error, Result};

/// No configuration file comes near this; the index of a model of thousands of tensors is 1 MB.
const MAX_TEXT_BYTES: u64 = 64 << 20;

/// Reads `path`, which must be a regular file of at most `max_bytes`.
///
/// # Errors
/// [`Error::Io`] if it cannot be read, [`Error::Config`] if it is larger.
pub(crate) fn read_bytes(path: &Path, max_bytes: u64) -> Result<Vec<u8>> {
    let fail = |source| Error::Io { action: "read", path: path.to_owned(), source };
    // Asked before it is opened: opening a named pipe would wait for a writer.
    let metadata = path.metadata().map_err(fail)?;
    if !metadata.is_file() {
        return Err(fail(io::Error::other("it is not a regular file")));
    }
    let mut bytes = Vec::new();
    // The bound holds for what is read, not for what the file system says about the size.
    File::open(path)
        .and_then(|file| file.take(max_bytes + 1).read_to_end(&mut bytes))
        .map_err(fail)?;
    if bytes.len() as u64 > max_bytes {
        let reason = format!("expected at most {max_bytes} bytes, found {} or more", bytes.len());
        return Err(Error::Config { path: path.to_owned(), reason });
    }
    Ok(bytes)
}

/// Reads the text file `path`; `None` if there is none.
///
/// # Errors
/// [`Error::Io`] if it cannot be read, [`Error::Config`] if it is not UTF-8 or too large.
pub(crate) fn read_text_if_any(path: &Path) -> Result<Option<String>> {
    let bytes = match read_bytes(path, MAX_TEXT_BYTES) {
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(None);
        }
        other => other?,
    };
    String::from_utf8(bytes).map(Some).map_err(|e| Error::Config {
        path: path.to_owned(),
        reason: format!("not valid UTF-8: {}", e.utf8_error()),
    })
}

/// Reads the JSON file `path`; `None` if there is none.
///
/// # Errors
/// As [`read_text_if_any`], and [`Error::Config`] if it is not JSON.
pub(crate) fn read_json_if_any(path: &Path) -> Result<Option<Value>> {
    let Some(text) = read_text_if_any(path)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|e| Error::Config {
        path: path.to_owned(),
        reason: format!("not valid JSON: {e}"),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_above_the_bound_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "12345").unwrap();
        assert_eq!(read_bytes(&path, 5).unwrap(), b"12345");
        let text = read_bytes(&path, 4).unwrap_err().to_string();
        assert!(text.contains("at most 4 bytes"), "{text}");
    }

    #[test]
    fn a_missing_file_is_none_and_a_folder_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_text_if_any(&dir.path().join("none.json")).unwrap(), None);
        let error = read_json_if_any(dir.path()).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
    }
}
