//! `/metrics` and `/health`.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Json,
    extract::{MatchedPath, Request, State},
    http::header,
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::{error::ApiResult, state::App};

/// How many requests there were, by path and status.
#[derive(Debug, Default)]
pub(crate) struct Requests(Mutex<BTreeMap<(String, u16), u64>>);

/// Counts a request and its status.
pub(crate) async fn count(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    // The route and not the path: clients choose paths, and each would be a series for ever.
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let response = next.run(request).await;
    let key = (route.unwrap_or_else(|| "other".to_owned()), response.status().as_u16());
    *app.requests.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default() += 1;
    response
}

pub(crate) async fn health(State(app): State<Arc<App>>) -> ApiResult<Response> {
    app.admission.check_open()?;
    let (running, waiting) = (app.admission.running(), app.admission.waiting());
    Ok(Json(json!({"status": "ok", "running": running, "waiting": waiting})).into_response())
}

pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let mut text = app
        .options
        .monitor
        .as_ref()
        .map_or_else(String::new, |monitor| monitor.report().to_prometheus());
    render(&app, &mut text);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

fn render(app: &App, text: &mut String) {
    let mut family = |name: &str, kind: &str, help: &str, rows: &[(String, u64)]| {
        // Writing to a text cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in rows {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    let requests = app.requests.0.lock().unwrap_or_else(PoisonError::into_inner);
    let rows: Vec<_> = requests
        .iter()
        .map(|((route, status), &n)| (format!(r#"{{route="{route}",status="{status}"}}"#), n))
        .collect();
    drop(requests);
    family("llm_server_requests_total", "counter", "Requests, by route and status.", &rows);
    let single = |value: u64| [(String::new(), value)];
    let admission = &app.admission;
    family(
        "llm_server_running",
        "gauge",
        "Answers in the making.",
        &single(admission.running() as u64),
    );
    family(
        "llm_server_waiting",
        "gauge",
        "Requests that wait.",
        &single(admission.waiting() as u64),
    );
    let help = "Answers that their client did not wait for, or that failed.";
    family("llm_server_cancelled_total", "counter", help, &single(admission.cancelled()));
}
