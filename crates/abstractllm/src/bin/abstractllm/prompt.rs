//! Where the prompt comes from.

use std::io::{self, IsTerminal, Read};

use abstractllm::{Error, ErrorKind};

use crate::failure::Failure;

/// No model reads more; a mistaken pipe should not fill the memory.
const MAX_BYTES: u64 = 16 << 20;

/// Returns the prompt given, or else what is piped in, without the line break at its end.
pub(crate) fn given_or_piped(given: Option<String>) -> Result<String, Failure> {
    if let Some(prompt) = given {
        return Ok(prompt);
    }
    if io::stdin().is_terminal() {
        let message = "no prompt: give --prompt TEXT, or pipe a text in";
        return Err(Failure::Usage("generate", message.to_owned()));
    }
    read(io::stdin().lock()).map_err(Failure::Error)
}

fn read(source: impl Read) -> Result<String, Error> {
    let invalid = |what: &str| Error::new(ErrorKind::InvalidRequest, what);
    let mut bytes = Vec::new();
    source.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|e| {
        Error::new(ErrorKind::Io, "cannot read the prompt from stdin").with_source(e)
    })?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(invalid(&format!("the prompt on stdin has more than {MAX_BYTES} bytes")));
    }
    let text = String::from_utf8(bytes)
        .map_err(|e| invalid("the prompt on stdin is not UTF-8").with_source(e))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    match text.trim().is_empty() {
        true => Err(invalid("the prompt on stdin is empty; give --prompt TEXT or pipe a text in")),
        false => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_break_at_the_end_is_dropped() {
        assert_eq!(read(&b"two\nlines\n"[..]).unwrap(), "two\nlines");
        assert_eq!(read(&b"x\r\n"[..]).unwrap(), "x");
        assert_eq!(read(&b"x\n\n"[..]).unwrap(), "x\n");
    }

    #[test]
    fn what_is_no_prompt_is_refused() {
        for (bytes, says) in [(&b"\n"[..], "is empty"), (b"", "is empty"), (b"\xff", "not UTF-8")] {
            assert!(read(bytes).unwrap_err().to_string().contains(says));
        }
        let endless = read(io::repeat(b'x')).unwrap_err().to_string();
        assert!(endless.contains("more than 16777216 bytes"), "{endless}");
    }
}
