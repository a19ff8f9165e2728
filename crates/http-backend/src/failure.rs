//! What a caller can do about an answer of a server that is none.

use std::time::Duration;

use llm_core::{Error, ErrorKind};
use reqwest::{Response, StatusCode};
use serde_json::Value;

use crate::{retry, server::Server};

/// Most bytes of an error's body that are read, and most characters of it that are shown.
const MAX_BODY_BYTES: usize = 64 << 10;
const MAX_SHOWN_CHARS: usize = 400;

/// A try that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// Whether another try may do better and cannot do harm.
    pub(crate) again: bool,
    /// How long the server asks to wait.
    pub(crate) wait: Option<Duration>,
}

impl Failure {
    /// Reads what the server says about a status that is no success.
    pub(crate) async fn of_response(server: &Server, mut response: Response) -> Self {
        let status = response.status();
        let wait = retry::asked_for(response.headers());
        let redirect = response.headers().get("location").cloned();
        let mut body = Vec::new();
        // What arrived is shown, even if the rest does not come.
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_BODY_BYTES {
                break;
            }
        }
        let said = Said::read(&body);
        let kind = kind(status, &said);
        let mut message = format!("{} answered {}", server.name(), status.as_u16());
        if let Some(location) = redirect.filter(|_| status.is_redirection()) {
            let location = server.redact(&String::from_utf8_lossy(location.as_bytes()));
            message += &format!(", which points to {location}; set base_url to it");
        }
        if !said.message.is_empty() {
            message += &format!(": {}", server.redact(&said.message));
        }
        let mut error = Error::new(kind, message);
        if let Some(wait) = wait {
            error = error.with_retry_after(wait);
        }
        let exhausted = said.code == "insufficient_quota";
        let again = matches!(status.as_u16(), 408 | 409 | 429 | 500 | 502..=599) && !exhausted;
        Self { error, again, wait }
    }

    /// Says what stood between us and the server.
    pub(crate) fn of_transport(server: &Server, error: reqwest::Error) -> Self {
        let again = error.is_connect() || (error.is_request() && !error.is_timeout());
        Self { error: transport_error(server, error), again, wait: None }
    }
}

/// Returns the error of a connection: it could not be made, broke, or went silent.
pub(crate) fn transport_error(server: &Server, error: reqwest::Error) -> Error {
    // The address may hold a password, so it is said by us.
    let error = error.without_url();
    let what = match (error.is_connect(), error.is_timeout()) {
        (true, true) => "no connection within the time for connecting: is the server running?",
        (true, false) => "no connection: is the server running, and base_url right?",
        (false, true) => "nothing came within the time for reading",
        (false, false) => "the connection broke",
    };
    let mut cause = &error as &dyn std::error::Error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let cause = server.redact(&cause.to_string());
    Error::new(ErrorKind::Unavailable, format!("{}: {what} ({cause})", server.name()))
}

/// What an error's body says.
#[derive(Debug, Default)]
pub(crate) struct Said {
    pub(crate) message: String,
    pub(crate) code: String,
}

impl Said {
    /// Reads a body: an error as JSON, in one of the forms that servers use, or plain text.
    pub(crate) fn read(body: &[u8]) -> Self {
        match serde_json::from_slice::<Value>(body) {
            Ok(json) => Self::of_json(&json),
            Err(_) => {
                let text = String::from_utf8_lossy(body);
                // A page of a proxy says nothing in its first characters.
                let is_page = text.trim_start().starts_with('<');
                let message = if is_page { String::new() } else { shortened(text.trim()) };
                Self { message, code: String::new() }
            }
        }
    }

    /// Reads an error object: `{"error": {"message", "code", "type"}}` or what resembles it.
    pub(crate) fn of_json(json: &Value) -> Self {
        let error = json.get("error").unwrap_or(json);
        let field = |name: &str| match &error[name] {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        };
        let message = match error {
            Value::String(text) => text.clone(),
            _ => [field("message"), field("detail")]
                .into_iter()
                .find(|m| !m.is_empty())
                .unwrap_or_default(),
        };
        let code = [field("code"), field("type")].into_iter().find(|code| !code.is_empty());
        Self { message: shortened(&message), code: code.unwrap_or_default() }
    }
}

