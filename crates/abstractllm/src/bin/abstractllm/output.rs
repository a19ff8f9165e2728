//! What is printed of an answer: text, one JSON object, or one JSON object a line.

use std::{
    borrow::Cow,
    io::{self, IsTerminal, Write},
};

use abstractllm::{
    Completion, Error, ErrorKind, FinishReason, Notice, Progress, Stage, Usage, perf::Report,
};
use serde::Serialize;
use serde_json::json;

use crate::{args::AnswerArgs, failure::say, images::Summary};

/// How an answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Text { stream: bool },
    Json,
    JsonLines,
}

impl Style {
    pub(crate) fn of(args: &AnswerArgs) -> Self {
        match (args.json, args.stream) {
            (false, _) => Self::Text { stream: !args.no_stream },
            (true, false) => Self::Json,
            (true, true) => Self::JsonLines,
        }
    }

    /// Prints a step of work, where steps are printed.
    pub(crate) fn progress(self, progress: Progress) -> io::Result<()> {
        if self != Self::JsonLines {
            return Ok(());
        }
        let stage = match progress.stage {
            Stage::Load => "load",
            Stage::Preprocess => "preprocess",
            Stage::Encode => "encode",
            Stage::Prefill => "prefill",
            _ => "other",
        };
        let (done, total) = (progress.done, progress.total);
        line(&json!({"event": "progress", "stage": stage, "done": done, "total": total}))
    }

    /// Prints what was done otherwise than asked, where events are printed.
    pub(crate) fn notice(self, notice: &Notice) -> io::Result<()> {
        match self {
            Self::JsonLines => line(&json!({"event": "notice", "notice": notice})),
            Self::Text { .. } | Self::Json => Ok(()),
        }
    }

    /// Prints a piece of the answer, where pieces are printed.
    pub(crate) fn text(self, piece: &str) -> io::Result<()> {
        match self {
            Self::Text { stream: true } => write_text(piece),
            Self::JsonLines => line(&json!({"event": "text", "text": piece})),
            Self::Text { stream: false } | Self::Json => Ok(()),
        }
    }

    /// Prints the whole answer, or what is left to print of it.
    pub(crate) fn end(self, answer: &Answer<'_>) -> io::Result<()> {
        match self {
            Self::Text { stream } => {
                if !stream {
                    write_text(answer.text)?;
                }
                // What was streamed must not run into the shell's prompt.
                match answer.text.is_empty() && answer.error.is_some() {
                    true => Ok(()),
                    false => write_text("\n"),
                }
            }
            Self::Json => pretty(answer),
            Self::JsonLines => {
                let event = if answer.error.is_some() { "error" } else { "end" };
                tagged_line(event, answer)
            }
        }
    }

    /// Reports what was measured, where it is not in the answer.
    pub(crate) fn report(self, report: &Report) {
        if let Self::Text { .. } = self {
            let (_, columns) = console::Term::stderr().size();
            say(report.to_terminal(columns.into()).trim_end());
        }
    }
}

/// An answer as it is printed in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Answer<'a> {
    pub(crate) text: &'a str,
    /// Absent if the answer was cut short.
    pub(crate) finish_reason: Option<FinishReason>,
    pub(crate) usage: Option<Usage>,
    pub(crate) times: Times,
    pub(crate) model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) adapter: Option<&'a str>,
    pub(crate) images: &'a [Summary],
    /// What was done otherwise than asked.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(crate) notices: &'a [Notice],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) monitor: Option<&'a Report>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<Problem>,
}

/// All in seconds.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Times {
    pub(crate) load: f64,
    pub(crate) first_token: Option<f64>,
    pub(crate) decode: Option<f64>,
    /// From the request to the end of the answer, without loading.
    pub(crate) answer: f64,
}

impl Times {
    pub(crate) fn new(load: f64, answer: f64, completion: Option<&Completion>) -> Self {
        let seconds = |time: Option<std::time::Duration>| time.map(|t| t.as_secs_f64());
        Self {
            load,
            first_token: seconds(completion.and_then(|c| c.time_to_first_token)),
            decode: seconds(completion.and_then(|c| c.decode_time)),
            answer,
        }
    }
}

/// Why an answer was cut short.
#[derive(Debug, Serialize)]
pub(crate) struct Problem {
    pub(crate) kind: String,
    pub(crate) message: String,
}

impl Problem {
    /// The kind is named as in the JSON of everything else: `context_overflow`.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let mut name = String::new();
        for c in format!("{kind:?}").chars() {
            if c.is_ascii_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.push(c.to_ascii_lowercase());
        }
        Self { kind: name, message: message.into() }
    }
}

impl From<&Error> for Problem {
    fn from(error: &Error) -> Self {
        Self::new(error.kind(), error.chain())
    }
}

#[derive(Serialize)]
struct Tagged<'a> {
    event: &'static str,
    #[serde(flatten)]
    answer: &'a Answer<'a>,
}

/// Prints `answer` as JSON in one line, as the event `event`.
pub(crate) fn tagged_line(event: &'static str, answer: &Answer<'_>) -> io::Result<()> {
    line(&Tagged { event, answer })
}

/// Prints `value` as indented JSON.
pub(crate) fn pretty(value: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    out.flush()
}

/// Prints `value` as JSON in one line.
pub(crate) fn line(value: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    writeln!(out)?;
    out.flush()
}

/// Prints `text`; on a terminal without what a terminal would obey.
pub(crate) fn write_text(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let text = if out.is_terminal() { printable(text) } else { Cow::Borrowed(text) };
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// A model may repeat what it read in an image; a terminal must not take that as commands.
fn printable(text: &str) -> Cow<'_, str> {
    let is_command = |c: char| c.is_control() && c != '\n' && c != '\t';
    match text.contains(is_command) {
        true => Cow::Owned(text.replace(is_command, "\u{fffd}")),
        false => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_named_in_snake_case() {
        assert_eq!(Problem::new(ErrorKind::ContextOverflow, "x").kind, "context_overflow");
        assert_eq!(Problem::new(ErrorKind::Io, "x").kind, "io");
    }

    #[test]
    fn terminals_get_no_commands() {
        assert_eq!(printable("a\tb\nc é"), "a\tb\nc é");
        assert_eq!(printable("\u{1b}[2Jx\r\u{9b}"), "\u{fffd}[2Jx\u{fffd}\u{fffd}");
    }
}
