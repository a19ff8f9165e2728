//! What a model answers: a stream of events with exactly one end.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_core::Stream;
use serde::Serialize;

use crate::{Error, ErrorKind, Message, Part, Result, Role, ToolCall};

/// One step of an answer.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// Work that the caller may want to show while it waits; carries no text.
    Progress(Progress),
    /// Something done otherwise than asked, which the user should know; carries no text of the answer.
    Notice(Notice),
    /// The next piece of text: whole characters, never empty.
    Text(String),
    /// A tool that the model wants to have run, with all of its arguments.
    ToolCall(ToolCall),
    /// The end; nothing follows.
    End(Completion),
}

/// What was done otherwise than asked; prints as a sentence without a full stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Notice {
    /// Images were made smaller, since the request would not have fitted into memory.
    SmallerImages {
        /// The `max_pixels` that was used.
        max_pixels: u64,
        /// Bytes that the request would have needed.
        required_bytes: u64,
        /// Bytes that there were.
        available_bytes: u64,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::SmallerImages { max_pixels, required_bytes, available_bytes } = self;
        let [required, available] =
            [required_bytes, available_bytes].map(|&bytes| bytes as f64 / 1e9);
        write!(
            f,
            "images were made smaller, to at most {max_pixels} pixels: as asked, the request would \
             take {required:.2} GB of memory, and {available:.2} GB are available"
        )
    }
}

/// How far a stage has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// Units done: bytes, images or tokens, by stage.
    pub done: u64,
    /// Units in all.
    pub total: u64,
}

impl Progress {
    /// Returns `done` of `total` units of `stage`.
    #[must_use]
    pub fn new(stage: Stage, done: u64, total: u64) -> Self {
        Self { stage, done, total }
    }
}

/// A stage of work before the first token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// Reading the checkpoint, in bytes.
    Load,
    /// Decoding and resizing images, in images.
    Preprocess,
    /// Running the vision tower, in images.
    Encode,
    /// Reading the prompt, in tokens.
    Prefill,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FinishReason {
    /// The model ended its turn, or a stop text was reached.
    Stop,
    /// `max_tokens` or the end of the context was reached.
    Length,
    /// The model waits for the results of its [`Event::ToolCall`]s.
    ToolCalls,
    /// The service withheld the answer, or the rest of it.
    ContentFilter,
}

/// What an answer used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Usage {
    /// Tokens of the prompt, image tokens included.
    pub prompt_tokens: usize,
    /// Tokens of the prompt that stand for images.
    pub image_tokens: usize,
    /// Tokens of the prompt whose computation was reused from an earlier request.
    pub cached_tokens: usize,
    /// Tokens generated, the end token included.
    pub completion_tokens: usize,
}

impl Usage {
    /// Returns the usage of a prompt and its answer, without images or reuse.
    #[must_use]
    pub fn new(prompt_tokens: usize, completion_tokens: usize) -> Self {
        Self { prompt_tokens, completion_tokens, ..Self::default() }
    }
}

/// How an answer ended, what it used, and how long it took where the provider measured it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Completion {
    /// Why the answer ended.
    pub reason: FinishReason,
    /// What it used.
    pub usage: Usage,
    /// Time from the request to the first token.
    pub time_to_first_token: Option<Duration>,
    /// Time from the first token to the last.
    pub decode_time: Option<Duration>,
}

impl Completion {
    /// Returns a completion without times.
    #[must_use]
    pub fn new(reason: FinishReason, usage: Usage) -> Self {
        Self { reason, usage, time_to_first_token: None, decode_time: None }
    }

    /// Returns this completion with the times measured.
    #[must_use]
    pub fn with_times(mut self, time_to_first_token: Duration, decode_time: Duration) -> Self {
        self.time_to_first_token = Some(time_to_first_token);
        self.decode_time = Some(decode_time);
        self
    }
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Response {
    /// The text.
    pub text: String,
    /// The tools that the model wants to have run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// What was done otherwise than asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<Notice>,
    /// How it ended.
    #[serde(flatten)]
    pub completion: Completion,
}

impl Response {
    /// Returns the answer as a turn of the conversation: the text, then the calls.
    #[must_use]
    pub fn to_message(&self) -> Message {
        let calls = self.tool_calls.iter().cloned().map(Part::ToolCall);
        let text = (!self.text.is_empty() || self.tool_calls.is_empty())
            .then(|| Part::Text(self.text.clone()));
        Message::new(Role::Assistant, text.into_iter().chain(calls))
    }
}

/// The events of one answer; dropping it cancels the work.
///
/// Whatever a provider puts in, a caller sees events, then exactly one [`Event::End`] or one error,
/// then nothing.
#[must_use = "an answer that is not read is cancelled when it is dropped"]
pub struct EventStream {
    /// `None` once the end was handed out, which also drops (and so cancels) what lies behind.
    inner: Option<Pin<Box<dyn Stream<Item = Result<Event>> + Send>>>,
}

impl EventStream {
    /// Wraps a provider's stream.
    pub fn new(stream: impl Stream<Item = Result<Event>> + Send + 'static) -> Self {
        Self { inner: Some(Box::pin(stream)) }
    }

