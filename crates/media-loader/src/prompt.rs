//! `@file` in the middle of a prompt.

use std::path::Path;

use llm_core::{Part, Result};

use crate::{Loader, source::invalid};

/// What ends a sentence rather than a name.
const CLOSING: [char; 9] = ['.', ',', ';', ':', '!', '?', ')', ']', '\''];

impl Loader {
    /// Returns a prompt as parts: each `@name` becomes what it names, in its place.
    ///
    /// A name is anything that [`load`](Self::load) takes. It begins after the start, white space or an
    /// opening bracket, and ends with white space; `@"two words.txt"` has them inside. What ends a sentence
    /// does not belong to it, unless there is a file of that name. `@@` is a plain `@`. A word such as
    /// `@alice`, without dot, slash or star, stays as it is if there is no such file.
    ///
    /// # Errors
    /// As [`load`](Self::load), which `@@` avoids.
    pub fn prompt(&self, text: &str) -> Result<Vec<Part>> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('@') {
            let before = rest[..at].chars().next_back().or_else(|| plain.chars().next_back());
            plain.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('@') {
                plain.push('@');
                rest = after;
                continue;
            }
            let begins = before.is_none_or(|c| c.is_whitespace() || "([{\"'".contains(c));
            let Some((name, length)) = begins.then(|| self.name(rest)).transpose()?.flatten()
            else {
                plain.push('@');
                continue;
            };
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.extend(self.load(name)?);
            rest = &rest[length..];
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(parts)
    }

    /// Returns the name at the start of `text`, if there is one, and the bytes that it takes.
    fn name<'a>(&self, text: &'a str) -> Result<Option<(&'a str, usize)>> {
        if let Some(quoted) = text.strip_prefix('"') {
            let end = quoted.find('"').ok_or_else(|| {
                invalid(format!("expected a closing quote after @\"{}", shortened(quoted)))
            })?;
            return Ok(Some((&quoted[..end], end + 2)));
        }
        let whole = &text[..text.find(char::is_whitespace).unwrap_or(text.len())];
        let short = whole.trim_end_matches(CLOSING);
        let name = if Path::new(whole).exists() { whole } else { short };
        let looks_like_one = name.contains(['.', '/', '*', '\\']) || Path::new(name).is_file();
        Ok((looks_like_one && !name.is_empty()).then_some((name, name.len())))
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}
