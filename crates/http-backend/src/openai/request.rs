//! A request in the words of chat completions.

use llm_core::{
    Error, ErrorKind, GenerateParams, ImageDetail, Message, OutputFormat, Part, Request, Result,
    Role, Tool, ToolChoice, ToolResult,
};
use serde_json::{Map, Value, json};

use crate::{image::Sent, number::decimal};

/// Most stop texts that OpenAI takes; the others are found on our side.
const MAX_STOPS: usize = 4;

/// Who is asked: OpenAI refuses what it does not know, other servers know more and differ in names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    OpenAi,
    Compatible,
}

impl Dialect {
    pub(super) fn of_host(host: &str) -> Self {
        let openai = host == "api.openai.com" || host.ends_with(".openai.azure.com");
        if openai { Self::OpenAi } else { Self::Compatible }
    }

    /// Checks that everything asked for can be said.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] that names the parameter.
    pub(super) fn check(self, params: &GenerateParams) -> Result<()> {
        let openai = self == Self::OpenAi;
        let unsaid = [
            ("top_k", openai && params.top_k.is_some_and(|k| k != 0)),
            ("min_p", openai && params.min_p.is_some_and(|p| p != 0.0)),
            ("repetition_penalty", openai && params.repetition_penalty.is_some_and(|p| p != 1.0)),
            ("min_pixels", params.min_pixels.is_some()),
            ("max_pixels", params.max_pixels.is_some()),
        ];
        match unsaid.into_iter().find(|(_, unsaid)| *unsaid) {
            None => Ok(()),
            Some((name @ ("min_pixels" | "max_pixels"), _)) => Err(Error::new(
                ErrorKind::Unsupported,
                format!("{name} cannot be said to a server; image_detail can"),
            )),
            Some((name, _)) => {
                Err(Error::new(ErrorKind::Unsupported, format!("OpenAI has no {name}")))
            }
        }
    }
}

/// Returns the body of a request; reads the files of its images.
///
/// # Errors
/// If an image cannot be read.
pub(super) fn body(model: &str, dialect: Dialect, request: &Request) -> Result<Value> {
    let params = &request.params;
    let mut images = 0;
    let mut messages = Vec::new();
    for message in request.messages_with_system() {
        say(&message, params.image_detail, &mut images, &mut messages)?;
    }
    let mut body = Map::new();
    body.insert("model".into(), model.into());
    body.insert("messages".into(), messages.into());
    body.insert("stream".into(), true.into());
    body.insert("stream_options".into(), json!({"include_usage": true}));
    let max_tokens = params.max_tokens.unwrap_or(GenerateParams::DEFAULT_MAX_TOKENS);
    // OpenAI's newer models refuse the old name, and most other servers know no other.
    let max_tokens_name = match dialect {
        Dialect::OpenAi => "max_completion_tokens",
        Dialect::Compatible => "max_tokens",
    };
    body.insert(max_tokens_name.into(), max_tokens.into());
    let mut number = |name: &str, value: Option<f32>| {
        if let Some(value) = value {
            body.insert(name.into(), decimal(value));
        }
    };
    number("temperature", params.temperature);
    number("top_p", params.top_p);
    number("frequency_penalty", params.frequency_penalty);
    number("presence_penalty", params.presence_penalty);
    if dialect == Dialect::Compatible {
        number("min_p", params.min_p);
        // vLLM and mlx-vlm have the one name, llama.cpp and what is built on it the other.
        number("repetition_penalty", params.repetition_penalty);
        number("repeat_penalty", params.repetition_penalty);
        if let Some(k) = params.top_k {
            body.insert("top_k".into(), k.into());
        }
    }
    if let Some(seed) = params.seed {
        body.insert("seed".into(), seed.into());
    }
    if !params.stop.is_empty() {
        body.insert("stop".into(), params.stop.iter().take(MAX_STOPS).cloned().collect());
    }
    if !params.logit_bias.is_empty() {
        let bias = params.logit_bias.iter().map(|(id, &bias)| (id.to_string(), decimal(bias)));
        body.insert("logit_bias".into(), Value::Object(bias.collect()));
    }
    if let Some(user) = &params.user {
        body.insert("user".into(), user.clone().into());
    }
    if !request.tools.is_empty() {
        body.insert("tools".into(), request.tools.iter().map(tool).collect());
        if let Some(choice) = tool_choice(&request.tool_choice) {
            body.insert("tool_choice".into(), choice);
        }
    }
    if let Some(format) = response_format(&request.output) {
        body.insert("response_format".into(), format);
    }
    Ok(Value::Object(body))
}

