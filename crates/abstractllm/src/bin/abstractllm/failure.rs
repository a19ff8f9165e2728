//! How the program ends when something goes wrong.

use std::{
    io::{self, Write},
    panic,
};

use abstractllm::{Error, ErrorKind};
use clap::CommandFactory;

use crate::args::Cli;

const ISSUES: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/issues");

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It could not; exit code 1.
    Error(Error),
    /// This command was asked in the wrong way; exit code 2.
    Usage(&'static str, String),
    /// It was told already; exit code 1.
    Reported,
    /// Ctrl-C; exit code 130.
    Interrupted,
    /// Nobody reads stdout any more, which is no failure of ours; exit code 0.
    ReaderGone,
}

impl Failure {
    /// Says what went wrong on stderr and returns the exit code.
    pub(crate) fn report(self) -> i32 {
        match self {
            Self::Error(error) => {
                say(&format!("error: {}", error.chain()));
                if let Some(hint) = hint(error.kind()) {
                    say(&format!("hint: {hint}"));
                }
                1
            }
            Self::Usage(name, message) => {
                let mut cli = Cli::command();
                // Fills in the usage lines of the commands.
                cli.build();
                let command = cli.find_subcommand_mut(name).expect("the command was just run");
                let error = command.error(clap::error::ErrorKind::MissingRequiredArgument, message);
                say(error.render().to_string().trim_end());
                2
            }
            Self::Reported => 1,
            Self::Interrupted => {
                say("interrupted");
                130
            }
            Self::ReaderGone => 0,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<abstractllm::mlx::Error> for Failure {
    fn from(error: abstractllm::mlx::Error) -> Self {
        Self::Error(error.into())
    }
}

/// An error while writing to stdout.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::ReaderGone,
            _ => {
                Self::Error(Error::new(ErrorKind::Io, "cannot write to stdout").with_source(error))
            }
        }
    }
}

/// Writes a line to stderr. If nobody reads that either, there is nobody to tell.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// A panic becomes a short message that asks for a report.
pub(crate) fn install_panic_hook() {
    panic::set_hook(Box::new(|info| {
        let what = info.payload_as_str().unwrap_or("no message");
        let place = info.location().map(|at| format!(" ({}:{})", at.file(), at.line()));
        say(&format!("error: internal error: {what}{}", place.unwrap_or_default()));
        say(&format!("hint: this is a bug; please report it with the command you ran: {ISSUES}"));
    }));
}

/// Returns the advice for `kind`, unless the message alone says what to do.
fn hint(kind: ErrorKind) -> Option<String> {
    match kind {
        ErrorKind::InvalidRequest | ErrorKind::Image | ErrorKind::Cancelled => None,
        ErrorKind::Internal => Some(format!("{}: {ISSUES}", kind.advice())),
        kind => Some(kind.advice().to_owned()),
    }
}
