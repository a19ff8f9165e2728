//! A request in the words of Messages.

use llm_core::{
    Error, ErrorKind, GenerateParams, ImageDetail, Message, OutputFormat, Part, Request, Result,
    Role, Tool, ToolChoice,
};
use serde_json::{Map, Value, json};

use crate::{image::Sent, number::decimal};

/// Checks that everything asked for can be said.
///
/// # Errors
/// [`ErrorKind::Unsupported`] that names the parameter.
pub(super) fn check(params: &GenerateParams) -> Result<()> {
    let is_set = |value: Option<f32>, nothing: f32| value.is_some_and(|v| v != nothing);
    let unsaid = [
        ("temperature above 1", params.temperature.is_some_and(|t| t > 1.0)),
        ("min_p", is_set(params.min_p, 0.0)),
        ("repetition_penalty", is_set(params.repetition_penalty, 1.0)),
        ("frequency_penalty", is_set(params.frequency_penalty, 0.0)),
        ("presence_penalty", is_set(params.presence_penalty, 0.0)),
        ("seed", params.seed.is_some()),
        ("min_pixels", params.min_pixels.is_some()),
        ("max_pixels", params.max_pixels.is_some()),
        ("image_detail", params.image_detail.is_some_and(|d| d != ImageDetail::Auto)),
    ];
    match unsaid.into_iter().find(|(_, unsaid)| *unsaid) {
        None => Ok(()),
        Some((name, _)) => {
            Err(Error::new(ErrorKind::Unsupported, format!("Anthropic's Messages have no {name}")))
        }
    }
}

/// Returns the body of a request; reads the files of its images.
///
/// # Errors
/// If an image cannot be read.
pub(super) fn body(model: &str, request: &Request) -> Result<Value> {
    let params = &request.params;
    let mut body = Map::new();
    body.insert("model".into(), model.into());
    let max_tokens = params.max_tokens.unwrap_or(GenerateParams::DEFAULT_MAX_TOKENS);
    body.insert("max_tokens".into(), max_tokens.into());
    body.insert("stream".into(), true.into());
    let mut images = 0;
    let mut messages: Vec<Value> = Vec::new();
    for message in request.messages_with_system() {
        if message.role == Role::System {
            body.insert("system".into(), message.text().into());
            continue;
        }
        let content = blocks(&message, &mut images)?;
        // Empty texts are refused, and so are messages without content.
        if !content.is_empty() {
            let role = if message.role == Role::Assistant { "assistant" } else { "user" };
            messages.push(json!({"role": role, "content": content}));
        }
    }
    body.insert("messages".into(), messages.into());
    for (name, value) in [("temperature", params.temperature), ("top_p", params.top_p)] {
        if let Some(value) = value {
            body.insert(name.into(), decimal(value));
        }
    }
    if let Some(k) = params.top_k.filter(|&k| k != 0) {
        body.insert("top_k".into(), k.into());
    }
    // White space alone is refused as a stop text; it is found on our side.
    let stops = params.stop.iter().filter(|stop| !stop.trim().is_empty());
    let stops: Vec<Value> = stops.cloned().map(Value::from).collect();
    if !stops.is_empty() {
        body.insert("stop_sequences".into(), stops.into());
    }
    if let Some(user) = &params.user {
        body.insert("metadata".into(), json!({"user_id": user}));
    }
    if !request.tools.is_empty() {
        body.insert("tools".into(), request.tools.iter().map(tool).collect());
        if let Some(choice) = tool_choice(&request.tool_choice) {
            body.insert("tool_choice".into(), choice);
        }
    }
    if let OutputFormat::JsonSchema { schema, .. } = &request.output {
        let format = json!({"type": "json_schema", "schema": schema});
        body.insert("output_config".into(), json!({"format": format}));
    }
    Ok(Value::Object(body))
}

fn blocks(message: &Message, images: &mut usize) -> Result<Vec<Value>> {
    let block = |part: &Part| {
        Ok(Some(match part {
            Part::Text(text) if text.is_empty() => return Ok(None),
            Part::Text(text) => json!({"type": "text", "text": text}),
            Part::Image(image) => {
                *images += 1;
                let source = match Sent::read(*images - 1, image)? {
                    Sent::Url(url) => json!({"type": "url", "url": url}),
                    Sent::File { media_type, base64 } => {
                        json!({"type": "base64", "media_type": media_type, "data": base64})
                    }
                };
                json!({"type": "image", "source": source})
            }
            Part::ToolCall(call) => {
                // Only objects are taken; what a model wrote instead is shown to it as it is.
                let input = match &call.arguments {
                    Value::Object(_) => call.arguments.clone(),
                    other => json!({"arguments": other}),
                };
                json!({"type": "tool_use", "id": call.id, "name": call.name, "input": input})
            }
            Part::ToolResult(result) => json!({
                "type": "tool_result",
                "tool_use_id": result.call_id,
                "content": result.content,
                "is_error": result.is_error,
            }),
            _ => return Ok(None),
        }))
    };
    message.parts.iter().map(block).filter_map(Result::transpose).collect()
}

