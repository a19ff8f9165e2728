//! Lines of a person at a terminal, with history and completion, or of a pipe.

use std::{
    fs,
    io::{self, BufRead, IsTerminal, Read},
    path::PathBuf,
};

use abstractllm::{Error, ErrorKind, embedded};
use rustyline::{
    Config, Editor, Helper, Highlighter, Hinter, Validator,
    completion::{Completer, FilenameCompleter, Pair},
    error::ReadlineError,
    history::FileHistory,
};

use super::command::NAMES;
use crate::failure::Failure;

/// Most lines that are remembered.
const HISTORY: usize = 1000;

/// Longest message that is read from a pipe, in bytes; no model reads more.
const MAX_BYTES: u64 = 16 << 20;

/// Where lines come from.
pub(super) enum Input {
    Terminal { editor: Box<Editor<Help, FileHistory>>, history: Option<PathBuf> },
    Pipe(io::StdinLock<'static>),
}

/// What was read.
pub(super) enum Line {
    Text(String),
    /// Ctrl-C while a line was written.
    Interrupted,
    End,
}

impl Input {
    /// # Errors
    /// If the terminal cannot be used.
    pub(super) fn open() -> Result<Self, Failure> {
        if !io::stdin().is_terminal() {
            return Ok(Self::Pipe(io::stdin().lock()));
        }
        let config = Config::builder()
            .max_history_size(HISTORY)
            .and_then(|config| config.history_ignore_dups(true))
            .map_err(of_terminal)?
            .history_ignore_space(true)
            .build();
        let mut editor = Editor::with_config(config).map_err(of_terminal)?;
        editor.set_helper(Some(Help(FilenameCompleter::new())));
        let history = embedded::cache_dir().ok().map(|folder| folder.join("chat-history"));
        // The first time there is none; one that cannot be read is as good as none.
        if let Some(path) = &history {
            let _ = editor.load_history(path);
        }
        Ok(Self::Terminal { editor: Box::new(editor), history })
    }

    pub(super) fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal { .. })
    }

    /// Reads a message: a line, and the next ones as long as they end with a backslash.
    ///
    /// # Errors
    /// If nothing can be read, or what is read is no text.
    pub(super) fn next(&mut self) -> Result<Line, Failure> {
        let mut message = String::new();
        loop {
            let prompt = if message.is_empty() { "> " } else { "… " };
            let line = match self.line(prompt)? {
                Line::Text(line) => line,
                Line::End if !message.is_empty() => return Ok(Line::Text(message)),
                other => return Ok(other),
            };
            match line.strip_suffix('\\') {
                Some(begun) => {
                    message.push_str(begun);
                    message.push('\n');
                }
                None => {
                    message.push_str(&line);
                    self.remember(&message);
                    return Ok(Line::Text(message));
                }
            }
        }
    }

    fn line(&mut self, prompt: &str) -> Result<Line, Failure> {
        match self {
            Self::Terminal { editor, .. } => match editor.readline(prompt) {
                Ok(line) => Ok(Line::Text(line)),
                Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
                Err(ReadlineError::Eof) => Ok(Line::End),
                Err(error) => Err(of_terminal(error)),
            },
            Self::Pipe(stdin) => piped(stdin).map_err(Failure::Error),
        }
    }

    fn remember(&mut self, message: &str) {
        if let Self::Terminal { editor, .. } = self {
            // Only a full disk or a bad pattern could fail here, and neither is worth a word.
            let _ = editor.add_history_entry(message);
        }
    }

    /// Writes the history, for the next time.
    pub(super) fn end(&mut self) {
        if let Self::Terminal { editor, history: Some(path) } = self {
            // Without it the next conversation has no history, which is no reason for an error.
            if let Some(folder) = path.parent() {
                let _ = fs::create_dir_all(folder);
            }
            let _ = editor.save_history(path);
        }
    }
}

fn piped(stdin: &mut impl BufRead) -> Result<Line, Error> {
    let invalid = |what: &str| Error::new(ErrorKind::InvalidRequest, what);
    let mut bytes = Vec::new();
    stdin
        .take(MAX_BYTES + 1)
        .read_until(b'\n', &mut bytes)
        .map_err(|e| Error::new(ErrorKind::Io, "cannot read from stdin").with_source(e))?;
    if bytes.is_empty() {
        return Ok(Line::End);
    }
    if bytes.len() as u64 > MAX_BYTES {
        return Err(invalid(&format!("a line on stdin has more than {MAX_BYTES} bytes")));
    }
    let text = String::from_utf8(bytes)
        .map_err(|e| invalid("a line on stdin is not UTF-8").with_source(e))?;
    Ok(Line::Text(text.trim_end_matches(['\n', '\r']).to_owned()))
}

fn of_terminal(error: ReadlineError) -> Failure {
    Failure::Error(Error::new(ErrorKind::Io, "cannot use the terminal").with_source(error))
}

/// Completes commands, and paths after those that take one.
#[derive(Helper, Hinter, Highlighter, Validator)]
pub(super) struct Help(FilenameCompleter);

impl Completer for Help {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        at: usize,
        context: &rustyline::Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let begun = &line[..at];
        if ["/image ", "/save ", "/load "].iter().any(|name| begun.starts_with(name)) {
            return self.0.complete(line, at, context);
        }
        let fits = NAMES.iter().filter(|name| begun.starts_with('/') && name.starts_with(begun));
        let pair =
            |name: &&str| Pair { display: name.trim().to_owned(), replacement: (*name).to_owned() };
        Ok((0, fits.map(pair).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_is_read_by_lines() {
        let mut lines = &b"one\r\ntwo\n\nlast"[..];
        let mut next = || match piped(&mut lines).unwrap() {
            Line::Text(text) => Some(text),
            _ => None,
        };
        assert_eq!(next().as_deref(), Some("one"));
        assert_eq!(next().as_deref(), Some("two"));
        assert_eq!(next().as_deref(), Some(""));
        assert_eq!(next().as_deref(), Some("last"));
        assert_eq!(next(), None);
        assert!(piped(&mut &b"\xff\n"[..]).is_err());
    }
}
