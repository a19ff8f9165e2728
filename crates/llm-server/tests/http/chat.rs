//! Answers, whole and as events, and what of a request reaches the model.

use std::sync::Arc;

use llm_core::{
    Capability, ErrorKind, GenerateParams, Image, ImageDetail, Message, OutputFormat, Part, Role,
    Tool, ToolCall, ToolChoice, ToolResult,
    testing::{Script, ScriptedProvider},
};
use llm_server::{ServerOptions, UnknownFields};
use serde_json::{Value, json};

use crate::{Running, ask, ask_with};

fn scripted(script: Script) -> (Arc<ScriptedProvider>, Running) {
    let provider = Arc::new(ScriptedProvider::new([script]));
    let server = Running::start(provider.clone(), ServerOptions::default());
    (provider, server)
}

#[test]
fn a_whole_answer() {
    let (_, server) = scripted(Script::text("It is green."));
    let reply = server.chat(&ask("What colour is it?"));
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let body = reply.json();
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["model"], "script");
    assert!(body["id"].as_str().unwrap().starts_with("chatcmpl-"));
    let choice = &body["choices"][0];
    assert_eq!(
        (&choice["message"]["role"], &choice["message"]["content"], &choice["finish_reason"]),
        (&json!("assistant"), &json!("It is green."), &json!("stop"))
    );
    // Four words asked; three answered, and the end.
    let usage = &body["usage"];
    assert_eq!(
        (&usage["prompt_tokens"], &usage["completion_tokens"], &usage["total_tokens"]),
        (&json!(4), &json!(4), &json!(8))
    );
}

#[test]
fn an_answer_as_events() {
    let (_, server) = scripted(Script::text("It is green."));
    let more = json!({"stream": true, "max_tokens": 2, "stream_options": {"include_usage": true}});
    let reply = server.chat(&ask_with(more));
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    let mut events = reply.events();
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let chunks: Vec<Value> = events.iter().map(|e| serde_json::from_str(e).unwrap()).collect();
    let deltas: Vec<_> = chunks.iter().map(|c| c["choices"][0]["delta"].clone()).collect();
    let expected = [
        json!({"role": "assistant", "content": ""}),
        json!({"content": "It "}),
        json!({"content": "is "}),
        json!({}),
        Value::Null,
    ];
    assert_eq!(deltas, expected);
    assert_eq!(chunks[3]["choices"][0]["finish_reason"], "length");
    assert_eq!(chunks[4]["choices"], json!([]));
    assert_eq!(chunks[4]["usage"]["completion_tokens"], 2);
    assert!(chunks.iter().all(|c| c["id"] == chunks[0]["id"]));
    assert!(chunks.iter().all(|c| c["object"] == "chat.completion.chunk"));
    // Without the option no event has an empty list of choices.
    let reply = server.chat(&ask_with(json!({"stream": true})));
    assert!(reply.events().iter().all(|event| !event.contains(r#""choices":[]"#)));
}

#[test]
fn everything_that_is_asked_reaches_the_model() {
    let (provider, server) = scripted(Script::text("yes"));
    let body = json!({
        "model": "script",
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [
                {"type": "text", "text": "one"},
                {"type": "image_url", "image_url": {
                    "url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low",
                }},
                {"type": "image_url", "image_url": "data:image/png;base64,iVBORw0KGgo="},
            ]},
            {"role": "assistant", "content": "two", "name": "a"},
            {"role": "user", "content": "three"},
        ],
        "temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "repetition_penalty": 1.1,
        "frequency_penalty": -0.5, "presence_penalty": 0.5, "max_completion_tokens": 9,
        "stop": "END", "seed": -1, "min_pixels": 10, "max_pixels": 1000,
        // Sent by clients that set everything.
        "n": 1, "logprobs": false, "logit_bias": {}, "user": "me", "store": null, "metadata": {},
    });
    let reply = server.chat(&body);
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(reply.header("x-ignored-fields"), Some("metadata"));
    let request = provider.requests().remove(0);
    assert_eq!(
        request.params,
        GenerateParams {
            temperature: Some(0.5),
            top_p: Some(0.9),
            top_k: Some(7),
            min_p: Some(0.1),
            repetition_penalty: Some(1.1),
            frequency_penalty: Some(-0.5),
            presence_penalty: Some(0.5),
            max_tokens: Some(9),
            stop: vec!["END".to_owned()],
            seed: Some(u64::MAX),
            user: Some("me".to_owned()),
            image_detail: Some(ImageDetail::Low),
            min_pixels: Some(10),
            max_pixels: Some(1000),
            ..Default::default()
        }
    );
    let roles: Vec<_> = request.messages.iter().map(|m| m.role).collect();
    assert_eq!(roles, [Role::System, Role::User, Role::Assistant, Role::User]);
    let png = Image::encoded(b"\x89PNG\r\n\x1a\n".to_vec());
    assert_eq!(request.messages[1].images().collect::<Vec<_>>(), [&png, &png]);
    assert_eq!(request.messages[1].text(), "one");
}

#[test]
fn unknown_fields_can_be_ignored() {
    let provider = Arc::new(ScriptedProvider::new([Script::text("yes")]));
    let options =
        ServerOptions { unknown_fields: UnknownFields::Ignore, ..ServerOptions::default() };
    let server = Running::start(provider, options);
    let reply = server.chat(&ask_with(json!({"chat_template_kwargs": {}, "store": true})));
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("x-ignored-fields"), Some("store, chat_template_kwargs"));
}

