//! Tools, and the form of an answer, as clients write them.

use llm_core::{OutputFormat, Tool, ToolCall, ToolChoice};
use serde_json::{Value, json};

use super::fields::{Fields, unexpected};
use crate::error::{ApiError, ApiResult};

/// Reads `tools`: `[{"type": "function", "function": {name, description, parameters}}]`.
pub(super) fn tools(fields: &mut Fields) -> ApiResult<Vec<Tool>> {
    let path = fields.path("tools");
    let written: Vec<Value> = fields.take("tools")?.unwrap_or_default();
    let read = |(i, value)| {
        let mut function = function(value, &format!("{path}[{i}]"))?;
        let tool = Tool {
            name: function.need("name")?,
            description: function.take("description")?.unwrap_or_default(),
            // Without a schema a function has no arguments.
            parameters: function
                .value("parameters")
                .unwrap_or_else(|| json!({"type": "object", "properties": {}})),
        };
        tool.validate().map_err(|e| ApiError::from(e).of_field(&format!("{path}[{i}]")))?;
        Ok(tool)
    };
    written.into_iter().enumerate().map(read).collect()
}

/// Reads `tool_choice`: a word, or `{"type": "function", "function": {name}}`.
pub(super) fn choice(fields: &mut Fields) -> ApiResult<ToolChoice> {
    let path = fields.path("tool_choice");
    match fields.value("tool_choice") {
        None => Ok(ToolChoice::default()),
        Some(Value::String(word)) => match word.as_str() {
            "auto" => Ok(ToolChoice::Auto),
            "none" => Ok(ToolChoice::None),
            "required" => Ok(ToolChoice::Required),
            _ => Err(unexpected(&path, "auto, none, required or a function", &word.into())),
        },
        Some(value) => Ok(ToolChoice::Named(function(value, &path)?.need("name")?)),
    }
}

/// Reads `response_format`.
pub(super) fn output(fields: &mut Fields) -> ApiResult<OutputFormat> {
    let path = fields.path("response_format");
    let Some(value) = fields.value("response_format") else { return Ok(OutputFormat::Text) };
    let mut format = Fields::of(value, &path)?;
    let kind: String = format.need("type")?;
    let output = match kind.as_str() {
        "text" => OutputFormat::Text,
        "json_object" => OutputFormat::Json,
        "json_schema" => {
            let path = format.path("json_schema");
            let mut described = Fields::of(format.need("json_schema")?, &path)?;
            OutputFormat::JsonSchema {
                name: described.need("name")?,
                // Without a schema any value will do.
                schema: described.value("schema").unwrap_or_else(|| json!({})),
            }
        }
        _ => {
            let expected = "text, json_object or json_schema";
            return Err(unexpected(&format.path("type"), expected, &kind.into()));
        }
    };
    output.validate().map_err(|e| ApiError::from(e).of_field(&path))?;
    Ok(output)
}

/// Reads the call of a function in a message of the assistant.
pub(super) fn call(value: Value, at: &str) -> ApiResult<ToolCall> {
    let id: String = Fields::of(value.clone(), at)?.need("id")?;
    let mut function = function(value, at)?;
    let name: String = function.need("name")?;
    let arguments: String = function.take("arguments")?.unwrap_or_default();
    Ok(ToolCall::from_text(id, name, &arguments))
}

/// Returns the function in `{"type": "function", "function": {..}}`.
fn function(value: Value, at: &str) -> ApiResult<Fields> {
    let mut outer = Fields::of(value, at)?;
    let kind: String = outer.take("type")?.unwrap_or_else(|| "function".to_owned());
    if kind != "function" {
        return Err(unexpected(&outer.path("type"), "function", &kind.into()));
    }
    let path = outer.path("function");
    Fields::of(outer.need("function")?, &path)
}
