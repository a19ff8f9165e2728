//! A provider without a model: it plays what the test wrote.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use async_trait::async_trait;
use futures_core::Stream;

use crate::{
    Capabilities, Capability, Completion, Error, ErrorKind, Event, EventStream, FinishReason,
    GenerateParams, Image, Message, ModelInfo, Provider, Request, Result, ToolCall, Usage,
};

/// One answer of a [`ScriptedProvider`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Script {
    /// The pieces of text, one token each.
    pub pieces: Vec<String>,
    /// The tools that are called after the text; they count as one token each.
    pub tool_calls: Vec<ToolCall>,
    /// Ends the answer with an error of this kind and message after the pieces.
    pub error: Option<(ErrorKind, String)>,
}

impl Script {
    /// Returns the script of an answer: a piece for each word, white space kept.
    #[must_use]
    pub fn text(text: &str) -> Self {
        let pieces = text.split_inclusive(' ').map(str::to_owned).collect();
        Self { pieces, ..Self::default() }
    }

    /// Returns this script with calls of tools after its text.
    #[must_use]
    pub fn calls(mut self, calls: impl IntoIterator<Item = ToolCall>) -> Self {
        self.tool_calls = calls.into_iter().collect();
        self
    }

    /// Returns this script with an error at its end.
    #[must_use]
    pub fn fails(mut self, kind: ErrorKind, message: impl Into<String>) -> Self {
        self.error = Some((kind, message.into()));
        self
    }
}

/// Plays scripts in turn, the last one for ever, and remembers what it was asked.
///
/// It honours `max_tokens` and `stop`, refuses what [`Request::validate`] refuses, and takes an
/// encoded image for broken unless it begins like a PNG or JPEG file.
#[derive(Debug)]
pub struct ScriptedProvider {
    info: ModelInfo,
    scripts: Mutex<VecDeque<Script>>,
    requests: Mutex<Vec<Request>>,
    cancelled: Arc<AtomicUsize>,
}

impl ScriptedProvider {
    /// Returns a provider that plays `scripts`; without any it answers with the empty text.
    pub fn new(scripts: impl IntoIterator<Item = Script>) -> Self {
        let capabilities = Capabilities::from_iter([
            Capability::Streaming,
            Capability::SystemPrompt,
            Capability::Vision,
            Capability::MultipleImages,
            Capability::Seed,
        ]);
        Self {
            info: ModelInfo::new("scripted", "script", capabilities).with_context_tokens(4096),
            scripts: Mutex::new(scripts.into_iter().collect()),
            requests: Mutex::default(),
            cancelled: Arc::default(),
        }
    }

    /// Returns this provider with more capabilities; the scripts must live up to them.
    #[must_use]
    pub fn with_capabilities(mut self, more: impl IntoIterator<Item = Capability>) -> Self {
        self.info.capabilities.extend(more);
        self
    }

    /// Returns every request that was accepted, in order.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns how many answers were dropped before their end.
    #[must_use]
    pub fn cancelled(&self) -> usize {
        self.cancelled.load(Ordering::SeqCst)
    }

    fn next_script(&self) -> Script {
        let mut scripts = self.scripts.lock().unwrap_or_else(PoisonError::into_inner);
        if scripts.len() > 1 { scripts.pop_front() } else { scripts.front().cloned() }
            .unwrap_or_default()
    }
}

#[async_trait]
impl Provider for ScriptedProvider {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    async fn generate_stream(&self, request: Request) -> Result<EventStream> {
        request.validate(&self.info)?;
        request.messages.iter().flat_map(Message::images).try_for_each(check_image)?;
        let prompt_tokens =
            request.messages.iter().map(|m| m.text().split_whitespace().count()).sum::<usize>();
        let play = Play::new(self.next_script(), &request.params, prompt_tokens.max(1));
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        Ok(EventStream::new(Playing { play, cancelled: self.cancelled.clone() }))
    }
}

