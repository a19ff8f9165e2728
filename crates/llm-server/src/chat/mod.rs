//! `/v1/chat/completions`.

mod answer;
mod fields;
mod message;
mod request;
mod response;
mod stream;
mod tools;

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::HeaderValue,
    response::{IntoResponse, Response},
};

use self::{answer::Answer, response::Head};
use crate::{body, error::ApiResult, state::App};

/// The header of an answer that lists the fields that counted for nothing.
const IGNORED_FIELDS: &str = "x-ignored-fields";

pub(crate) async fn completions(
    State(app): State<Arc<App>>,
    request: Request,
) -> ApiResult<Response> {
    let options = &app.options;
    let seat = app.admission.enter()?;
    let (parts, body) = request.into_parts();
    let fields =
        body::json(&parts.headers, body, options.max_body_bytes, options.body_timeout).await?;
    let asked = request::read(fields, &app).await?;
    let (name, provider) = app.model(&asked.model)?;
    asked.request.validate(provider.info())?;
    let turn = app.admission.turn(seat).await?;
    let operation = options.monitor.as_ref().map(|monitor| monitor.monitor("chat"));
    let mut answer = Answer::begin(&**provider, asked.request, turn, operation).await?;
    let head = Head::new(name);
    let mut response = if asked.stream {
        answer.settle().await?;
        stream::respond(answer, head, asked.include_usage)
    } else {
        Json(head.completion(&answer.collect().await?)).into_response()
    };
    // Names that no header can carry are not listed.
    if let Ok(names) = HeaderValue::from_str(&asked.ignored.join(", "))
        && !names.is_empty()
    {
        response.headers_mut().insert(IGNORED_FIELDS, names);
    }
    Ok(response)
}
