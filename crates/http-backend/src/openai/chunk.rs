//! The events of a chat completion.

use llm_core::{Error, ErrorKind, FinishReason, Result, ToolCall, Usage};
use serde::Deserialize;
use serde_json::Value;
use sse_stream::Sse;

use crate::{
    answer::{Decoder, Finish},
    failure::{Said, of_said},
};

/// What has been read of an answer.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    calls: Vec<PartialCall>,
    reason: Option<FinishReason>,
    refused: bool,
    usage: Usage,
    ended: bool,
}

/// A call whose arguments come in pieces.
#[derive(Debug, Default)]
struct PartialCall {
    /// The number that its pieces have; some servers send whole calls without one.
    index: Option<usize>,
    id: String,
    name: String,
    arguments: String,
}

#[derive(Debug, Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Counts>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    // A server that does not stream sends the whole message.
    #[serde(alias = "message")]
    delta: Option<Delta>,
    finish_reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Delta {
    content: Option<String>,
    refusal: Option<String>,
    tool_calls: Option<Vec<CallDelta>>,
}

#[derive(Debug, Deserialize)]
struct CallDelta {
    index: Option<usize>,
    id: Option<String>,
    function: Option<FunctionDelta>,
}

#[derive(Debug, Deserialize)]
struct FunctionDelta {
    name: Option<String>,
    /// A text; some servers send the object itself.
    arguments: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Counts {
    #[serde(default)]
    prompt_tokens: usize,
    #[serde(default)]
    completion_tokens: usize,
    prompt_tokens_details: Option<Details>,
}

#[derive(Debug, Deserialize)]
struct Details {
    cached_tokens: Option<usize>,
}

impl Decoder for Chunks {
    fn read(&mut self, event: &Sse) -> Result<Option<String>> {
        let Some(data) = event.data.as_deref().map(str::trim) else { return Ok(None) };
        if data == "[DONE]" {
            self.ended = true;
            return Ok(None);
        }
        let json: Value = serde_json::from_str(data).map_err(|e| unreadable(data, &e))?;
        if json.get("error").is_some_and(|error| !error.is_null()) {
            let said = Said::of_json(&json);
            return Err(Error::new(of_said(&said), format!("the server failed: {}", said.message)));
        }
        let chunk: Chunk = serde_json::from_value(json).map_err(|e| unreadable(data, &e))?;
        if let Some(counts) = chunk.usage {
            self.usage = Usage::new(counts.prompt_tokens, counts.completion_tokens);
            let details = counts.prompt_tokens_details.and_then(|details| details.cached_tokens);
            self.usage.cached_tokens = details.unwrap_or(0);
        }
        // One answer was asked for.
        let Some(choice) = chunk.choices.into_iter().next() else { return Ok(None) };
        if let Some(reason) = choice.finish_reason {
            self.reason = Some(finish_reason(&reason));
        }
        let Some(delta) = choice.delta else { return Ok(None) };
        delta.tool_calls.into_iter().flatten().for_each(|call| self.add(call));
        self.refused |= delta.refusal.as_ref().is_some_and(|text| !text.is_empty());
        let text = [delta.content, delta.refusal].into_iter().flatten().collect::<String>();
        Ok((!text.is_empty()).then_some(text))
    }

    fn ended(&self) -> bool {
        self.ended
    }

    fn finish(&mut self) -> Option<Finish> {
        let reason = self.reason?;
        let calls: Vec<_> = self
            .calls
            .drain(..)
            .enumerate()
            .map(|(i, call)| {
                let id = if call.id.is_empty() { format!("call_{i}") } else { call.id };
                ToolCall::from_text(id, call.name, &call.arguments)
            })
            .collect();
        let reason = match reason {
            // A tool that was chosen by name ends the answer as if the model had stopped.
            FinishReason::Stop if !calls.is_empty() => FinishReason::ToolCalls,
            FinishReason::Stop if self.refused => FinishReason::ContentFilter,
            reason => reason,
        };
        // Calls that were cut short must not be run.
        let calls = if reason == FinishReason::ToolCalls { calls } else { Vec::new() };
        Some(Finish { calls, reason })
    }

