use crate::decode::Format;
use crate::video::VideoFormat;

/// What went wrong between the bytes of an image and the input of a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A processor configuration holds a value that cannot be used.
    #[error("processor configuration, `{field}`: {reason}")]
    Config {
        /// The key, as a path from the root of the file.
        field: String,
        /// What was expected and what was found.
        reason: String,
    },
    /// The bytes claim to be of `format` but break its rules, or end too early.
    #[error("cannot decode {format}")]
    Decode {
        /// The format the content showed.
        format: Format,
        /// The decoder's own words.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The bytes claim to be a video of `format` but break its rules, or end too early.
    #[error("cannot decode {format} video")]
    Video {
        /// The format the content showed.
        format: VideoFormat,
        /// The decoder's own words.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The bytes are no image or video, or one of a kind that this crate does not read.
    #[error("unsupported image: found {found}; {advice}")]
    Unsupported {
        /// What the content was recognised as.
        found: String,
        /// What the caller can do about it.
        advice: &'static str,
    },
    /// A limit was exceeded; nothing of that size was allocated.
    #[error("{what} is {found}, the limit is {limit}")]
    Limit {
        /// The measured quantity with its unit.
        what: &'static str,
        /// The most that is allowed.
        limit: u64,
        /// What the input asks for.
        found: u64,
    },
    /// A buffer or an image has other dimensions than the operation needs.
    #[error("expected {expected}, found {found}")]
    Shape {
        /// The shape that was needed.
        expected: String,
        /// The shape that was given.
        found: String,
    },
}

impl Error {
    pub(crate) fn video(
        format: VideoFormat,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Video { format, source: source.into() }
    }

    pub(crate) fn decode(
        format: Format,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Decode { format, source: source.into() }
    }

    pub(crate) fn config(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Config { field: field.into(), reason: reason.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_one_line_and_leave_the_source_to_source() {
        let error = Error::decode(Format::Png, "bad filter");
        assert_eq!(error.to_string(), "cannot decode PNG");
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "bad filter");
        let error = Error::Limit { what: "pixels", limit: 10, found: 11 };
        assert_eq!(error.to_string(), "pixels is 11, the limit is 10");
    }
}
