//! The form of an answer.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Capability, Error, ErrorKind, Result, tool::check_name};

/// The form that the text of an answer must have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OutputFormat {
    /// Any text.
    #[default]
    Text,
    /// One JSON value. Say so in the prompt too: some servers ask for it.
    Json,
    /// One JSON value that a schema allows.
    JsonSchema {
        /// What the value is called: 1 to 64 of `A-Z a-z 0-9 _ -`.
        name: String,
        /// The JSON Schema.
        schema: Value,
    },
}

impl OutputFormat {
    /// Returns the format of values that `schema` allows.
    pub fn json_schema(name: impl Into<String>, schema: Value) -> Self {
        Self::JsonSchema { name: name.into(), schema }
    }

    /// Returns what a model must be able to do for it.
    #[must_use]
    pub fn capability(&self) -> Option<Capability> {
        match self {
            Self::Text => None,
            Self::Json => Some(Capability::JsonMode),
            Self::JsonSchema { .. } => Some(Capability::StructuredOutput),
        }
    }

    /// Checks the name, and that the schema is an object or a boolean, as JSON Schemas are.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] that says what was expected.
    pub fn validate(&self) -> Result<()> {
        let Self::JsonSchema { name, schema } = self else { return Ok(()) };
        check_name("schema", name)?;
        match schema {
            Value::Object(_) | Value::Bool(_) => Ok(()),
            other => Err(Error::new(
                ErrorKind::InvalidRequest,
                format!("schema `{name}`: expected a JSON Schema, found {other}"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_schema_is_an_object_and_has_a_name() {
        assert!(OutputFormat::json_schema("a", json!({"type": "string"})).validate().is_ok());
        let error = OutputFormat::json_schema("a", json!(["string"])).validate().unwrap_err();
        assert_eq!(error.to_string(), "schema `a`: expected a JSON Schema, found [\"string\"]");
        let error = OutputFormat::json_schema("", json!({})).validate().unwrap_err();
        assert!(error.to_string().starts_with("expected a schema name"), "{error}");
    }
}