fn shortened(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((at, _)) => format!("{}...", &line[..at]),
        None => line,
    }
}

/// Returns the kind of a status; the text decides where services use one status for several things.
fn kind(status: StatusCode, said: &Said) -> ErrorKind {
    match status.as_u16() {
        401 | 403 => ErrorKind::Authentication,
        402 => ErrorKind::RateLimited,
        404 => ErrorKind::Model,
        408 | 409 => ErrorKind::Unavailable,
        429 => ErrorKind::RateLimited,
        400 | 413 | 422 => of_said(said),
        300..=399 | 405 | 410 | 415 | 426 => ErrorKind::InvalidRequest,
        _ => ErrorKind::Unavailable,
    }
}

/// Returns the kind of an error that came without a status, or with one that says little.
pub(crate) fn of_said(said: &Said) -> ErrorKind {
    let text = format!("{} {}", said.code, said.message).to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    match () {
        () if says(&[
            "context_length",
            "context length",
            "context window",
            "prompt is too long",
        ]) =>
        {
            ErrorKind::ContextOverflow
        }
        () if says(&[
            "invalid_image",
            "could not process image",
            "image_parse",
            "unsupported image",
        ]) =>
        {
            ErrorKind::Image
        }
        () if says(&["model_not_found"]) => ErrorKind::Model,
        () if says(&["rate_limit"]) => ErrorKind::RateLimited,
        () if says(&["overloaded", "server_error", "api_error", "internal"]) => {
            ErrorKind::Unavailable
        }
        () if says(&["authentication", "invalid_api_key", "permission"]) => {
            ErrorKind::Authentication
        }
        () => ErrorKind::InvalidRequest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_an_error_is_read() {
        for (body, message, code) in [
            (r#"{"error": {"message": "no", "type": "a", "code": "b"}}"#, "no", "b"),
            (r#"{"error": {"message": "no", "type": "a", "code": null}}"#, "no", "a"),
            (r#"{"error": "model 'x' not found"}"#, "model 'x' not found", ""),
            (r#"{"detail": "no"}"#, "no", ""),
            (r#"{"detail": [{"loc": ["a"]}]}"#, r#"[{"loc":["a"]}]"#, ""),
            (
                r#"{"type": "error", "error": {"type": "overloaded_error", "message": "no"}}"#,
                "no",
                "overloaded_error",
            ),
            ("plain\n text", "plain text", ""),
            ("<html>Bad gateway</html>", "", ""),
            ("", "", ""),
        ] {
            let said = Said::read(body.as_bytes());
            assert_eq!((said.message.as_str(), said.code.as_str()), (message, code), "{body}");
        }
        assert_eq!(Said::read("é".repeat(1000).as_bytes()).message.chars().count(), 403);
    }

    #[test]
    fn kinds_say_what_to_do() {
        let said = |code: &str, message: &str| Said { message: message.into(), code: code.into() };
        for (status, said, expected) in [
            (400, said("", "unknown field"), ErrorKind::InvalidRequest),
            (400, said("context_length_exceeded", ""), ErrorKind::ContextOverflow),
            (400, said("", "prompt is too long: 9 tokens > 8 maximum"), ErrorKind::ContextOverflow),
            (400, said("invalid_image_url", ""), ErrorKind::Image),
            (401, said("", ""), ErrorKind::Authentication),
            (404, said("", ""), ErrorKind::Model),
            (413, said("request_too_large", ""), ErrorKind::InvalidRequest),
            (429, said("", ""), ErrorKind::RateLimited),
            (500, said("", ""), ErrorKind::Unavailable),
            (529, said("", ""), ErrorKind::Unavailable),
            (301, said("", ""), ErrorKind::InvalidRequest),
        ] {
            assert_eq!(kind(StatusCode::from_u16(status).unwrap(), &said), expected, "{status}");
        }
    }
}
