//! An answer as server-sent events.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use axum::response::{
    IntoResponse, Response, Sse,
    sse::{Event as SseEvent, KeepAlive},
};
use llm_core::{Event, Notice};
use serde_json::{Value, json};

use super::{
    answer::Answer,
    response::{Head, tool_call, with_notices},
};
use crate::error::ApiError;

/// How often something is sent while nothing happens, so that nobody takes the connection for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The events of one answer. Dropping it, as happens when the client goes away, cancels the answer.
struct Steps {
    answer: Answer,
    head: Head,
    include_usage: bool,
    notices: Vec<Notice>,
    tool_calls: usize,
    ready: VecDeque<SseEvent>,
    ended: bool,
}

/// Returns `answer` as it is made.
pub(super) fn respond(answer: Answer, head: Head, include_usage: bool) -> Response {
    let mut steps = Steps {
        answer,
        head,
        include_usage,
        notices: Vec::new(),
        tool_calls: 0,
        ready: VecDeque::new(),
        ended: false,
    };
    steps.step(json!({"role": "assistant", "content": ""}));
    let stream = futures_util::stream::unfold(steps, |mut steps| async {
        let event = steps.next().await?;
        Some((Ok::<_, Infallible>(event), steps))
    });
    Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

impl Steps {
    async fn next(&mut self) -> Option<SseEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            match self.answer.next().await {
                Some(Ok(Event::Text(text))) => self.step(json!({"content": text})),
                Some(Ok(Event::ToolCall(call))) => {
                    let mut call = tool_call(&call);
                    call["index"] = self.tool_calls.into();
                    self.tool_calls += 1;
                    self.step(json!({"tool_calls": [call]}));
                }
                Some(Ok(Event::Notice(notice))) => self.notices.push(notice),
                Some(Ok(Event::End(completion))) => {
                    let last = self.head.chunk(json!({}), Some(completion.reason));
                    self.push(with_notices(last, &self.notices));
                    if self.include_usage {
                        self.push(self.head.usage_chunk(&completion.usage));
                    }
                    self.ready.push_back(SseEvent::default().data("[DONE]"));
                    self.ended = true;
                }
                // Work that says nothing.
                Some(Ok(_)) => {}
                // The status was sent long ago. Clients look for `error` in what they read.
                Some(Err(error)) => {
                    self.push(ApiError::from(error).body());
                    self.ended = true;
                }
                None => self.ended = true,
            }
        }
    }

    fn step(&mut self, delta: Value) {
        let mut chunk = self.head.chunk(delta, None);
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        self.push(chunk);
    }

    fn push(&mut self, object: Value) {
        self.ready.push_back(SseEvent::default().data(object.to_string()));
    }
}
