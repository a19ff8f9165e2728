//! What all requests share.

use std::sync::Arc;

use axum::http::StatusCode;
use llm_core::Provider;

use crate::{
    admission::Admission,
    error::{ApiError, ApiResult},
    metrics::Requests,
    options::ServerOptions,
};

/// What all requests share.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) options: ServerOptions,
    pub(crate) models: Vec<(String, Arc<dyn Provider>)>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) requests: Requests,
    /// When the server started, in seconds since 1970.
    pub(crate) created: u64,
}

impl App {
    /// Returns the model that clients call `name`, and that name as the server keeps it.
    pub(crate) fn model(&self, name: &str) -> ApiResult<(&str, &Arc<dyn Provider>)> {
        let found = self.models.iter().find(|(known, _)| known == name);
        found.map(|(known, provider)| (known.as_str(), provider)).ok_or_else(|| {
            let known: Vec<_> = self.models.iter().map(|(name, _)| format!("`{name}`")).collect();
            let message = format!("there is no model `{name}`; there is {}", known.join(", "));
            ApiError::new(StatusCode::NOT_FOUND, message).with_code("model_not_found")
        })
    }
}

/// Returns the seconds since 1970.
pub(crate) fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
