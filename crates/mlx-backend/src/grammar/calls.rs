//! The grammar of calls of tools, in the form that [`crate::calls`] reads.

use std::fmt::Write as _;

use llm_core::Tool;
use serde_json::{Value, json};

use super::compile::written_as;
use crate::{
    calls::{CLOSE, OPEN},
    tokenizer::Tokenizer,
};

/// Returns a grammar, in the language of llguidance, of 1 to `most` calls of `tools`; or of a value of the
/// schema `document` instead, if there is one.
pub(super) fn grammar(
    tools: &[&Tool],
    most: usize,
    document: Option<&Value>,
    tokenizer: &Tokenizer,
) -> String {
    let [open, close] = [OPEN, CLOSE].map(|mark| {
        // Where the tokenizer has a token for it, no text can be taken for one.
        match tokenizer.token_to_id(mark).filter(|&id| tokenizer.is_added(id)) {
            Some(id) => format!("<[{id}]>"),
            None => format!("\"{mark}\""),
        }
    });
    let mut lark = match document {
        Some(schema) => {
            format!("start: calls | document\ndocument: %json {}\n", written_as(schema))
        }
        None => "start: calls\n".to_owned(),
    };
    let more = most.saturating_sub(1);
    let names: Vec<String> = (0..tools.len()).map(|i| format!("tool_{i}")).collect();
    // Writing to a text cannot fail.
    let _ = writeln!(
        lark,
        "calls: call{}",
        if more > 0 { format!(" more{{0,{more}}}") } else { String::new() }
    );
    if more > 0 {
        lark += "more: \"\\n\" call\n";
    }
    let _ = writeln!(lark, "call: {open} \"\\n\" said \"\\n\" {close}");
    let _ = writeln!(lark, "said: {}", names.join(" | "));
    for (name, tool) in names.iter().zip(tools) {
        let _ = writeln!(lark, "{name}: %json {}", written_as(&call_schema(tool)));
    }
    lark
}

/// Returns the schema of a call of `tool`.
fn call_schema(tool: &Tool) -> Value {
    let mut arguments = tool.parameters.clone();
    if let Value::Object(fields) = &mut arguments {
        // So that references inside of it start from it, and not from the schema around it.
        fields.entry("$id").or_insert_with(|| "urn:arguments".into());
    }
    json!({
        "type": "object",
        "properties": {"name": {"const": tool.name}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": false,
    })
}
