//! Any text as a chat template: it comes to an end, with a prompt of bounded size.
#![no_main]

use libfuzzer_sys::fuzz_target;
use llm_core::{Message, Part, Role, Tool, ToolCall, ToolResult};
use serde_json::json;

// In the crate of templates.
fuzz_target!(|source: &str| fuzz::with_caught_panics(|| any(source)));

fn any(source: &str) {
    let Some(template) = mlx_backend::fuzzing::Template::new(source) else { return };
    let schema = json!({"type": "object", "properties": {"a": {"type": "number"}}});
    let call = ToolCall::new("1", "f", json!({"a": 1.5}));
    let messages = [
        Message::system("s"),
        Message::user(["What is this? ".into()]),
        Message::new(Role::Assistant, [Part::from(call)]),
        Message::tool([ToolResult::new("1", "x\u{e9}")]),
        Message::assistant("done"),
    ];
    template.render(&messages, &[Tool::new("f", "does", schema)]);
    template.render(&messages[1..2], &[]);
}
