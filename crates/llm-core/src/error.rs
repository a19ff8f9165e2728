//! The error of every provider, grouped by what the caller can do about it.

use std::{error::Error as StdError, fmt, time::Duration};

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in one line, with a [kind](Error::kind) to match on and a
/// [source](StdError::source) for the details.
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What a caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Change the request: a parameter, message or prompt is not acceptable.
    InvalidRequest,
    /// Change the image: it is missing, broken, too large or of an unknown format.
    Image,
    /// Shorten the prompt or lower `max_tokens`: the model's context is too small.
    ContextOverflow,
    /// Name another model or repair this one: it is missing, incomplete or corrupt.
    Model,
    /// Choose another model or provider: this one lacks a capability.
    Unsupported,
    /// Free memory, lower `max_pixels` or raise the limit.
    OutOfMemory,
    /// Supply a valid key.
    Authentication,
    /// Wait and try again; [`Error::retry_after`] may say how long.
    RateLimited,
    /// Try again later or elsewhere: the backend or server is gone or unreachable.
    Unavailable,
    /// Check the file system: a file could not be read or written.
    Io,
    /// Nothing: the caller cancelled.
    Cancelled,
    /// Report a bug.
    Internal,
}

impl ErrorKind {
    /// Returns the advice that goes with this kind, as an imperative phrase.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::InvalidRequest => "change the request",
            Self::Image => "change the image",
            Self::ContextOverflow => "shorten the prompt or lower max_tokens",
            Self::Model => "name another model or repair this one",
            Self::Unsupported => "choose another model or provider",
            Self::OutOfMemory => "free memory, lower max_pixels or raise the limit",
            Self::Authentication => "supply a valid key",
            Self::RateLimited => "wait and try again",
            Self::Unavailable => "try again later",
            Self::Io => "check the file and its permissions",
            Self::Cancelled => "nothing to do: the request was cancelled",
            Self::Internal => "report a bug",
        }
    }
}

impl Error {
    /// Returns an error of `kind` that says `message`: one line, lower case, no full stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// Returns this error with the error that caused it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Returns what the caller can do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns how long to wait before another try, where the provider said so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.source.as_deref()?.downcast_ref::<RetryAfter>().map(|r| r.0)
    }

    /// Returns this error with the time to wait that the provider named; it becomes the source.
    #[must_use]
    pub fn with_retry_after(self, wait: Duration) -> Self {
        self.with_source(RetryAfter(wait))
    }

    /// Returns the message followed by those of all its sources, separated by `: `.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut next = self.source();
        while let Some(error) = next {
            let more = error.to_string();
            // Wrappers often repeat the text of what they wrap; saying it once is enough.
            if !text.ends_with(&more) {
                text.push_str(": ");
                text.push_str(&more);
            }
            next = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.chain())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

#[derive(Debug)]
struct RetryAfter(Duration);

impl fmt::Display for RetryAfter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "retry after {:.1} s", self.0.as_secs_f64())
    }
}

impl StdError for RetryAfter {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_says_each_thing_once() {
        let io = std::io::Error::new(std::io::ErrorKind::NotFound, "no such file");
        let error =
            Error::new(ErrorKind::Image, "cannot read cat.png: no such file").with_source(io);
        assert_eq!(error.chain(), "cannot read cat.png: no such file");
        let error = Error::new(ErrorKind::Image, "cannot use cat.png").with_source(error);
        assert_eq!(error.chain(), "cannot use cat.png: cannot read cat.png: no such file");
        assert_eq!(error.to_string(), "cannot use cat.png");
    }

    #[test]
    fn retry_after_survives() {
        let error = Error::new(ErrorKind::RateLimited, "slow down")
            .with_retry_after(Duration::from_secs(3));
        assert_eq!(error.retry_after(), Some(Duration::from_secs(3)));
        assert_eq!(Error::new(ErrorKind::RateLimited, "slow down").retry_after(), None);
    }
}
