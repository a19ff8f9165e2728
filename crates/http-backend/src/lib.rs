//! Language models behind HTTP, as providers of `llm-core`.
//!
//! ```no_run
//! use http_backend::{OpenAiOptions, OpenAiProvider, ServerOptions};
//! use llm_core::{Provider, Request};
//!
//! # async fn run() -> llm_core::Result<()> {
//! // A server on this machine; without `base_url` it is OpenAI's, with the key in OPENAI_API_KEY.
//! let server = ServerOptions { base_url: Some("http://localhost:11434/v1".into()), ..Default::default() };
//! let options = OpenAiOptions { server, ..Default::default() };
//! let llm = OpenAiProvider::new("qwen2.5vl:3b", options)?;
//! let answer = llm.generate(Request::text("Who are you?")).await?;
//! println!("{}", answer.text);
//! # Ok(()) }
//! ```
//!
//! The calls work under any executor: requests are made on one thread of this crate, which starts with
//! the first. Dropping an answer closes its connection, which servers take as a cancellation.
//!
//! - Tries are repeated where that is safe: before the first byte of an answer, when the server could not
//!   be reached, was busy (408, 409, 429) or failed (5xx), after a wait that grows, with jitter, and that
//!   is never shorter than what the server asked for.
//! - Keys come from the options or the environment, go to the server they are for and nowhere else, and
//!   are not in logs, errors or `Debug` output. Redirects are not followed.
//! - Stop texts are honoured even where a server does not know them.
//!
//! # Features
//!
//! - `openai` (default): `OpenAiProvider`, for every server that speaks OpenAI's chat completions.
//! - `anthropic` (default): `AnthropicProvider`, for Anthropic's Messages.
#![forbid(unsafe_code)]

mod answer;
#[cfg(feature = "anthropic")]
mod anthropic;
mod failure;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod image;
mod number;
#[cfg(feature = "openai")]
mod openai;
mod retry;
mod runtime;
mod server;

#[cfg(feature = "anthropic")]
pub use crate::anthropic::{AnthropicOptions, AnthropicProvider};
#[cfg(feature = "openai")]
pub use crate::openai::{OpenAiOptions, OpenAiProvider};
pub use crate::server::{ApiKey, ServerOptions};
