//! An answer as clients read it.

use llm_core::{FinishReason, Notice, Response, ToolCall, Usage};
use serde_json::{Value, json};

use crate::state::now;

/// What all objects of one answer begin with.
#[derive(Clone, Debug)]
pub(super) struct Head {
    id: String,
    created: u64,
    model: String,
}

impl Head {
    pub(super) fn new(model: &str) -> Self {
        Self { id: format!("chatcmpl-{:032x}", random()), created: now(), model: model.to_owned() }
    }

    /// Returns the whole answer.
    pub(super) fn completion(&self, response: &Response) -> Value {
        let mut object = self.object("chat.completion");
        let mut message = json!({"role": "assistant", "content": response.text, "refusal": null});
        if !response.tool_calls.is_empty() {
            message["tool_calls"] = response.tool_calls.iter().map(tool_call).collect();
            if response.text.is_empty() {
                message["content"] = Value::Null;
            }
        }
        object["choices"] = json!([{
            "index": 0,
            "message": message,
            "logprobs": null,
            "finish_reason": finish_reason(response.completion.reason),
        }]);
        object["usage"] = usage(&response.completion.usage);
        with_notices(object, &response.notices)
    }

    /// Returns a step of an answer.
    pub(super) fn chunk(&self, delta: Value, reason: Option<FinishReason>) -> Value {
        let mut object = self.object("chat.completion.chunk");
        object["choices"] = json!([{
            "index": 0,
            "delta": delta,
            "logprobs": null,
            "finish_reason": reason.map(finish_reason),
        }]);
        object
    }

    /// Returns the step without text that says what was used.
    pub(super) fn usage_chunk(&self, used: &Usage) -> Value {
        let mut object = self.object("chat.completion.chunk");
        object["choices"] = json!([]);
        object["usage"] = usage(used);
        object
    }

    fn object(&self, object: &str) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": null,
        })
    }
}

/// Adds what was done otherwise than asked, which OpenAI has no field for.
pub(super) fn with_notices(mut object: Value, notices: &[Notice]) -> Value {
    if !notices.is_empty() {
        let told = notices.iter().map(|notice| {
            let mut value = json!(notice);
            value["message"] = notice.to_string().into();
            value
        });
        object["notices"] = told.collect();
    }
    object
}

/// Returns `call` as clients read it.
pub(super) fn tool_call(call: &ToolCall) -> Value {
    json!({
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments_text()},
    })
}

fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Length => "length",
        FinishReason::ToolCalls => "tool_calls",
        FinishReason::ContentFilter => "content_filter",
        _ => "stop",
    }
}

fn usage(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "image_tokens": usage.image_tokens,
        },
    })
}

fn random() -> u128 {
    let mut bytes = [0; 16];
    // Without a source of chance the time still tells answers apart.
    if getrandom::fill(&mut bytes).is_err() {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        return since.map_or(0, |since| since.as_nanos());
    }
    u128::from_ne_bytes(bytes)
}
