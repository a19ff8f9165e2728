//! The vocabulary that language-model providers and their callers share: what a user says
//! ([`Message`], [`Part`], [`Image`]), how an answer is wanted ([`GenerateParams`], [`OutputFormat`]),
//! what a model may ask for ([`Tool`]), what it answers ([`Event`], [`Response`]), what can go wrong
//! ([`Error`]), and the [`Provider`] trait.
//!
//! This crate opens no file, starts no thread and has no tensor type, so a provider can be written
//! with it alone:
//!
//! ```
//! use llm_core::{
//!     Capabilities, Capability, Completion, Error, Event, EventStream, FinishReason, ModelInfo,
//!     Provider, Request, Usage, async_trait,
//! };
//!
//! /// Repeats what it was told.
//! #[derive(Debug)]
//! struct Echo(ModelInfo);
//!
//! #[async_trait]
//! impl Provider for Echo {
//!     fn info(&self) -> &ModelInfo {
//!         &self.0
//!     }
//!
//!     async fn generate_stream(&self, request: Request) -> Result<EventStream, Error> {
//!         request.validate(&self.0)?;
//!         let text = request.messages.last().map(|m| m.text()).unwrap_or_default();
//!         let end = Event::End(Completion::new(FinishReason::Stop, Usage::new(1, 1)));
//!         Ok(EventStream::from_iter([Ok(Event::Text(text)), Ok(end)]))
//!     }
//! }
//!
//! let info = ModelInfo::new("echo", "echo-1", Capabilities::from_iter([Capability::Streaming]));
//! let answer = futures_executor::block_on(Echo(info).generate(Request::text("hello")))?;
//! assert_eq!(answer.text, "hello");
//! # Ok::<(), Error>(())
//! ```
#![forbid(unsafe_code)]

mod capability;
mod conversation;
mod error;
mod event;
mod image;
mod message;
mod output;
mod params;
mod provider;
mod request;
mod stop;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod tool;
mod video;

pub use async_trait::async_trait;

pub use crate::{
    capability::{Capabilities, Capability},
    error::{Error, ErrorKind, Result},
    event::{
        Completion, Event, EventStream, FinishReason, Notice, Progress, Response, Stage, Usage,
    },
    image::{Image, ImageDetail},
    message::{Message, Part, Role},
    output::OutputFormat,
    params::GenerateParams,
    provider::{ModelInfo, Provider},
    request::Request,
    stop::{Matched, StopMatcher},
    tool::{Tool, ToolCall, ToolChoice, ToolResult},
    video::{Video, VideoSampling, VideoSource},
};
