//! Tools, calls and results as chat templates take them.
//!
//! Source: transformers 5.23 `utils/chat_template_utils.py` and the published templates of Qwen2.5, Qwen3
//! and Hermes.

use std::collections::HashMap;

use llm_core::{Message, Part, Role, Tool, ToolCall, ToolResult};
use minijinja::{Value, context};
use serde_json::json;

use super::ChatTemplate;
use crate::calls::{CallReader, Said};

/// Returns `tools` as functions with their schemas; nothing if there are none, which templates compare
/// with `none`.
pub(super) fn definitions(tools: &[Tool]) -> Value {
    let function = |tool: &Tool| {
        json!({"type": "function", "function": {
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters,
        }})
    };
    match tools {
        [] => Value::from(()),
        tools => Value::from_serialize(tools.iter().map(function).collect::<Vec<_>>()),
    }
}

/// Which tool was called by which id.
#[derive(Default)]
pub(super) struct Names<'a>(HashMap<&'a str, &'a str>);

impl<'a> Names<'a> {
    /// Returns the calls in `message`, if there are any.
    pub(super) fn calls(&mut self, message: &'a Message) -> Option<Value> {
        let mut calls = Vec::new();
        for ToolCall { id, name, arguments } in message.tool_calls() {
            self.0.insert(id, name);
            let arguments = Value::from_serialize(arguments);
            let function = context! { name, arguments };
            calls.push(context! { type => "function", id, function });
        }
        (!calls.is_empty()).then(|| Value::from(calls))
    }

    /// Returns a result as a message that says `content`.
    pub(super) fn result(&self, result: &ToolResult, content: Value) -> Value {
        let name = self.0.get(result.call_id.as_str()).copied().unwrap_or_default();
        context! { role => Role::Tool.as_str(), name, tool_call_id => result.call_id, content }
    }
}

/// Texts that no template holds itself.
const NAME: &str = "whatever-a-tool-is-called";
const VALUE: &str = "whatever-a-tool-returns";

impl ChatTemplate {
    /// Whether the template shows a tool, what was called and what that returned; and the call in the
    /// form that is read from answers.
    pub(super) fn shows_tools(&self) -> bool {
        let tool = Tool::new(NAME, "", json!({"type": "object", "properties": {}}));
        let asked = [Message::user(["x".into()])];
        let shown = self.render(&asked, &[tool], true).is_ok_and(|text| text.contains(NAME));
        let arguments = json!({"a": [1, "b"]});
        let call = ToolCall::new("call-id-1", NAME, arguments.clone());
        let [asked] = asked;
        let messages = [
            asked,
            Message::new(Role::Assistant, [Part::from(call)]),
            Message::tool([ToolResult::new("call-id-1", VALUE)]),
        ];
        let Ok(told) = self.render(&messages, &[], true) else { return false };
        let mut reader = CallReader::default();
        let mut said = reader.push(&told);
        said.extend(reader.finish());
        let is_call = |said: &Said| matches!(said, Said::Call(call) if call.name == NAME && call.arguments == arguments);
        shown && told.contains(VALUE) && said.iter().any(is_call)
    }
}
