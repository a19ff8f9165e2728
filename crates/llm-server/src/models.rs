//! `/v1/models`: what can be asked here.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
};
use llm_core::Provider;
use serde_json::{Value, json};

use crate::{error::ApiResult, state::App};

pub(crate) async fn list(State(app): State<Arc<App>>) -> Json<Value> {
    let data: Vec<_> =
        app.models.iter().map(|(name, p)| describe(name, &**p, app.created)).collect();
    Json(json!({"object": "list", "data": data}))
}

pub(crate) async fn one(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> ApiResult<Json<Value>> {
    let (name, provider) = app.model(&name)?;
    Ok(Json(describe(name, &**provider, app.created)))
}

fn describe(name: &str, provider: &dyn Provider, created: u64) -> Value {
    let info = provider.info();
    json!({
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": info.provider,
        // Not part of OpenAI's object.
        "context_tokens": info.context_tokens,
        "capabilities": info.capabilities,
    })
}
