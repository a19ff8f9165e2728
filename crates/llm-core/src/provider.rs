//! The trait that every provider implements, and what it says about its model.

use std::{collections::BTreeSet, fmt};

use async_trait::async_trait;

use crate::{EventStream, Request, Response, Result};

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
        Self { provider: provider.into(), model: model.into(), context_tokens: None, capabilities }
    }

    /// Returns this info with the context length.
    #[must_use]
    pub fn with_context_tokens(mut self, tokens: usize) -> Self {
        self.context_tokens = Some(tokens);
        self
    }
}

/// A thing that not every model can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Capability {
    /// Text arrives while it is made.
    Streaming,
    /// A system prompt is honoured.
    SystemPrompt,
    /// One image in a request.
    Vision,
    /// Several images in a request.
    MultipleImages,
    /// The same seed gives the same answer.
    Seed,
    /// Tools can be called.
    ToolUse,
    /// Answers can be held to a JSON schema.
    StructuredOutput,
}

/// The set of [`Capability`] of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(transparent)]
pub struct Capabilities(BTreeSet<Capability>);

impl Capabilities {
    /// Returns whether `capability` is in the set.
    #[must_use]
    pub fn has(&self, capability: Capability) -> bool {
        self.0.contains(&capability)
    }

    /// Iterates over the set in a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = Capability> + '_ {
        self.0.iter().copied()
    }
}

impl FromIterator<Capability> for Capabilities {
    fn from_iter<I: IntoIterator<Item = Capability>>(iter: I) -> Self {
        Self(iter.into_iter().collect())
    }
}