    /// Returns the next event, or `None` after the end.
    pub async fn next(&mut self) -> Option<Result<Event>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// Reads to the end and returns the whole answer.
    ///
    /// # Errors
    /// The error that ended the stream.
    pub async fn collect(mut self) -> Result<Response> {
        let (mut text, mut tool_calls, mut notices) = (String::new(), Vec::new(), Vec::new());
        while let Some(event) = self.next().await {
            match event? {
                Event::Text(piece) => text.push_str(&piece),
                Event::Notice(notice) => notices.push(notice),
                Event::ToolCall(call) => tool_calls.push(call),
                Event::End(completion) => {
                    return Ok(Response { text, tool_calls, notices, completion });
                }
                Event::Progress(_) => {}
            }
        }
        Err(Error::new(ErrorKind::Internal, "the answer was read after its end"))
    }
}

impl<I> FromIterator<I> for EventStream
where
    Result<Event>: From<I>,
{
    /// Returns a stream of events that are already there.
    fn from_iter<T: IntoIterator<Item = I>>(events: T) -> Self {
        let events: Vec<Result<Event>> = events.into_iter().map(Into::into).collect();
        Self::new(Ready(events.into_iter()))
    }
}

impl Stream for EventStream {
    type Item = Result<Event>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(inner) = self.inner.as_mut() else { return Poll::Ready(None) };
        let item = match inner.as_mut().poll_next(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(item)) => item,
            Poll::Ready(None) => {
                Err(Error::new(ErrorKind::Internal, "the provider stopped without an end event"))
            }
        };
        if matches!(item, Err(_) | Ok(Event::End(_))) {
            self.inner = None;
        }
        Poll::Ready(Some(item))
    }
}

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStream").field("ended", &self.inner.is_none()).finish()
    }
}

struct Ready(std::vec::IntoIter<Result<Event>>);

impl Stream for Ready {
    type Item = Result<Event>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.0.next())
    }
}

#[cfg(test)]
mod tests {
    use futures_executor::block_on;

    use super::*;

    fn end() -> Event {
        Event::End(Completion::new(FinishReason::Stop, Usage::new(1, 1)))
    }

    #[test]
    fn nothing_follows_the_end() {
        let events = [Ok(Event::Text("a".into())), Ok(end()), Ok(Event::Text("b".into()))];
        let mut stream = EventStream::from_iter(events);
        let mut seen = Vec::new();
        while let Some(event) = block_on(stream.next()) {
            seen.push(event.unwrap());
        }
        assert_eq!(seen, [Event::Text("a".into()), end()]);
    }

    #[test]
    fn a_response_keeps_the_notices() {
        let notice = Notice::SmallerImages {
            max_pixels: 784,
            required_bytes: 4_123_000_000,
            available_bytes: 2_000_000_000,
        };
        assert_eq!(
            notice.to_string(),
            "images were made smaller, to at most 784 pixels: as asked, the request would take \
             4.12 GB of memory, and 2.00 GB are available"
        );
        let events = [Event::Notice(notice), Event::Text("a".into()), end()];
        let response = block_on(EventStream::from_iter(events.map(Ok)).collect()).unwrap();
        assert_eq!((response.text.as_str(), response.notices.as_slice()), ("a", &[notice][..]));
    }

    #[test]
    fn a_response_becomes_a_turn() {
        let call = ToolCall::new("1", "f", serde_json::json!({}));
        let events = [Event::Text("a".into()), Event::ToolCall(call.clone()), end()];
        let response = block_on(EventStream::from_iter(events.map(Ok)).collect()).unwrap();
        assert_eq!(response.tool_calls, std::slice::from_ref(&call));
        assert_eq!(response.to_message().parts, [Part::from("a"), Part::from(call)]);
        let empty = block_on(EventStream::from_iter([Ok(end())]).collect()).unwrap();
        assert_eq!(empty.to_message().parts, [Part::from("")]);
    }

    #[test]
    fn a_missing_end_is_an_error_once() {
        let mut stream = EventStream::from_iter([Ok(Event::Text("a".into()))]);
        assert!(block_on(stream.next()).unwrap().is_ok());
        let error = block_on(stream.next()).unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert!(block_on(stream.next()).is_none());
    }
}
