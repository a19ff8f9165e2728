//! Conversations with language models.
//!
//! A [`Session`] remembers what was said, sends as much of it as the context of the model has room
//! for, runs the tools that the model calls, and can be kept in a file. The provider is named with
//! each question, so it can be another one each time:
//!
//! ```
//! use llm_core::{Message, Provider};
//! use llm_session::{Session, schemars};
//!
//! #[derive(serde::Deserialize, schemars::JsonSchema)]
//! struct City {
//!     /// Its name, in English.
//!     name: String,
//! }
//!
//! # async fn run(small: &dyn Provider, large: &dyn Provider) -> llm_core::Result<()> {
//! let mut session = Session::new();
//! session.system = Some("Be brief.".to_owned());
//! session.tools.add("population", "Says how many people live in a city.", |city: City| {
//!     match city.name.as_str() {
//!         "Oslo" => Ok(717_710),
//!         other => Err(format!("nobody counted {other}")),
//!     }
//! });
//! let answer = session.ask(small, Message::user(["How many people live in Oslo?".into()])).await?;
//! println!("{}", answer.text);
//! let answer = session.ask(large, Message::user(["And in Bergen?".into()])).await?;
//! println!("{}", answer.text);
//! session.save("cities.json")?;
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]

mod adapt;
mod file;
mod images;
mod session;
mod structured;
mod tools;
mod window;

pub use schemars;

pub use crate::{
    session::{Session, Turn},
    structured::{output_of, parse},
    tools::Toolbox,
};
