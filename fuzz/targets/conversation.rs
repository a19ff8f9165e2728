//! Any messages and tools in the templates of published models: a prompt with all that was said, or an error.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use llm_core::{Message, Part, Role, Tool, ToolCall, ToolResult};
use mlx_backend::fuzzing::{Template, is_plain};
use serde_json::{Value, json};

#[derive(Arbitrary, Debug)]
enum Said<'a> {
    Text(&'a str),
    Call(&'a str, Json<'a>),
    Result(&'a str, &'a str),
}

#[derive(Arbitrary, Debug)]
enum Json<'a> {
    Null,
    Number(f64),
    Integer(i64),
    Text(&'a str),
    List(Vec<Json<'a>>),
    Object(Vec<(&'a str, Json<'a>)>),
}

impl From<Json<'_>> for Value {
    fn from(json: Json<'_>) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Number(value) => value.into(),
            Json::Integer(value) => value.into(),
            Json::Text(text) => text.into(),
            Json::List(values) => values.into_iter().map(Self::from).collect(),
            Json::Object(fields) => {
                fields.into_iter().map(|(key, value)| (key.to_owned(), Self::from(value))).collect()
            }
        }
    }
}

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    template: u8,
    messages: Vec<(u8, Vec<Said<'a>>)>,
    tool: Option<(&'a str, Json<'a>)>,
}

/// Shows all that there is, and trims nothing.
const PLAIN: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ m.tool_calls | tojson }}\n\
    {% endfor %}{{ tools | tojson(indent=2) }}";

fn templates() -> [Template; 3] {
    let tiny: Value =
        serde_json::from_str(include_str!("../../models/tiny-vl/full/chat_template.json"))
            .expect("JSON");
    let tiny = tiny["chat_template"].as_str().expect("a text");
    let hermes = include_str!("../../testdata/chat/hermes.jinja");
    [hermes, tiny, PLAIN].map(|source| Template::new(source).expect("a sound template"))
}

thread_local! {
    static TEMPLATES: [Template; 3] = templates();
}

fuzz_target!(|input: Input<'_>| {
    let special = ["<|im_end|>".to_owned(), String::new()];
    let roles = [Role::System, Role::User, Role::Assistant, Role::Tool];
    let mut texts = Vec::new();
    let messages = input.messages.into_iter().map(|(role, parts)| {
        let role = roles[usize::from(role) % roles.len()];
        let parts = parts.into_iter().map(|part| match part {
            Said::Text(text) => {
                assert_eq!(is_plain(text, &special), !text.contains("<|im_end|>"));
                texts.extend((role == Role::User).then_some(text));
                text.into()
            }
            Said::Call(id, arguments) => ToolCall::new(id, "f", arguments.into()).into(),
            Said::Result(id, text) => ToolResult::new(id, text).into(),
        });
        Message::new(role, parts.collect::<Vec<Part>>())
    });
    let messages: Vec<Message> = messages.collect();
    let tools: Vec<Tool> = input
        .tool
        .into_iter()
        .map(|(text, parameters)| {
            let parameters = json!({"type": "object", "properties": Value::from(parameters)});
            Tool::new("f", text, parameters)
        })
        .collect();
    let which = usize::from(input.template) % 3;
    let shown = TEMPLATES.with(|templates| templates[which].render(&messages, &tools));
    if let (2, Some(shown)) = (which, shown) {
        assert!(texts.iter().all(|text| shown.contains(text)), "{shown}");
    }
});
