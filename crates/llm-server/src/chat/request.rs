//! A request as clients write it, and what is done about the fields that are not honoured.

use axum::http::StatusCode;
use llm_core::{GenerateParams, Request};
use serde_json::{Map, Value};

use super::{
    fields::{Fields, unexpected},
    message, tools,
};
use crate::{
    error::{ApiError, ApiResult},
    options::UnknownFields,
    state::App,
};

/// What a client asks for.
#[derive(Debug)]
pub(super) struct ChatRequest {
    pub(super) model: String,
    pub(super) request: Request,
    pub(super) stream: bool,
    /// Whether the last event of a stream says what was used.
    pub(super) include_usage: bool,
    /// Fields that count for nothing here.
    pub(super) ignored: Vec<String>,
}

/// Fields that say something about the client or about prices, and nothing about the answer.
const WITHOUT_EFFECT: &[&str] = &[
    "metadata",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
];

/// Fields that would change the answer and are not honoured, with the values that change nothing.
const NOT_HONOURED: &[(&str, &[&str])] = &[
    ("audio", &[]),
    ("function_call", &[]),
    ("functions", &[]),
    ("logprobs", &["false"]),
    ("modalities", &[r#"["text"]"#]),
    ("n", &["1"]),
    ("prediction", &[]),
    ("reasoning_effort", &[r#""none""#]),
    ("top_logprobs", &["0"]),
    ("verbosity", &[r#""medium""#]),
    ("web_search_options", &[]),
];

/// Fields that are honoured, for suggestions.
const HONOURED: &[&str] = &[
    "frequency_penalty",
    "logit_bias",
    "max_completion_tokens",
    "max_pixels",
    "max_tokens",
    "messages",
    "min_p",
    "min_pixels",
    "model",
    "parallel_tool_calls",
    "presence_penalty",
    "repetition_penalty",
    "response_format",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "temperature",
    "tool_choice",
    "tools",
    "top_k",
    "top_p",
    "user",
];

/// Reads the request in `body`.
pub(super) async fn read(body: Map<String, Value>, app: &App) -> ApiResult<ChatRequest> {
    let options = &app.options;
    let mut fields = Fields::new(body, "");
    let model: String = fields.need("model")?;
    app.model(&model)?;
    let stream = fields.take("stream")?.unwrap_or(false);
    let include_usage = include_usage(&mut fields, stream)?;
    let mut params = params(&mut fields)?;
    let tools = tools::tools(&mut fields)?;
    let tool_choice = tools::choice(&mut fields)?;
    let output = tools::output(&mut fields)?;
    let written: Vec<Value> = fields.need("messages")?;
    let mut ignored = settle(&mut fields)?;
    let rest = fields.rest();
    match options.unknown_fields {
        UnknownFields::Ignore => ignored.extend(rest),
        UnknownFields::Refuse => rest.first().map_or(Ok(()), |name| Err(unknown_field(name)))?,
    }
    // Last, since it may go to the network.
    let mut conversation = message::Conversation::new(&*options.images, options.max_body_bytes);
    let reading = async {
        for (i, value) in written.into_iter().enumerate() {
            conversation.read(value, &format!("messages[{i}]")).await?;
        }
        Ok(())
    };
    tokio::time::timeout(options.body_timeout, reading).await.unwrap_or_else(|_| {
        let seconds = options.body_timeout.as_secs_f64();
        let message = format!("the images did not arrive within {seconds} s");
        Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, message))
    })?;
    params.image_detail = conversation.detail;
    let request = Request { messages: conversation.messages, params, tools, tool_choice, output };
    Ok(ChatRequest { model, request, stream, include_usage, ignored })
}

fn include_usage(fields: &mut Fields, stream: bool) -> ApiResult<bool> {
    let path = fields.path("stream_options");
    let Some(value) = fields.value("stream_options") else { return Ok(false) };
    if !stream {
        return Err(ApiError::field(path, "only allowed with `stream`"));
    }
    let mut options = Fields::of(value, &path)?;
    Ok(options.take("include_usage")?.unwrap_or(false))
}

fn params(fields: &mut Fields) -> ApiResult<GenerateParams> {
    let max_tokens: Option<u32> = fields.take("max_tokens")?;
    let max_completion_tokens: Option<u32> = fields.take("max_completion_tokens")?;
    if let (Some(old), Some(new)) = (max_tokens, max_completion_tokens)
        && old != new
    {
        let message = format!("`max_tokens` says {old} and this says {new}; use one");
        return Err(ApiError::field("max_completion_tokens", message));
    }
    let params = GenerateParams {
        temperature: fields.take("temperature")?,
        top_p: fields.take("top_p")?,
        top_k: fields.take("top_k")?,
        min_p: fields.take("min_p")?,
        repetition_penalty: fields.take("repetition_penalty")?,
        frequency_penalty: fields.take("frequency_penalty")?,
        presence_penalty: fields.take("presence_penalty")?,
        max_tokens: max_completion_tokens.or(max_tokens),
        stop: match fields.value("stop") {
            Some(Value::String(text)) => vec![text],
            Some(value) => serde_json::from_value(value.clone())
                .map_err(|_| unexpected("stop", "a text or a list of texts", &value))?,
            None => Vec::new(),
        },
        // Theirs has a sign; each seed is still one of ours.
        seed: fields.take::<i64>("seed")?.map(i64::cast_unsigned),
        logit_bias: fields.take("logit_bias")?.unwrap_or_default(),
        user: fields.take("user")?,
        min_pixels: fields.take("min_pixels")?,
        max_pixels: fields.take("max_pixels")?,
        ..GenerateParams::default()
    };
    params.validate()?;
    // Whoever takes several calls takes one.
    let _: Option<bool> = fields.take("parallel_tool_calls")?;
    Ok(params)
}

/// Takes the fields that are known and not honoured, and returns those without effect.
fn settle(fields: &mut Fields) -> ApiResult<Vec<String>> {
    for (name, neutral) in NOT_HONOURED {
        let Some(value) = fields.value(name) else { continue };
        let text = value.to_string();
        if !neutral.contains(&text.as_str()) {
            let message = match neutral.first() {
                Some(only) => format!("only {only} is supported here"),
                None => "not supported here".to_owned(),
            };
            return Err(ApiError::field(*name, message).with_code("unsupported_parameter"));
        }
    }
    let taken = WITHOUT_EFFECT.iter().filter(|name| fields.value(name).is_some());
    Ok(taken.map(|&name| name.to_owned()).collect())
}

fn unknown_field(name: &str) -> ApiError {
    let near = HONOURED
        .iter()
        .map(|&known| (strsim::damerau_levenshtein(name, known), known))
        .filter(|&(distance, known)| distance <= name.len().max(known.len()) / 3)
        .min();
    let message = match near {
        Some((_, near)) => format!("there is no such field; did you mean `{near}`?"),
        None => "there is no such field".to_owned(),
    };
    ApiError::field(name, message).with_code("unknown_parameter")
}