fn tool(tool: &Tool) -> Value {
    let mut said = json!({"name": tool.name, "input_schema": tool.parameters});
    if !tool.description.is_empty() {
        said["description"] = tool.description.clone().into();
    }
    said
}

fn tool_choice(choice: &ToolChoice) -> Option<Value> {
    match choice {
        ToolChoice::None => Some(json!({"type": "none"})),
        ToolChoice::Required => Some(json!({"type": "any"})),
        ToolChoice::Named(name) => Some(json!({"type": "tool", "name": name})),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use llm_core::{Image, ToolCall, ToolResult};

    use super::*;

    #[test]
    fn a_request_in_full() {
        let schema = json!({"type": "object", "properties": {}});
        let mut request = Request::new([
            Message::user(["What is it?".into(), Image::encoded(b"GIF89a".to_vec()).into()]),
            Message::new(
                Role::Assistant,
                [
                    "".into(),
                    ToolCall::new("c1", "look", json!({"at": 1})).into(),
                    ToolCall::from_text("c2", "look", "{oops").into(),
                ],
            ),
            Message::tool([ToolResult::error("c1", "dark"), ToolResult::new("c2", "ok")]),
            Message::user([Image::url("https://example.org/a.png").unwrap().into()]),
        ])
        .with_tools([Tool::new("look", "Looks.", schema.clone())])
        .with_output(OutputFormat::json_schema("out", schema.clone()));
        request.tool_choice = ToolChoice::Required;
        request.params = GenerateParams {
            temperature: Some(0.1),
            top_p: Some(0.9),
            top_k: Some(40),
            max_tokens: Some(64),
            stop: vec!["END".into(), "\n".into()],
            system: Some("Be brief.".into()),
            user: Some("42".into()),
            ..Default::default()
        };
        assert!(check(&request.params).is_ok());
        let gif = json!({"type": "base64", "media_type": "image/gif", "data": "R0lGODlh"});
        let expected = json!({
            "model": "m",
            "max_tokens": 64,
            "stream": true,
            "system": "Be brief.",
            "messages": [
                {"role": "user", "content": [
                    {"type": "text", "text": "What is it?"},
                    {"type": "image", "source": gif},
                ]},
                {"role": "assistant", "content": [
                    {"type": "tool_use", "id": "c1", "name": "look", "input": {"at": 1}},
                    {"type": "tool_use", "id": "c2", "name": "look", "input": {"arguments": "{oops"}},
                ]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": "dark", "is_error": true},
                    {"type": "tool_result", "tool_use_id": "c2", "content": "ok", "is_error": false},
                ]},
                {"role": "user", "content": [{
                    "type": "image",
                    "source": {"type": "url", "url": "https://example.org/a.png"},
                }]},
            ],
            "temperature": 0.1,
            "top_p": 0.9,
            "top_k": 40,
            "stop_sequences": ["END"],
            "metadata": {"user_id": "42"},
            "tools": [{"name": "look", "description": "Looks.", "input_schema": schema}],
            "tool_choice": {"type": "any"},
            "output_config": {"format": {"type": "json_schema", "schema": schema}},
        });
        assert_eq!(body("m", &request).unwrap(), expected);
    }

    #[test]
    fn what_cannot_be_said_is_named() {
        let none = GenerateParams::default;
        for (params, name) in [
            (GenerateParams { seed: Some(1), ..none() }, "seed"),
            (GenerateParams { min_p: Some(0.1), ..none() }, "min_p"),
            (GenerateParams { temperature: Some(1.5), ..none() }, "temperature above 1"),
            (GenerateParams { frequency_penalty: Some(0.5), ..none() }, "frequency_penalty"),
        ] {
            let error = check(&params).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert_eq!(error.to_string(), format!("Anthropic's Messages have no {name}"));
        }
        let nothing = GenerateParams {
            min_p: Some(0.0),
            repetition_penalty: Some(1.0),
            image_detail: Some(ImageDetail::Auto),
            ..none()
        };
        assert!(check(&nothing).is_ok());
    }
}