    fn usage(&self) -> Usage {
        self.usage
    }
}

impl Chunks {
    fn add(&mut self, delta: CallDelta) {
        let id = delta.id.unwrap_or_default();
        let known = self.calls.iter().position(|call| match delta.index {
            Some(index) => call.index == Some(index),
            None => !id.is_empty() && call.id == id,
        });
        let at = known.unwrap_or(self.calls.len());
        if at == self.calls.len() {
            self.calls.push(PartialCall { index: delta.index, ..PartialCall::default() });
        }
        let call = &mut self.calls[at];
        if call.id.is_empty() {
            call.id = id;
        }
        let Some(function) = delta.function else { return };
        // The name comes once, with the first piece; a server that repeats it means the same.
        if call.name.is_empty() {
            call.name = function.name.unwrap_or_default();
        }
        match function.arguments {
            Some(Value::String(text)) => call.arguments += &text,
            Some(Value::Null) | None => {}
            Some(other) => call.arguments += &other.to_string(),
        }
    }
}

fn finish_reason(name: &str) -> FinishReason {
    match name {
        "length" | "max_tokens" => FinishReason::Length,
        "tool_calls" | "function_call" => FinishReason::ToolCalls,
        "content_filter" => FinishReason::ContentFilter,
        _ => FinishReason::Stop,
    }
}

fn unreadable(data: &str, error: &serde_json::Error) -> Error {
    let start: String = data.chars().take(80).collect();
    Error::new(
        ErrorKind::Unavailable,
        format!("expected a piece of a chat completion, found `{start}` ({error})"),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(events: &[&str]) -> Result<(String, Chunks)> {
        let mut chunks = Chunks::default();
        let mut text = String::new();
        for data in events {
            let event = Sse::default().data(*data);
            text += &chunks.read(&event)?.unwrap_or_default();
        }
        Ok((text, chunks))
    }

    #[test]
    fn text_usage_and_end_are_read() {
        let (text, mut chunks) = read(&[
            r#"{"choices":[{"delta":{"role":"assistant","content":""}}],"usage":null}"#,
            r#"{"choices":[{"delta":{"content":"Hé"},"finish_reason":null}]}"#,
            r#"{"choices":[{"delta":{"content":"llo"}}]}"#,
            r#"{"choices":[{"delta":{},"finish_reason":"length"}]}"#,
            r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11,
                "prompt_tokens_details":{"cached_tokens":4}}}"#,
            "[DONE]",
        ])
        .unwrap();
        assert_eq!(text, "Héllo");
        assert!(chunks.ended());
        assert_eq!(chunks.finish().unwrap().reason, FinishReason::Length);
        let usage = chunks.usage();
        assert_eq!((usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens), (9, 2, 4));
    }

    #[test]
    fn calls_are_put_together() {
        let (text, mut chunks) = read(&[
            r#"{"choices":[{"delta":{"tool_calls":[
                {"index":0,"id":"a","type":"function","function":{"name":"f","arguments":""}}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"x\":"}}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[
                {"index":1,"id":"b","function":{"name":"g","arguments":"{}"}}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"1}"}}]}}]}"#,
            r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#,
        ])
        .unwrap();
        let finish = chunks.finish().unwrap();
        assert_eq!((text.as_str(), finish.reason), ("", FinishReason::ToolCalls));
        let expected =
            [ToolCall::new("a", "f", json!({"x": 1})), ToolCall::new("b", "g", json!({}))];
        assert_eq!(finish.calls, expected);
    }

    #[test]
    fn whole_calls_without_numbers_are_read() {
        let (_, mut chunks) = read(&[r#"{"choices":[{"delta":{"tool_calls":[
                {"function":{"name":"f","arguments":{"x":1}}},{"function":{"name":"g"}}]},
                "finish_reason":"tool_calls"}]}"#])
        .unwrap();
        let calls = chunks.finish().unwrap().calls;
        let ids: Vec<_> = calls.iter().map(|call| call.id.as_str()).collect();
        assert_eq!((ids, &calls[0].arguments), (vec!["call_0", "call_1"], &json!({"x": 1})));
    }

    #[test]
    fn a_whole_completion_is_read() {
        let (text, mut chunks) = read(&[
            r#"{"choices":[{"message":{"role":"assistant","content":"a","tool_calls":null},
                "finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#,
        ])
        .unwrap();
        assert_eq!((text.as_str(), chunks.usage().prompt_tokens), ("a", 3));
        assert_eq!(chunks.finish().unwrap().reason, FinishReason::Stop);
    }

    #[test]
    fn a_call_that_was_cut_short_is_not_made() {
        let (_, mut chunks) = read(&[
            r#"{"choices":[{"delta":{"tool_calls":[
                {"index":0,"id":"a","function":{"name":"rm","arguments":"{\"path\":\"/"}}]}}]}"#,
            r#"{"choices":[{"delta":{},"finish_reason":"length"}]}"#,
        ])
        .unwrap();
        let finish = chunks.finish().unwrap();
        assert!(finish.calls.is_empty() && finish.reason == FinishReason::Length);
    }

    #[test]
    fn an_answer_without_an_end_has_none() {
        let (_, mut chunks) = read(&[r#"{"choices":[{"delta":{"content":"a"}}]}"#]).unwrap();
        assert!(chunks.finish().is_none() && !chunks.ended());
    }

    #[test]
    fn errors_in_the_middle_are_errors() {
        let error = read(&[r#"{"error":{"message":"gone","type":"server_error"}}"#]).unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (ErrorKind::Unavailable, "the server failed: gone")
        );
        let error = read(&["{\"choices\":[{"]).unwrap_err();
        assert!(error.to_string().starts_with("expected a piece of a chat completion"), "{error}");
    }
}
