//! What bytes are.

use llm_core::{Error, ErrorKind, Part, Result};

/// What is told of the first bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Image,
    Text,
}

/// How many bytes tell an image.
pub(crate) const HEAD: usize = 16;

impl Kind {
    /// Returns whether `head`, the first bytes of a file, are those of an image.
    pub(crate) fn of(head: &[u8]) -> Self {
        match head {
            [0x89, b'P', b'N', b'G', ..]
            | [0xff, 0xd8, 0xff, ..]
            | [b'G', b'I', b'F', b'8', ..]
            | [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..]
            | [b'B', b'M', _, _, _, _, 0, 0, 0, 0, ..]
            // HEIC and AVIF: providers say what they think of them.
            | [0, 0, 0, _, b'f', b't', b'y', b'p', ..] => Self::Image,
            _ => Self::Text,
        }
    }
}

/// Returns a text with its name, fenced so that nothing in it ends it.
///
/// # Errors
/// [`ErrorKind::InvalidRequest`] if it is no text in UTF-8.
pub(crate) fn text_part(name: &str, bytes: Vec<u8>) -> Result<Part> {
    let text = String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'));
    let text = text.ok_or_else(|| {
        let message = format!("{name}: expected an image or a text in UTF-8, found something else");
        Error::new(ErrorKind::InvalidRequest, message)
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let fence = "`".repeat(longest_run(text).max(2) + 1);
    let break_ = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    let last = name.rsplit(['/', '\\']).next().unwrap_or(name);
    let language = last.rsplit_once('.').map_or("", |(_, extension)| extension);
    Ok(Part::Text(format!("\n{last}:\n{fence}{language}\n{text}{break_}{fence}\n")))
}

fn longest_run(text: &str) -> usize {
    text.split(|c| c != '`').map(str::len).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_fenced_with_their_names() {
        let part = text_part("data/a.csv", b"\xef\xbb\xbfx,y\n1,2".to_vec()).unwrap();
        assert_eq!(part, Part::from("\na.csv:\n```csv\nx,y\n1,2\n```\n"));
        let part = text_part("a.md", b"```\ncode\n```\n".to_vec()).unwrap();
        assert_eq!(part, Part::from("\na.md:\n````md\n```\ncode\n```\n````\n"));
    }

    #[test]
    fn what_is_neither_is_named() {
        for bytes in [&b"\xff\xfe"[..], b"a\0b"] {
            let error = text_part("a.bin", bytes.to_vec()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidRequest);
            assert!(error.to_string().starts_with("a.bin: expected an image or a text"), "{error}");
        }
    }
}