fn check_image(image: &Image) -> Result<()> {
    let reason = match image {
        Image::Path(path) if !path.is_file() => format!("no such file: {}", path.display()),
        Image::Encoded(bytes)
            if !bytes.starts_with(b"\x89PNG") && !bytes.starts_with(b"\xff\xd8") =>
        {
            "expected a PNG or JPEG file, found something else".to_owned()
        }
        _ => return Ok(()),
    };
    Err(Error::new(ErrorKind::Image, reason))
}

/// The events of one answer, worked out in advance so that stop texts need no look-ahead.
#[derive(Debug)]
struct Play(VecDeque<Result<Event>>);

impl Play {
    fn new(script: Script, params: &GenerateParams, prompt_tokens: usize) -> Self {
        let max = params.max_tokens.unwrap_or(GenerateParams::DEFAULT_MAX_TOKENS) as usize;
        let cut = script.pieces.len() > max;
        let pieces = &script.pieces[..script.pieces.len().min(max)];
        let whole = pieces.concat();
        let stop_at = params.stop.iter().filter_map(|stop| whole.find(stop)).min();
        let mut left = stop_at.unwrap_or(whole.len());
        let mut events = VecDeque::new();
        let mut tokens = 0;
        for piece in pieces {
            let keep = piece.len().min(left);
            if keep > 0 {
                events.push_back(Ok(Event::Text(piece[..keep].to_owned())));
            }
            left -= keep;
            tokens += 1;
            if left == 0 && stop_at.is_some() {
                break;
            }
        }
        let calls = if cut || stop_at.is_some() { Vec::new() } else { script.tool_calls };
        let reason = match (cut && stop_at.is_none(), calls.is_empty()) {
            (true, _) => FinishReason::Length,
            (false, true) => FinishReason::Stop,
            (false, false) => FinishReason::ToolCalls,
        };
        tokens += calls.len();
        events.extend(calls.into_iter().map(|call| Ok(Event::ToolCall(call))));
        let end = match script.error {
            Some((kind, message)) if stop_at.is_none() && !cut => Err(Error::new(kind, message)),
            // The end token counts where the model ended by itself.
            _ => Ok(Event::End(Completion::new(
                reason,
                Usage::new(prompt_tokens, (tokens + usize::from(!cut)).min(max)),
            ))),
        };
        events.push_back(end);
        Self(events)
    }
}

struct Playing {
    play: Play,
    cancelled: Arc<AtomicUsize>,
}

impl Stream for Playing {
    type Item = Result<Event>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.play.0.pop_front())
    }
}

impl Drop for Playing {
    fn drop(&mut self) {
        if !self.play.0.is_empty() {
            self.cancelled.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_executor::block_on;

    use super::*;

    #[test]
    fn an_error_after_text_loses_no_text() {
        let script = Script::text("one two").fails(ErrorKind::Unavailable, "gone");
        let mut stream =
            block_on(ScriptedProvider::new([script]).generate_stream(Request::text("x"))).unwrap();
        assert_eq!(block_on(stream.next()).unwrap().unwrap(), Event::Text("one ".into()));
        assert_eq!(block_on(stream.next()).unwrap().unwrap(), Event::Text("two".into()));
        let error = block_on(stream.next()).unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(block_on(stream.next()).is_none());
    }

    #[test]
    fn calls_follow_the_text() {
        let call = ToolCall::new("1", "f", serde_json::json!({"a": 1}));
        let provider = ScriptedProvider::new([Script::text("one two").calls([call.clone()])]);
        let answer = block_on(provider.generate(Request::text("x"))).unwrap();
        assert_eq!((answer.text.as_str(), &answer.tool_calls[..]), ("one two", &[call][..]));
        assert_eq!(answer.completion.reason, FinishReason::ToolCalls);
    }

    #[test]
    fn scripts_play_in_turn_and_drops_are_counted() {
        let provider = ScriptedProvider::new([Script::text("a b"), Script::text("c d")]);
        drop(block_on(provider.generate_stream(Request::text("x"))).unwrap());
        assert_eq!(provider.cancelled(), 1);
        for _ in 0..2 {
            let answer = block_on(provider.generate(Request::text("y"))).unwrap();
            assert_eq!(answer.text, "c d");
        }
        assert_eq!(provider.cancelled(), 1);
        assert_eq!(provider.requests().len(), 3);
    }
}
