//! Anthropic's Messages.
//!
//! Source: the API reference at <https://docs.anthropic.com/en/api/messages>.

mod request;
mod stream;

use std::sync::Arc;

use async_trait::async_trait;
use llm_core::{
    Capabilities, Capability, EventStream, GenerateParams, ModelInfo, Provider, Request, Result,
};
use reqwest::header::HeaderName;

use self::stream::Blocks;
use crate::{
    answer::{self, Decoder, Protocol},
    server::{Server, ServerOptions, Service},
};

/// How a model behind Messages is asked.
#[derive(Clone, Debug, Default)]
pub struct AnthropicOptions {
    /// The server.
    pub server: ServerOptions,
    /// What is used of a request where it does not say.
    pub defaults: GenerateParams,
    /// What the model can do. The interface does not tell, so the default is all that it can say.
    pub capabilities: Option<Capabilities>,
    /// Most tokens of prompt and answer together, where known.
    pub context_tokens: Option<usize>,
}

/// A model behind Anthropic's Messages: Anthropic itself, or a server that speaks the same.
#[derive(Debug)]
pub struct AnthropicProvider {
    info: ModelInfo,
    server: Arc<Server>,
    path: &'static str,
    defaults: GenerateParams,
}

impl AnthropicProvider {
    /// The name of this provider, as in `create_llm("anthropic", ...)`.
    pub const NAME: &str = "anthropic";

    /// Returns the model `model` of a server; nothing is sent before it is asked.
    ///
    /// # Errors
    /// If an option is none, a default cannot be said to this server, or Anthropic is to be asked
    /// without a key.
    pub fn new(model: impl Into<String>, options: AnthropicOptions) -> Result<Self> {
        const ANTHROPIC: Service = Service {
            base_url: "https://api.anthropic.com/v1",
            url_variable: "ANTHROPIC_BASE_URL",
            key_variable: "ANTHROPIC_API_KEY",
            key_header: (HeaderName::from_static("x-api-key"), ""),
        };
        let variable = |name: &str| std::env::var(name).ok();
        let server = Server::new(&ANTHROPIC, options.server, variable)?;
        let server = server.with_header("anthropic-version", "2023-06-01")?;
        // Anthropic's own libraries take the address without the version.
        let path = if server.name().ends_with("/v1") { "messages" } else { "v1/messages" };
        options.defaults.validate()?;
        request::check(&options.defaults)?;
        let capabilities = options.capabilities.unwrap_or_else(capabilities);
        let mut info = ModelInfo::new(Self::NAME, model, capabilities);
        info.context_tokens = options.context_tokens;
        Ok(Self { info, server: Arc::new(server), path, defaults: options.defaults })
    }
}

#[async_trait]
impl Provider for AnthropicProvider {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    async fn generate_stream(&self, mut request: Request) -> Result<EventStream> {
        request.params = request.params.or(&self.defaults);
        request.validate(&self.info)?;
        request::check(&request.params)?;
        let messages = Messages { model: self.info.model.clone(), path: self.path };
        answer::start(self.server.clone(), Arc::new(messages), request)
    }
}

struct Messages {
    model: String,
    path: &'static str,
}

impl Protocol for Messages {
    fn path(&self) -> &'static str {
        self.path
    }

    fn body(&self, request: &Request) -> Result<Vec<u8>> {
        Ok(request::body(&self.model, request)?.to_string().into_bytes())
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(Blocks::default())
    }
}

/// Returns what reads answers, for a fuzz target.
#[cfg(any(test, fuzzing))]
pub(crate) fn decoder() -> Box<dyn Decoder> {
    Box::new(Blocks::default())
}

fn capabilities() -> Capabilities {
    Capabilities::from_iter([
        Capability::Streaming,
        Capability::Async,
        Capability::SystemPrompt,
        Capability::MultiTurn,
        Capability::MaxTokens,
        Capability::ParallelInference,
        Capability::Vision,
        Capability::MultipleImages,
        Capability::ImageUrls,
        Capability::ToolUse,
        Capability::StructuredOutput,
    ])
}