/// Adds a message; results of tools become one each.
fn say(
    message: &Message,
    detail: Option<ImageDetail>,
    images: &mut usize,
    messages: &mut Vec<Value>,
) -> Result<()> {
    if message.role == Role::Tool {
        messages.extend(message.tool_results().map(|result| {
            let content = result_text(result);
            json!({"role": "tool", "tool_call_id": result.call_id, "content": content})
        }));
        return Ok(());
    }
    let mut said = Map::new();
    said.insert("role".into(), message.role.as_str().into());
    let calls: Vec<Value> = message
        .tool_calls()
        .map(|call| {
            let function = json!({"name": call.name, "arguments": call.arguments_text()});
            json!({"id": call.id, "type": "function", "function": function})
        })
        .collect();
    let text = message.text();
    let content = if message.images().next().is_some() {
        let parts = message.parts.iter().filter_map(|part| match part {
            Part::Text(text) => Some(Ok(json!({"type": "text", "text": text}))),
            Part::Image(image) => {
                *images += 1;
                Some(Sent::read(*images - 1, image).map(|sent| image_part(sent, detail)))
            }
            _ => None,
        });
        parts.collect::<Result<Value>>()?
    } else if text.is_empty() && !calls.is_empty() {
        Value::Null
    } else {
        // Older servers take no list for a text.
        text.into()
    };
    said.insert("content".into(), content);
    if !calls.is_empty() {
        said.insert("tool_calls".into(), calls.into());
    }
    messages.push(Value::Object(said));
    Ok(())
}

/// Returns the text of a result; there is no field for a failure.
fn result_text(result: &ToolResult) -> String {
    match result.is_error {
        true => format!("Error: {}", result.content),
        false => result.content.clone(),
    }
}

fn image_part(sent: Sent, detail: Option<ImageDetail>) -> Value {
    let mut image = json!({"url": sent.into_url()});
    if let Some(detail) = detail {
        image["detail"] = json!(detail);
    }
    json!({"type": "image_url", "image_url": image})
}

fn tool(tool: &Tool) -> Value {
    let Tool { name, description, parameters } = tool;
    let mut function = json!({"name": name, "parameters": parameters});
    if !description.is_empty() {
        function["description"] = description.clone().into();
    }
    json!({"type": "function", "function": function})
}

fn tool_choice(choice: &ToolChoice) -> Option<Value> {
    match choice {
        ToolChoice::None => Some("none".into()),
        ToolChoice::Required => Some("required".into()),
        ToolChoice::Named(name) => Some(json!({"type": "function", "function": {"name": name}})),
        _ => None,
    }
}

