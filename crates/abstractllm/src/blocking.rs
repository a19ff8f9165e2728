//! The calls of [`Provider`] and of conversations for programs without an async runtime.
//!
//! ```no_run
//! use std::io::Write;
//! use abstractllm::{Event, Request, blocking, create_llm};
//!
//! let llm = create_llm("mlx", [("model", "tiny-vl")])?;
//! for event in blocking::stream(&*llm, Request::text("Who are you?"))? {
//!     if let Event::Text(text) = event? {
//!         print!("{text}");
//!         std::io::stdout().flush().unwrap();
//!     }
//! }
//! # Ok::<(), abstractllm::Error>(())
//! ```
//!
//! They wait on the calling thread, so they panic inside a future that this same executor runs;
//! async code calls the provider itself.

use futures_executor::block_on;
use llm_core::{Event, EventStream, Provider, Request, Response, Result};
#[cfg(feature = "session")]
use llm_core::{Message, ToolCall, ToolResult};
#[cfg(feature = "session")]
use llm_session::{Session, Toolbox};

/// Waits for the whole answer.
///
/// # Errors
/// As [`Provider::generate`].
pub fn generate(provider: &dyn Provider, request: Request) -> Result<Response> {
    block_on(provider.generate(request))
}

/// Starts an answer and iterates over its events as they come; dropping the iterator cancels it.
///
/// # Errors
/// An error found before the first event; later ones arrive through the iterator.
pub fn stream(provider: &dyn Provider, request: Request) -> Result<Events> {
    block_on(provider.generate_stream(request)).map(Events)
}

/// Asks `provider` the next question of a conversation and waits for the answer.
///
/// # Errors
/// As [`Session::ask`].
#[cfg(feature = "session")]
pub fn ask(session: &mut Session, provider: &dyn Provider, question: Message) -> Result<Response> {
    block_on(session.ask(provider, question))
}

/// As [`ask`], and hands every event to `on_event` as it comes.
///
/// # Errors
/// As [`Session::ask`].
#[cfg(feature = "session")]
pub fn ask_with(
    session: &mut Session,
    provider: &dyn Provider,
    question: Message,
    on_event: impl FnMut(&Event) + Send,
) -> Result<Response> {
    block_on(session.ask_with(provider, question, on_event))
}

/// Runs `calls` side by side and returns a result for each, in their order, as [`Toolbox::run`].
#[cfg(feature = "session")]
#[must_use = "a model waits for the results of its calls"]
pub fn run_tools(tools: &Toolbox, calls: &[ToolCall]) -> Vec<ToolResult> {
    block_on(tools.run(calls))
}

/// The events of one answer: any number of events, then one [`Event::End`] or one error.
#[derive(Debug)]
#[must_use = "an answer that is not read is cancelled when it is dropped"]
pub struct Events(EventStream);

impl Events {
    /// Reads to the end and returns the text that was not read yet, and how the answer ended.
    ///
    /// # Errors
    /// The error that ended the answer.
    pub fn collect_response(self) -> Result<Response> {
        block_on(self.0.collect())
    }
}

impl Iterator for Events {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        block_on(self.0.next())
    }
}
