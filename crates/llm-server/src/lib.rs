//! Serves any [`Provider`](llm_core::Provider) over HTTP, the way OpenAI's chat completions are
//! spoken, so that programs written for that service work with a model of one's own.
//!
//! ```no_run
//! use std::sync::Arc;
//! use llm_core::Provider;
//! use llm_server::{Server, ServerOptions};
//! use tokio::net::TcpListener;
//!
//! # async fn run(provider: Arc<dyn Provider>) -> std::io::Result<()> {
//! let server = Server::new([("my-model".to_owned(), provider)], ServerOptions::default());
//! let listener = TcpListener::bind("127.0.0.1:8080").await?;
//! server.run(listener, std::future::pending()).await
//! # }
//! ```
//!
//! | request | answer |
//! |---|---|
//! | `POST /v1/chat/completions` | an answer, whole or as server-sent events |
//! | `GET /v1/models`, `GET /v1/models/NAME` | the models and what they can do |
//! | `GET /health` | whether the server takes requests; needs no key |
//! | `GET /metrics` | counters and times as Prometheus text |
//!
//! Which fields of a request count, and how errors look, is in `docs/server.md`. The crate knows
//! nothing of MLX or any other backend.
#![forbid(unsafe_code)]

mod admission;
mod auth;
mod body;
mod chat;
mod error;
mod metrics;
mod models;
mod options;
mod serve;
mod state;

pub use crate::{
    options::{ApiKey, ImageSource, NoImageSource, ServerOptions, UnknownFields},
    serve::Server,
};
