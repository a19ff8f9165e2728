//! Errors as OpenAI's clients read them: a status, and `{"error": {message, type, param, code}}`.

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use llm_core::{Error, ErrorKind};
use serde_json::{Value, json};

/// Why a request gets no answer.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
    /// The field of the request that is wrong.
    param: Option<String>,
    code: Option<&'static str>,
    retry_after: Option<Duration>,
}

pub(crate) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: None, retry_after: None }
    }

    /// The field `param` of the request is wrong.
    pub(crate) fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        let param = param.into();
        let message = format!("`{param}`: {}", message.into());
        Self { param: Some(param), ..Self::new(StatusCode::BAD_REQUEST, message) }
    }

    pub(crate) fn with_code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    pub(crate) fn with_retry_after(self, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..self }
    }

    /// Returns this error as one of the field `param`, unless it names one.
    pub(crate) fn of_field(self, param: &str) -> Self {
        match self.param {
            Some(_) => self,
            None => Self {
                message: format!("`{param}`: {}", self.message),
                param: Some(param.to_owned()),
                ..self
            },
        }
    }

    /// Returns the body.
    pub(crate) fn body(&self) -> Value {
        let kind = match self.status.as_u16() {
            401 => "authentication_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        json!({"error": {
            "message": self.message,
            "type": kind,
            "param": self.param,
            "code": self.code,
        }})
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let (status, code) = match error.kind() {
            ErrorKind::InvalidRequest => (400, None),
            ErrorKind::Image => (400, Some("invalid_image")),
            ErrorKind::ContextOverflow => (400, Some("context_length_exceeded")),
            ErrorKind::Unsupported => (400, Some("unsupported")),
            // By an estimate from the request alone: to ask the same again would not help.
            ErrorKind::OutOfMemory => (400, Some("out_of_memory")),
            ErrorKind::RateLimited => (429, Some("rate_limit_exceeded")),
            ErrorKind::Unavailable | ErrorKind::Cancelled => (503, Some("unavailable")),
            // A server behind this one did not accept our key, which is no fault of the client's.
            ErrorKind::Authentication => (502, Some("upstream_authentication")),
            _ => (500, Some("internal_error")),
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        // What the client can do nothing about may name files of this machine: that is logged.
        let message = match status.is_server_error() {
            true => {
                tracing::error!(error = error.chain(), "a request failed");
                error.to_string()
            }
            false => error.chain(),
        };
        Self { retry_after: error.retry_after(), code, ..Self::new(status, message) }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, (wait.as_secs_f64().ceil() as u64).into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
