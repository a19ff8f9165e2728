//! The fields of a JSON object, each taken once, so that what is left is what nobody knows.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{ApiError, ApiResult};

/// A JSON object that is being read.
pub(super) struct Fields {
    fields: Map<String, Value>,
    /// Where it stands in the request, with a dot at the end; empty for the whole.
    at: String,
}

impl Fields {
    pub(super) fn new(fields: Map<String, Value>, at: impl Into<String>) -> Self {
        Self { fields, at: at.into() }
    }

    /// Reads `value`, which stands at `at`, as an object.
    pub(super) fn of(value: Value, at: &str) -> ApiResult<Self> {
        match value {
            Value::Object(fields) => Ok(Self::new(fields, format!("{at}."))),
            other => Err(unexpected(at, "an object", &other)),
        }
    }

    /// Returns the whole name of `key`, as errors say it.
    pub(super) fn path(&self, key: &str) -> String {
        format!("{}{key}", self.at)
    }

    /// Takes the field `key`; null is no value.
    pub(super) fn value(&mut self, key: &str) -> Option<Value> {
        self.fields.remove(key).filter(|value| !value.is_null())
    }

    /// Takes the field `key` as a `T`.
    pub(super) fn take<T: DeserializeOwned>(&mut self, key: &str) -> ApiResult<Option<T>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let read = serde_json::from_value(value);
        read.map(Some).map_err(|error| ApiError::field(self.path(key), error.to_string()))
    }

    /// Takes the field `key`, which must be there.
    pub(super) fn need<T: DeserializeOwned>(&mut self, key: &str) -> ApiResult<T> {
        let value = self.take(key)?;
        value.ok_or_else(|| ApiError::field(self.path(key), "missing"))
    }

    /// Returns the names of the fields that were not taken.
    pub(super) fn rest(self) -> Vec<String> {
        self.fields.into_iter().map(|(key, _)| key).collect()
    }
}

/// The field at `at` is not what it should be.
pub(super) fn unexpected(at: &str, expected: &str, found: &Value) -> ApiError {
    let found = match found {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => format!("`{value}`"),
        Value::Number(value) => format!("`{value}`"),
        // A text may be a whole image.
        Value::String(text) if text.len() <= 40 => format!("`{text}`"),
        Value::String(_) => "a long text".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    };
    ApiError::field(at, format!("expected {expected}, found {found}"))
}
