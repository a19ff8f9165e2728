//! Vision-language models for Rust programs.
//!
//! ```no_run
//! use abstractllm::{Image, Provider, Request, create_llm};
//!
//! # async fn run() -> abstractllm::Result<()> {
//! let llm = create_llm("mlx", [("model", "tiny-vl"), ("temperature", "0.2")])?;
//! let images = [Image::Path("cat.png".into()), Image::Path("dog.png".into())];
//! let answer = llm.generate(Request::images(images, "Compare these images.")).await?;
//! println!("{}", answer.text);
//! # Ok(()) }
//! ```
//!
//! This crate adds no behaviour of its own. It gathers, under one name,
//!
//! - the vocabulary of `llm-core` at the root: [`Provider`], [`Request`], [`Event`], [`Error`];
//! - [`create_llm`], which picks a provider by name and takes its settings as texts ([`Config`]), and
//!   [`register_provider`], which adds one;
//! - [`create_llm_async`], for programs that must not stand still while a model is read;
//! - [`blocking`], the same calls as those of providers and sessions, without an async runtime;
//! - [`vision`], from image files to what a vision tower reads (`vision-preproc`);
//! - [`perf`], measuring (`perf-monitor`);
//! - `mlx`, the provider that runs models here (`mlx-backend`), and `load`, its typed form;
//! - `session`, conversations with tools that are kept in files (`llm-session`);
//! - `http`, the providers behind HTTP (`http-backend`);
//! - `media`, from what a person writes to images and texts (`media-loader`);
//! - `embedded`, a small model that needs no download.
//!
//! # Features
//!
//! - `mlx` (default): the MLX provider. Without it nothing of MLX is built.
//! - `openai` and `anthropic` (default): the providers behind HTTP.
//! - `media` (default): the loader of files and addresses.
//! - `hub` (default): models are downloaded by name from the Hugging Face hub.
//! - `session` (default): conversations.
//! - `tiny-vl` (default): the embedded model, which makes a program 16 MB larger.
//! - `cli` (default): the program `abstractllm`. It adds nothing to the library; leave it out with
//!   `default-features = false, features = ["mlx"]`.
#![forbid(unsafe_code)]

mod background;
pub mod blocking;
mod config;
mod create;
#[cfg(all(doctest, feature = "media", feature = "mlx", feature = "openai"))]
mod docs;
#[cfg(feature = "tiny-vl")]
pub mod embedded;
mod reader;
mod registry;
mod settings;
mod sources;

#[cfg(any(feature = "anthropic", feature = "openai"))]
pub use http_backend as http;
pub use llm_core::*;
#[cfg(feature = "session")]
pub use llm_session as session;
#[cfg(feature = "media")]
pub use media_loader as media;
#[cfg(feature = "mlx")]
pub use mlx_backend as mlx;
pub use perf_monitor as perf;
pub use vision_preproc as vision;

pub use crate::{
    background::create_llm_async,
    config::Config,
    create::create_llm,
    reader::ConfigReader,
    registry::{available_providers, register_provider},
};
#[cfg(feature = "mlx")]
pub use crate::{background::load_async, create::load, settings::mlx::mlx_options};
