//! Servers that speak OpenAI's chat completions.
//!
//! Source: the API reference at <https://platform.openai.com/docs/api-reference/chat>, and what Ollama, LM
//! Studio, vLLM, llama.cpp and mlx-vlm make of it.

mod chunk;
mod request;

use std::sync::Arc;

use async_trait::async_trait;
use llm_core::{
    Capabilities, Capability, EventStream, GenerateParams, ModelInfo, Provider, Request, Result,
};
use reqwest::header::AUTHORIZATION;

use self::{chunk::Chunks, request::Dialect};
use crate::{
    answer::{self, Decoder, Protocol},
    server::{Server, ServerOptions, Service},
};

/// How a model behind chat completions is asked.
#[derive(Clone, Debug, Default)]
pub struct OpenAiOptions {
    /// The server.
    pub server: ServerOptions,
    /// The organisation that pays, for OpenAI.
    pub organization: Option<String>,
    /// What is used of a request where it does not say.
    pub defaults: GenerateParams,
    /// What the model can do. The interface does not tell, so the default is all that the interface can
    /// say except [`Capability::Seed`], which no service promises; a server refuses what its model lacks.
    pub capabilities: Option<Capabilities>,
    /// Most tokens of prompt and answer together, where known.
    pub context_tokens: Option<usize>,
}

/// A model behind OpenAI's chat completions: OpenAI itself, or Ollama, LM Studio, vLLM, llama.cpp's
/// server, mlx-vlm's server and others.
#[derive(Debug)]
pub struct OpenAiProvider {
    info: ModelInfo,
    server: Arc<Server>,
    dialect: Dialect,
    defaults: GenerateParams,
}

impl OpenAiProvider {
    /// The name of this provider, as in `create_llm("openai", ...)`.
    pub const NAME: &str = "openai";

    /// Returns the model `model` of a server; nothing is sent before it is asked.
    ///
    /// # Errors
    /// If an option is none, a default cannot be said to this server, or OpenAI is to be asked without a
    /// key.
    pub fn new(model: impl Into<String>, options: OpenAiOptions) -> Result<Self> {
        Self::with_environment(model.into(), options, |name| std::env::var(name).ok())
    }

    fn with_environment(
        model: String,
        options: OpenAiOptions,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        const OPENAI: Service = Service {
            base_url: "https://api.openai.com/v1",
            url_variable: "OPENAI_BASE_URL",
            key_variable: "OPENAI_API_KEY",
            key_header: (AUTHORIZATION, "Bearer "),
        };
        let mut server = Server::new(&OPENAI, options.server, variable)?;
        if let Some(organization) = &options.organization {
            server = server.with_header("openai-organization", organization)?;
        }
        let dialect = Dialect::of_host(server.host());
        options.defaults.validate()?;
        dialect.check(&options.defaults)?;
        let capabilities = options.capabilities.unwrap_or_else(capabilities);
        let mut info = ModelInfo::new(Self::NAME, model, capabilities);
        info.context_tokens = options.context_tokens;
        Ok(Self { info, server: Arc::new(server), dialect, defaults: options.defaults })
    }
}

#[async_trait]
impl Provider for OpenAiProvider {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    async fn generate_stream(&self, mut request: Request) -> Result<EventStream> {
        request.params = request.params.or(&self.defaults);
        request.validate(&self.info)?;
        self.dialect.check(&request.params)?;
        let chat = Chat { model: self.info.model.clone(), dialect: self.dialect };
        answer::start(self.server.clone(), Arc::new(chat), request)
    }
}

struct Chat {
    model: String,
    dialect: Dialect,
}

impl Protocol for Chat {
    fn path(&self) -> &'static str {
        "chat/completions"
    }

    fn body(&self, request: &Request) -> Result<Vec<u8>> {
        Ok(request::body(&self.model, self.dialect, request)?.to_string().into_bytes())
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(Chunks::default())
    }
}

/// Returns what reads answers, for a fuzz target.
#[cfg(any(test, fuzzing))]
pub(crate) fn decoder() -> Box<dyn Decoder> {
    Box::new(Chunks::default())
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
        Capability::LogitBias,
        Capability::ToolUse,
        Capability::JsonMode,
        Capability::StructuredOutput,
    ])
}
