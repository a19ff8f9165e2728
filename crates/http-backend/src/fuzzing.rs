//! What the fuzz targets call, which `cargo fuzz` compiles the crate for: what reads the answers of servers.

use std::{convert::Infallible, time::Instant};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use llm_core::{Error, ErrorKind, EventStream, Response, Result};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use sse_stream::{Sse, SseStream};
use tokio::sync::mpsc;

use crate::{
    answer::{Events, hand_on},
    anthropic,
    failure::{Said, of_said},
    openai, retry,
};

/// Whose answers are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Chat completions.
    OpenAi,
    /// Messages.
    Anthropic,
}

/// Reads an answer whose bytes come in `pieces`, as server-sent events or as `json`, up to one of the texts
/// `stop`.
///
/// # Errors
/// As an answer of a server.
pub async fn answer(
    service: Service,
    json: bool,
    pieces: Vec<Bytes>,
    stop: Vec<String>,
) -> Result<Response> {
    let decoder = match service {
        Service::OpenAi => openai::decoder(),
        Service::Anthropic => anthropic::decoder(),
    };
    let incoming = match json {
        true => {
            let data = String::from_utf8_lossy(&pieces.concat()).into_owned();
            stream::once(std::future::ready(Ok(Sse::default().data(data)))).boxed()
        }
        false => SseStream::from_bytes_stream(stream::iter(pieces).map(Ok::<_, Infallible>))
            .map(|event| event.map_err(|e| Error::new(ErrorKind::Unavailable, e.to_string())))
            .boxed(),
    };
    let (events, receiver) = mpsc::channel(1 << 20);
    let handed = hand_on("fuzz", incoming, decoder, stop, Instant::now(), &events).await;
    drop(events);
    handed?;
    EventStream::new(Events(receiver)).collect().await
}

/// Reads what a server says of an error: a body of any kind, and headers that ask to wait.
pub fn failure(body: &[u8], headers: &[(&str, &[u8])]) {
    let said = Said::read(body);
    let _ = of_said(&said);
    // As many characters as are shown, and three dots.
    assert!(said.message.chars().count() <= 403);
    let read = |(name, value): &(&str, &[u8])| {
        Some((name.parse::<HeaderName>().ok()?, HeaderValue::from_bytes(value).ok()?))
    };
    let headers: HeaderMap = headers.iter().filter_map(read).collect();
    let _ = retry::asked_for(&headers);
}
