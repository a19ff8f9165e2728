//! The events of a message.

use std::collections::BTreeMap;

use llm_core::{Error, ErrorKind, FinishReason, Result, ToolCall, Usage};
use serde::Deserialize;
use serde_json::Value;
use sse_stream::Sse;

use crate::{
    answer::{Decoder, Finish},
    failure::{Said, of_said},
};

/// What has been read of a message.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// Calls by the index of their block, with the arguments as they come.
    calls: BTreeMap<usize, (String, String, String)>,
    reason: Option<FinishReason>,
    counts: Counts,
    ended: bool,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event {
    MessageStart {
        message: Whole,
    },
    ContentBlockStart {
        index: usize,
        content_block: Block,
    },
    ContentBlockDelta {
        index: usize,
        delta: Delta,
    },
    MessageDelta {
        delta: End,
        usage: Option<Counts>,
    },
    MessageStop,
    Error,
    /// A server that does not stream.
    Message(Whole),
    // Pings, ends of blocks, and what later versions add.
    #[serde(other)]
    Other,
}

#[derive(Debug, Deserialize)]
struct Whole {
    #[serde(default)]
    content: Vec<Block>,
    stop_reason: Option<String>,
    usage: Option<Counts>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block {
    Text {
        #[serde(default)]
        text: String,
    },
    ToolUse {
        id: String,
        name: String,
        #[serde(default)]
        input: Value,
    },
    #[serde(other)]
    Other,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(clippy::enum_variant_names, reason = "the names of the protocol")]
enum Delta {
    TextDelta {
        text: String,
    },
    InputJsonDelta {
        partial_json: String,
    },
    #[serde(other)]
    OtherDelta,
}

#[derive(Debug, Deserialize)]
struct End {
    stop_reason: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
struct Counts {
    input_tokens: Option<usize>,
    output_tokens: Option<usize>,
    cache_read_input_tokens: Option<usize>,
    cache_creation_input_tokens: Option<usize>,
}

impl Counts {
    /// Takes what a later event says; its counts are totals.
    fn update(&mut self, later: Self) {
        self.input_tokens = later.input_tokens.or(self.input_tokens);
        self.output_tokens = later.output_tokens.or(self.output_tokens);
        self.cache_read_input_tokens =
            later.cache_read_input_tokens.or(self.cache_read_input_tokens);
        self.cache_creation_input_tokens =
            later.cache_creation_input_tokens.or(self.cache_creation_input_tokens);
    }
}

impl Decoder for Blocks {
    fn read(&mut self, event: &Sse) -> Result<Option<String>> {
        let Some(data) = event.data.as_deref() else { return Ok(None) };
        let json: Value = serde_json::from_str(data).map_err(|e| unreadable(data, &e))?;
        let event = Event::deserialize(&json).map_err(|e| unreadable(data, &e))?;
        let text = match event {
            Event::MessageStart { message } => self.whole(message),
            Event::Message(message) => {
                self.ended = true;
                self.whole(message)
            }
            Event::ContentBlockStart { index, content_block } => self.block(index, content_block),
            Event::ContentBlockDelta { index, delta } => match delta {
                Delta::TextDelta { text } => text,
                Delta::InputJsonDelta { partial_json } => {
                    let call = self.calls.get_mut(&index);
                    call.into_iter().for_each(|call| call.2 += &partial_json);
                    String::new()
                }
                Delta::OtherDelta => String::new(),
            },
            Event::MessageDelta { delta, usage } => {
                self.end(delta.stop_reason, usage);
                String::new()
            }
            Event::MessageStop => {
                self.ended = true;
                String::new()
            }
            Event::Error => {
                let said = Said::of_json(&json);
                let message = format!("the server failed: {}", said.message);
                return Err(Error::new(of_said(&said), message));
            }
            Event::Other => String::new(),
        };
        Ok((!text.is_empty()).then_some(text))
    }

    fn ended(&self) -> bool {
        self.ended
    }

    fn finish(&mut self) -> Option<Finish> {
        let reason = self.reason?;
        let calls = std::mem::take(&mut self.calls).into_values();
        let calls = calls.map(|(id, name, text)| ToolCall::from_text(id, name, &text)).collect();
        // Calls that were cut short must not be run.
        let calls = if reason == FinishReason::ToolCalls { calls } else { Vec::new() };
        Some(Finish { calls, reason })
    }

    fn usage(&self) -> Usage {
        let count = |count: Option<usize>| count.unwrap_or(0);
        let Counts { input_tokens, output_tokens, .. } = self.counts;
        let cached = count(self.counts.cache_read_input_tokens);
        let written = count(self.counts.cache_creation_input_tokens);
        let mut usage = Usage::new(count(input_tokens) + cached + written, count(output_tokens));
        usage.cached_tokens = cached;
        usage
    }
}

impl Blocks {
    fn whole(&mut self, message: Whole) -> String {
        self.end(message.stop_reason, message.usage);
        let blocks = message.content.into_iter().enumerate();
        blocks.map(|(index, block)| self.block(index, block)).collect()
    }

