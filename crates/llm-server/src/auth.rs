//! Who may ask: keys, and the host that a request is for.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::{
    error::{ApiError, ApiResult},
    options::ApiKey,
    state::App,
};

/// Passes on what has a key, if there are keys.
pub(crate) async fn require_key(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Response {
    match check_key(&app.options.api_keys, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

/// Passes on what is for a host of ours.
pub(crate) async fn require_host(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Response {
    // A request to a proxy has its host in the target.
    let host = request.uri().host().map(str::to_owned).or_else(|| {
        let value = request.headers().get(header::HOST)?.to_str().ok()?;
        value.parse::<axum::http::uri::Authority>().ok().map(|a| a.host().to_owned())
    });
    match check_host(&app.options.allowed_hosts, host.as_deref()) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

fn check_key(keys: &[ApiKey], headers: &HeaderMap) -> ApiResult<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let fail = |message: &str| {
        Err(ApiError::new(StatusCode::UNAUTHORIZED, message).with_code("invalid_api_key"))
    };
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return fail("an API key is needed: send the header `Authorization: Bearer KEY`");
    };
    let bytes = value.as_bytes();
    let scheme = bytes.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case(b"bearer "));
    let sent = if scheme.is_some() { bytes[7..].trim_ascii() } else { b"" };
    // All are looked at, whichever fits.
    match keys.iter().fold(false, |found, key| found | key.is(sent)) {
        true => Ok(()),
        false => fail("the API key is not valid"),
    }
}

fn check_host(allowed: &[String], host: Option<&str>) -> ApiResult<()> {
    let is = |host: &str| allowed.iter().any(|name| name.eq_ignore_ascii_case(host));
    match host {
        _ if allowed.is_empty() => Ok(()),
        Some(host) if is(host) => Ok(()),
        _ => {
            let host = host.unwrap_or_default();
            let message = format!("the host `{host}` is not one that this server answers for");
            Err(ApiError::new(StatusCode::FORBIDDEN, message).with_code("unknown_host"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_compared_without_case() {
        let allowed = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        assert!(check_host(&allowed, Some("LocalHost")).is_ok());
        assert!(check_host(&allowed, Some("evil.example")).is_err());
        assert!(check_host(&allowed, None).is_err());
        assert!(check_host(&[], Some("evil.example")).is_ok());
    }
}
