//! The trait that every provider implements, and what it says about its model.

use std::fmt;

use async_trait::async_trait;

use crate::{Capabilities, EventStream, Request, Response, Result};

/// One model that can be asked; object-safe, so that `Box<dyn Provider>` swaps for any other.
///
/// Implementors write [`info`](Self::info) and [`generate_stream`](Self::generate_stream); the
/// conformance suite in `testing` says what they must keep to.
#[async_trait]
pub trait Provider: Send + Sync + fmt::Debug {
    /// Returns what the model is and can do.
    fn info(&self) -> &ModelInfo;

    /// Starts an answer and returns its events as they come; dropping the stream cancels it.
    ///
    /// # Errors
    /// An error found before the first event; later ones arrive through the stream.
    async fn generate_stream(&self, request: Request) -> Result<EventStream>;

    /// Waits for the whole answer.
    ///
    /// # Errors
    /// The first error, from the start or from the stream.
    async fn generate(&self, request: Request) -> Result<Response> {
        self.generate_stream(request).await?.collect().await
    }
}

/// What a provider says about its model.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct ModelInfo {
    /// Name of the provider, as in `create_llm(name, ...)`.
    pub provider: String,
    /// Name or path of the model.
    pub model: String,
    /// Most tokens of prompt and answer together, where known.
    pub context_tokens: Option<usize>,
    /// Most tokens of an answer, where there is a limit besides the context and it is known.
    pub max_output_tokens: Option<usize>,
    /// What the model can do.
    pub capabilities: Capabilities,
}

impl ModelInfo {
    /// Returns an info with no known context length.
    pub fn new(
        provider: impl Into<String>,
        model: impl Into<String>,
        capabilities: Capabilities,
    ) -> Self {
        Self {
            provider: provider.into(),
            model: model.into(),
            context_tokens: None,
            max_output_tokens: None,
            capabilities,
        }
    }

    /// Returns this info with the context length.
    #[must_use]
    pub fn with_context_tokens(mut self, tokens: usize) -> Self {
        self.context_tokens = Some(tokens);
        self
    }

    /// Returns this info with the most tokens that an answer can have.
    #[must_use]
    pub fn with_max_output_tokens(mut self, tokens: usize) -> Self {
        self.max_output_tokens = Some(tokens);
        self
    }
}