#[test]
fn an_error_before_the_first_text_has_a_status() {
    let script = Script::default().fails(ErrorKind::ContextOverflow, "4100 of 4096 tokens");
    let (_, server) = scripted(script);
    for stream in [false, true] {
        let reply = server.chat(&ask_with(json!({"stream": stream})));
        reply.fails(400, None, "4100 of 4096 tokens");
        assert_eq!(reply.json()["error"]["code"], "context_length_exceeded");
    }
}

#[test]
fn an_error_after_text_is_the_last_event() {
    let (_, server) = scripted(Script::text("It is").fails(ErrorKind::Unavailable, "gone"));
    let reply = server.chat(&ask_with(json!({"stream": true})));
    assert_eq!(reply.status, 200);
    let events = reply.events();
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(last["error"]["message"], "gone");
    assert_eq!(last["error"]["type"], "server_error");
    assert!(events[2].contains(r#""content":"is""#), "{events:?}");
    // The same, whole: what there was of the text is lost, and the status says so.
    server.chat(&ask("x")).fails(503, None, "gone");
}

fn with_tools(script: Script) -> (Arc<ScriptedProvider>, Running) {
    let more = [Capability::ToolUse, Capability::JsonMode, Capability::StructuredOutput];
    let provider = Arc::new(ScriptedProvider::new([script]).with_capabilities(more));
    let server = Running::start(provider.clone(), ServerOptions::default());
    (provider, server)
}

fn weather() -> Value {
    json!({"type": "function", "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    }})
}

#[test]
fn tools_are_called_whole_and_as_events() {
    let calls = [
        ToolCall::new("a", "weather", json!({"city": "Oslo"})),
        ToolCall::new("b", "weather", json!({"city": "Rome"})),
    ];
    let (provider, server) = with_tools(Script::default().calls(calls.clone()));
    let more =
        json!({"tools": [weather()], "tool_choice": "required", "parallel_tool_calls": true});
    let body = server.chat(&ask_with(more)).json();
    let choice = &body["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{body}");
    assert_eq!(choice["message"]["content"], Value::Null);
    let expected = json!({
        "id": "b", "type": "function",
        "function": {"name": "weather", "arguments": r#"{"city":"Rome"}"#},
    });
    assert_eq!(choice["message"]["tool_calls"][1], expected);
    let request = provider.requests().remove(0);
    let schema = weather()["function"]["parameters"].clone();
    assert_eq!(request.tools, [Tool::new("weather", "Tells the weather.", schema)]);
    assert_eq!(request.tool_choice, ToolChoice::Required);

    let choice = json!({"type": "function", "function": {"name": "weather"}});
    let more = json!({"tools": [weather()], "tool_choice": choice, "stream": true});
    let events = server.chat(&ask_with(more)).events();
    let chunk = |i: usize| serde_json::from_str::<Value>(&events[i]).unwrap();
    let second = &chunk(2)["choices"][0]["delta"]["tool_calls"][0];
    assert_eq!((&second["index"], &second["id"]), (&json!(1), &json!("b")));
    assert_eq!(second["function"], expected["function"]);
    assert_eq!(chunk(3)["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(provider.requests()[1].tool_choice, ToolChoice::Named("weather".to_owned()));
}

#[test]
fn calls_and_their_results_reach_the_model() {
    let (provider, server) = with_tools(Script::text("Warm."));
    let call = |id: &str, city: &str| {
        let arguments = json!({"city": city}).to_string();
        json!({"id": id, "type": "function", "function": {"name": "weather", "arguments": arguments}})
    };
    let body = json!({"model": "script", "tools": [weather()], "messages": [
        {"role": "user", "content": "Where is it warm?"},
        {"role": "assistant", "content": null, "tool_calls": [call("a", "Oslo"), call("b", "Rome")]},
        {"role": "tool", "tool_call_id": "b", "content": "30"},
        {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "3"}]},
    ]});
    let reply = server.chat(&body);
    assert_eq!(reply.status, 200, "{}", reply.text);
    let call =
        |id: &str, city: &str| Part::from(ToolCall::new(id, "weather", json!({"city": city})));
    let expected = [
        Message::user(["Where is it warm?".into()]),
        Message::new(Role::Assistant, [call("a", "Oslo"), call("b", "Rome")]),
        Message::tool([ToolResult::new("b", "30"), ToolResult::new("a", "3")]),
    ];
    assert_eq!(provider.requests()[0].messages, expected);
}

#[test]
fn the_form_of_an_answer_reaches_the_model() {
    let (provider, server) = with_tools(Script::text("{}"));
    let schema = json!({"type": "object"});
    for (written, expected) in [
        (json!({"type": "text"}), OutputFormat::Text),
        (json!({"type": "json_object"}), OutputFormat::Json),
        (
            json!({"type": "json_schema", "json_schema": {
                "name": "scene", "schema": schema, "strict": true,
            }}),
            OutputFormat::json_schema("scene", schema.clone()),
        ),
    ] {
        assert_eq!(server.chat(&ask_with(json!({"response_format": written}))).status, 200);
        assert_eq!(provider.requests().last().unwrap().output, expected);
    }
}