    fn block(&mut self, index: usize, block: Block) -> String {
        match block {
            Block::Text { text } => text,
            Block::ToolUse { id, name, input } => {
                // The arguments follow in pieces; a message in one piece has them here.
                let is_empty = input.as_object().is_none_or(serde_json::Map::is_empty);
                let text = if is_empty { String::new() } else { input.to_string() };
                self.calls.insert(index, (id, name, text));
                String::new()
            }
            Block::Other => String::new(),
        }
    }

    fn end(&mut self, reason: Option<String>, counts: Option<Counts>) {
        self.reason = reason.map(|reason| finish_reason(&reason)).or(self.reason);
        counts.into_iter().for_each(|counts| self.counts.update(counts));
    }
}

fn finish_reason(name: &str) -> FinishReason {
    match name {
        "max_tokens" | "model_context_window_exceeded" => FinishReason::Length,
        "tool_use" => FinishReason::ToolCalls,
        "refusal" => FinishReason::ContentFilter,
        _ => FinishReason::Stop,
    }
}

fn unreadable(data: &str, error: &serde_json::Error) -> Error {
    let start: String = data.chars().take(80).collect();
    Error::new(
        ErrorKind::Unavailable,
        format!("expected an event of a message, found `{start}` ({error})"),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(events: &[Value]) -> Result<(String, Blocks)> {
        let mut blocks = Blocks::default();
        let mut text = String::new();
        for data in events {
            text += &blocks.read(&Sse::default().data(data.to_string()))?.unwrap_or_default();
        }
        Ok((text, blocks))
    }

    #[test]
    fn a_message_is_put_together() {
        let delta = |index: usize, delta: Value| json!({"type": "content_block_delta", "index": index, "delta": delta});
        let start = |index: usize, block: Value| json!({"type": "content_block_start", "index": index, "content_block": block});
        let (text, mut blocks) = read(&[
            json!({"type": "message_start", "message": {"id": "m", "content": [], "stop_reason": null,
                "usage": {"input_tokens": 5, "cache_read_input_tokens": 3, "output_tokens": 1}}}),
            json!({"type": "ping"}),
            start(0, json!({"type": "thinking", "thinking": ""})),
            delta(0, json!({"type": "thinking_delta", "thinking": "hm"})),
            start(1, json!({"type": "text", "text": ""})),
            delta(1, json!({"type": "text_delta", "text": "Let me "})),
            delta(1, json!({"type": "text_delta", "text": "look."})),
            json!({"type": "content_block_stop", "index": 1}),
            start(2, json!({"type": "tool_use", "id": "a", "name": "f", "input": {}})),
            start(3, json!({"type": "tool_use", "id": "b", "name": "g", "input": {}})),
            delta(2, json!({"type": "input_json_delta", "partial_json": "{\"x\":"})),
            delta(2, json!({"type": "input_json_delta", "partial_json": "1}"})),
            json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"},
                "usage": {"output_tokens": 9}}),
            json!({"type": "message_stop"}),
        ])
        .unwrap();
        assert_eq!(text, "Let me look.");
        assert!(blocks.ended());
        let finish = blocks.finish().unwrap();
        assert_eq!(finish.reason, FinishReason::ToolCalls);
        let expected =
            [ToolCall::new("a", "f", json!({"x": 1})), ToolCall::new("b", "g", json!({}))];
        assert_eq!(finish.calls, expected);
        let usage = blocks.usage();
        assert_eq!((usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens), (8, 3, 9));
    }

    #[test]
    fn a_message_in_one_piece_is_read() {
        let call = json!({"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}});
        let (text, mut blocks) = read(&[json!({"type": "message", "stop_reason": "tool_use",
            "content": [{"type": "text", "text": "a"}, call],
            "usage": {"input_tokens": 2, "output_tokens": 1}})])
        .unwrap();
        assert_eq!((text.as_str(), blocks.ended()), ("a", true));
        assert_eq!(blocks.finish().unwrap().calls[0].arguments, json!({"x": 1}));
    }

    #[test]
    fn an_error_in_the_middle_is_one() {
        let error = json!({"type": "overloaded_error", "message": "Overloaded"});
        let error = read(&[json!({"type": "error", "error": error})]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(error.to_string(), "the server failed: Overloaded");
        assert!(read(&[json!({"kind": "message_stop"})]).is_err());
    }

    #[test]
    fn a_message_without_an_end_has_none() {
        let text = json!({"type": "text", "text": "a"});
        let start = json!({"type": "content_block_start", "index": 0, "content_block": text});
        let (text, mut blocks) = read(&[start]).unwrap();
        assert_eq!(text, "a");
        assert!(blocks.finish().is_none() && !blocks.ended());
    }
}