fn response_format(output: &OutputFormat) -> Option<Value> {
    match output {
        OutputFormat::Json => Some(json!({"type": "json_object"})),
        OutputFormat::JsonSchema { name, schema } => Some(json!({
            "type": "json_schema",
            "json_schema": {"name": name, "schema": schema, "strict": true},
        })),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use llm_core::{Image, ToolCall};

    use super::*;

    #[test]
    fn a_request_in_full() {
        let schema = json!({"type": "object", "properties": {}});
        let call = ToolCall::new("c1", "look", json!({"at": 1}));
        let mut request = Request::new([
            Message::user(["What is it?".into(), Image::encoded(b"GIF89a".to_vec()).into()]),
            Message::new(Role::Assistant, [call.clone().into()]),
            Message::tool([ToolResult::error("c1", "too dark")]),
            Message::new(Role::Assistant, ["It is dark.".into()]),
            Message::user([Image::url("https://example.org/a.png").unwrap().into()]),
        ])
        .with_tools([
            Tool::new("look", "Looks.", schema.clone()),
            Tool::new("go", "", schema.clone()),
        ])
        .with_output(OutputFormat::json_schema("out", schema.clone()));
        request.tool_choice = ToolChoice::Named("look".into());
        request.params = GenerateParams {
            temperature: Some(0.1),
            top_p: Some(0.9),
            top_k: Some(40),
            min_p: Some(0.05),
            repetition_penalty: Some(1.1),
            frequency_penalty: Some(-0.5),
            presence_penalty: Some(0.25),
            max_tokens: Some(64),
            stop: ["a", "b", "c", "d", "e"].map(String::from).to_vec(),
            seed: Some(u64::MAX),
            system: Some("Be brief.".into()),
            min_pixels: None,
            max_pixels: None,
            image_detail: Some(ImageDetail::Low),
            logit_bias: [(7, -0.5)].into(),
            user: Some("42".into()),
            adapter: None,
        };
        let function = json!({"name": "look", "arguments": "{\"at\":1}"});
        let gif = json!({"url": "data:image/gif;base64,R0lGODlh", "detail": "low"});
        let expected = json!({
            "model": "m",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [
                    {"type": "text", "text": "What is it?"},
                    {"type": "image_url", "image_url": gif},
                ]},
                {"role": "assistant", "content": null, "tool_calls": [
                    {"id": "c1", "type": "function", "function": function},
                ]},
                {"role": "tool", "tool_call_id": "c1", "content": "Error: too dark"},
                {"role": "assistant", "content": "It is dark."},
                {"role": "user", "content": [{
                    "type": "image_url",
                    "image_url": {"url": "https://example.org/a.png", "detail": "low"},
                }]},
            ],
            "stream": true,
            "stream_options": {"include_usage": true},
            "max_tokens": 64,
            "temperature": 0.1,
            "top_p": 0.9,
            "top_k": 40,
            "min_p": 0.05,
            "repetition_penalty": 1.1,
            "repeat_penalty": 1.1,
            "frequency_penalty": -0.5,
            "presence_penalty": 0.25,
            "stop": ["a", "b", "c", "d"],
            "seed": u64::MAX,
            "logit_bias": {"7": -0.5},
            "user": "42",
            "tools": [
                {"type": "function", "function":
                    {"name": "look", "description": "Looks.", "parameters": schema}},
                {"type": "function", "function": {"name": "go", "parameters": schema}},
            ],
            "tool_choice": {"type": "function", "function": {"name": "look"}},
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "out", "schema": schema, "strict": true},
            },
        });
        assert_eq!(body("m", Dialect::Compatible, &request).unwrap(), expected);
    }

    #[test]
    fn openai_is_told_what_it_knows() {
        assert_eq!(Dialect::of_host("api.openai.com"), Dialect::OpenAi);
        assert_eq!(Dialect::of_host("localhost"), Dialect::Compatible);
        let body = body("m", Dialect::OpenAi, &Request::text("x")).unwrap();
        assert_eq!(body["max_completion_tokens"], 512);
        assert!(body.get("max_tokens").is_none() && body.get("temperature").is_none());
        let params = GenerateParams { top_k: Some(5), ..Default::default() };
        let error = Dialect::OpenAi.check(&params).unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (ErrorKind::Unsupported, "OpenAI has no top_k")
        );
        assert!(Dialect::Compatible.check(&params).is_ok());
        let pixels = GenerateParams { max_pixels: Some(5), ..Default::default() };
        assert!(Dialect::Compatible.check(&pixels).is_err());
    }
}
