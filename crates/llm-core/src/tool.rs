//! Functions of the caller that a model may ask for.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, ErrorKind, Result};

/// A function that the model may ask the caller to run; nothing is run by a provider.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// What the model calls it: 1 to 64 of `A-Z a-z 0-9 _ -`.
    pub name: String,
    /// What it does and when to use it, for the model to read.
    #[serde(default)]
    pub description: String,
    /// The JSON Schema of its arguments: an object schema, `{"type": "object", "properties": ...}`.
    pub parameters: Value,
}

impl Tool {
    /// Returns a tool whose arguments follow the JSON Schema `parameters`.
    pub fn new(name: impl Into<String>, description: impl Into<String>, parameters: Value) -> Self {
        Self { name: name.into(), description: description.into(), parameters }
    }

    /// Checks the name and that the schema is one of an object.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] that says what was expected.
    pub fn validate(&self) -> Result<()> {
        check_name("tool", &self.name)?;
        match self.parameters.get("type").and_then(Value::as_str) {
            Some("object") => Ok(()),
            _ => Err(invalid(format!(
                "tool `{}`: expected parameters to be a JSON Schema with \"type\": \"object\"",
                self.name
            ))),
        }
    }
}

/// Which tools the model may or must call; read from `auto`, `none`, `required` or a tool's name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ToolChoice {
    /// The model decides.
    #[default]
    Auto,
    /// No tool is called.
    None,
    /// At least one tool is called.
    Required,
    /// The tool of this name is called.
    Named(String),
}

impl FromStr for ToolChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::None),
            "required" => Ok(Self::Required),
            name => check_name("tool", name).map(|()| Self::Named(name.to_owned())),
        }
    }
}

/// A model's wish to have a tool run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// What the result refers to; unique among the calls of one message.
    pub id: String,
    /// The name of the tool.
    pub name: String,
    /// The arguments: an object, or the text that the model wrote if that is no JSON.
    pub arguments: Value,
}

impl ToolCall {
    /// Returns a call of the tool `name`.
    pub fn new(id: impl Into<String>, name: impl Into<String>, arguments: Value) -> Self {
        Self { id: id.into(), name: name.into(), arguments }
    }

    /// Returns a call whose arguments are `text`, which a model wrote: the JSON value of it, or the
    /// text itself if it is none. An empty text stands for no arguments.
    pub fn from_text(id: impl Into<String>, name: impl Into<String>, text: &str) -> Self {
        let arguments = match text.trim() {
            "" => Value::Object(serde_json::Map::new()),
            text => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())),
        };
        Self::new(id, name, arguments)
    }

    /// Returns the arguments as the text of a JSON value, or as the model wrote them.
    #[must_use]
    pub fn arguments_text(&self) -> String {
        match &self.arguments {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }
}

/// What a tool returned, for the model to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolResult {
    /// The [`id`](ToolCall::id) of the call that this answers.
    pub call_id: String,
    /// What it returned, or what went wrong.
    pub content: String,
    /// Whether the tool failed.
    #[serde(default)]
    pub is_error: bool,
}

impl ToolResult {
    /// Returns the result of a tool that worked.
    pub fn new(call_id: impl Into<String>, content: impl Into<String>) -> Self {
        Self { call_id: call_id.into(), content: content.into(), is_error: false }
    }

    /// Returns the result of a tool that failed; `content` says why.
    pub fn error(call_id: impl Into<String>, content: impl Into<String>) -> Self {
        Self { is_error: true, ..Self::new(call_id, content) }
    }
}

/// Checks a name that goes to a model: 1 to 64 of `A-Z a-z 0-9 _ -`, what all providers take.
pub(crate) fn check_name(what: &str, name: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    match (1..=64).contains(&name.len()) && name.chars().all(good) {
        true => Ok(()),
        false => Err(invalid(format!(
            "expected a {what} name of 1 to 64 letters, digits, `_` or `-`, found `{name}`"
        ))),
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidRequest, message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_and_schemas_are_checked() {
        let tool = |name: &str, parameters| Tool::new(name, "", parameters).validate();
        assert!(tool("get_weather-2", json!({"type": "object"})).is_ok());
        for name in ["", "get weather", "wetter-für", &"x".repeat(65)] {
            let error = tool(name, json!({"type": "object"})).unwrap_err();
            assert!(error.to_string().contains(&format!("found `{name}`")), "{error}");
        }
        for parameters in [json!({}), json!("object"), json!({"type": "array"})] {
            let error = tool("a", parameters).unwrap_err();
            assert!(error.to_string().contains("\"type\": \"object\""), "{error}");
        }
    }

    #[test]
    fn arguments_keep_what_the_model_wrote() {
        let call = ToolCall::from_text("1", "f", r#"{"a": [1, 2]}"#);
        assert_eq!(call.arguments, json!({"a": [1, 2]}));
        assert_eq!(ToolCall::from_text("1", "f", "").arguments, json!({}));
        let broken = ToolCall::from_text("1", "f", r#"{"a": "#);
        assert_eq!(broken.arguments_text(), r#"{"a":"#);
    }

    #[test]
    fn a_choice_has_a_text_form() {
        for (text, choice) in [
            ("auto", ToolChoice::Auto),
            ("none", ToolChoice::None),
            ("required", ToolChoice::Required),
            ("look_up", ToolChoice::Named("look_up".into())),
        ] {
            assert_eq!(text.parse::<ToolChoice>().unwrap(), choice);
        }
        assert!("look up".parse::<ToolChoice>().is_err());
    }
}
