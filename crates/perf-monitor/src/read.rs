//! Reading a report back, and what can be wrong with a file that is said to hold one.

use std::{error, fmt};

use serde_json::Value;

use crate::Report;

/// Why a text is no report.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReadError {
    /// It has no characters but white space.
    Empty,
    /// It is not JSON; the source says where it stops being JSON.
    NotJson(serde_json::Error),
    /// It is JSON, and not a report: no object with a whole number `schema_version`.
    NotReport,
    /// It is a report in a layout that this version of the crate does not know.
    Version {
        /// The `schema_version` found; the newest known is [`Report::SCHEMA_VERSION`].
        found: u64,
    },
    /// It claims a known layout and does not have it; the source names the field.
    Layout(serde_json::Error),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("expected a performance report, found nothing"),
            Self::NotJson(_) => f.write_str("expected a performance report, found no JSON"),
            Self::NotReport => {
                f.write_str("expected a performance report, found JSON without `schema_version`")
            }
            Self::Version { found } => write!(
                f,
                "expected a performance report of schema_version 1 to {}, found {found}",
                Report::SCHEMA_VERSION
            ),
            Self::Layout(_) => f.write_str("the performance report is damaged"),
        }
    }
}

impl error::Error for ReadError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::NotJson(source) | Self::Layout(source) => Some(source),
            Self::Empty | Self::NotReport | Self::Version { .. } => None,
        }
    }
}

impl Report {
    /// Reads a report from JSON, of this layout or an older one.
    ///
    /// Another JSON object that holds a report in the field `monitor` will do as well: that is what the program prints
    /// with `--json --monitor`.
    ///
    /// # Errors
    /// [`ReadError`] if the text is not JSON, no report, of a newer layout, or has a field that is missing or of the
    /// wrong type.
    pub fn from_json(text: &str) -> Result<Self, ReadError> {
        if text.trim().is_empty() {
            return Err(ReadError::Empty);
        }
        let mut value: Value = serde_json::from_str(text).map_err(ReadError::NotJson)?;
        if let Some(inner) = value.get_mut("monitor") {
            value = inner.take();
        }
        // The version first: a newer layout may lack anything else.
        let found =
            value.get("schema_version").and_then(Value::as_u64).ok_or(ReadError::NotReport)?;
        if !(1..=u64::from(Self::SCHEMA_VERSION)).contains(&found) {
            return Err(ReadError::Version { found });
        }
        serde_json::from_value(value).map_err(ReadError::Layout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_by_itself_and_within_an_answer() {
        let report = crate::render::testing::sample();
        let json = report.to_json();
        assert_eq!(Report::from_json(&json).unwrap(), report);
        let answer = format!(r#"{{"text": "A cat.", "monitor": {json}}}"#);
        assert_eq!(Report::from_json(&answer).unwrap(), report);
    }

    #[test]
    fn other_texts_are_told_apart() {
        let message = |text: &str| Report::from_json(text).unwrap_err().to_string();
        assert!(matches!(Report::from_json(" \n"), Err(ReadError::Empty)));
        assert!(matches!(Report::from_json("\u{7f}ELF"), Err(ReadError::NotJson(_))));
        for other in ["[]", "7", "{}", r#"{"text": "A cat."}"#, r#"{"schema_version": "1"}"#] {
            assert!(matches!(Report::from_json(other), Err(ReadError::NotReport)), "{other}");
        }
        assert!(message(r#"{"schema_version": 2, "spans": []}"#).contains("1 to 1, found 2"));
        assert!(message(r#"{"schema_version": 0}"#).contains("found 0"));
        let damaged = Report::from_json(r#"{"schema_version": 1, "operations": []}"#).unwrap_err();
        let source = error::Error::source(&damaged).expect("a damaged report has a cause");
        assert!(source.to_string().contains("summary"), "{source}");
    }
}
