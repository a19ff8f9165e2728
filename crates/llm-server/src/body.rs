//! The body of a request, as JSON.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderMap, StatusCode, header},
};
use http_body_util::BodyExt;
use serde_json::{Map, Value};

use crate::error::{ApiError, ApiResult};

/// Returns the JSON object that `body` holds.
pub(crate) async fn json(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
    timeout: Duration,
) -> ApiResult<Map<String, Value>> {
    // Also keeps out what a web page can send to any server without being asked to.
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        let message = format!("expected the content type `application/json`, found `{essence}`");
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let read = tokio::time::timeout(timeout, read(headers, body, limit)).await;
    let bytes = read.map_err(|_| {
        let seconds = timeout.as_secs_f64();
        let message = format!("the body did not arrive within {seconds} s");
        ApiError::new(StatusCode::REQUEST_TIMEOUT, message)
    })??;
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(ApiError::new(StatusCode::BAD_REQUEST, "the body is no JSON object")),
        Err(error) => {
            Err(ApiError::new(StatusCode::BAD_REQUEST, format!("the body is no JSON: {error}")))
        }
    }
}

async fn read(headers: &HeaderMap, mut body: Body, limit: usize) -> ApiResult<Vec<u8>> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    let announced: Option<u64> = announced;
    let too_large = announced.is_some_and(|length| length > limit as u64);
    if too_large && headers.contains_key(header::EXPECT) {
        return Err(over(limit));
    }
    let mut bytes = match announced {
        Some(length) if !too_large => Vec::with_capacity(length as usize),
        _ => Vec::new(),
    };
    let mut total = 0_usize;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| {
            ApiError::new(StatusCode::BAD_REQUEST, format!("the body broke off: {e}"))
        })?;
        let Some(data) = frame.data_ref() else { continue };
        total = total.saturating_add(data.len());
        if total <= limit && !too_large {
            bytes.extend_from_slice(data);
            continue;
        }
        // A client that is still writing would see a broken connection instead of the error, so
        // some more is read and thrown away.
        bytes = Vec::new();
        if total > limit.saturating_mul(2) {
            break;
        }
    }
    if total > limit { Err(over(limit)) } else { Ok(bytes) }
}

fn over(limit: usize) -> ApiError {
    let message = format!("the body is too large: at most {limit} bytes are taken");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message).with_code("body_too_large")
}
