//! One answer: asked for on the thread of requests, read as server-sent events, handed on as events.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_core::Stream;
use futures_util::{StreamExt, TryStreamExt, stream};
use llm_core::{
    Completion, Error, ErrorKind, Event, EventStream, FinishReason, Request, Result, StopMatcher,
    ToolCall, Usage,
};
use reqwest::header::CONTENT_TYPE;
use sse_stream::{Sse, SseStream};
use tokio::sync::mpsc::{self, Receiver, Sender};

use crate::{failure::transport_error, runtime::runtime, server::Server};

/// Events that wait for a slow reader before the server has to wait, too.
const WAITING_EVENTS: usize = 64;

/// Most bytes of an answer. A model that writes for an hour makes less.
const MAX_BYTES: usize = 64 << 20;

/// What services differ in.
pub(crate) trait Protocol: Send + Sync + 'static {
    /// Returns where answers are asked for, below the address of the server.
    fn path(&self) -> &'static str;

    /// Returns the body of a request that has been validated. Reads the files of its images.
    ///
    /// # Errors
    /// If something of it cannot be said.
    fn body(&self, request: &Request) -> Result<Vec<u8>>;

    /// Returns what reads the events of an answer.
    fn decoder(&self) -> Box<dyn Decoder>;
}

/// Reads the events of one answer.
pub(crate) trait Decoder: Send {
    /// Takes an event, and returns the text that it adds.
    ///
    /// # Errors
    /// If it is none of the protocol, or says that the server failed.
    fn read(&mut self, event: &Sse) -> Result<Option<String>>;

    /// Returns whether nothing is to follow.
    fn ended(&self) -> bool;

    /// Returns what the server said about the end, or `None` if it has not come to one.
    fn finish(&mut self) -> Option<Finish>;

    /// Returns the tokens as far as the server has told.
    fn usage(&self) -> Usage;
}

/// The end of an answer.
#[derive(Debug)]
pub(crate) struct Finish {
    pub(crate) calls: Vec<ToolCall>,
    pub(crate) reason: FinishReason,
}

/// Starts an answer; dropping the stream ends it and its connection.
///
/// # Errors
/// If there is no thread to work on.
pub(crate) fn start(
    server: Arc<Server>,
    protocol: Arc<dyn Protocol>,
    request: Request,
) -> Result<EventStream> {
    let (events, receiver) = mpsc::channel(WAITING_EVENTS);
    runtime()?.spawn(async move {
        let work = in_time(server.timeout(), run(&server, protocol, request, &events));
        let result = tokio::select! {
            biased;
            () = events.closed() => Ok(()),
            result = work => result,
        };
        if let Err(error) = result {
            let _ = events.send(Err(error)).await;
        }
    });
    Ok(EventStream::new(Events(receiver)))
}

async fn in_time(limit: Option<Duration>, work: impl Future<Output = Result<()>>) -> Result<()> {
    let Some(limit) = limit else { return work.await };
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        let seconds = limit.as_secs_f64();
        Err(Error::new(ErrorKind::Unavailable, format!("no whole answer within {seconds} s")))
    })
}

async fn run(
    server: &Server,
    protocol: Arc<dyn Protocol>,
    request: Request,
    events: &Sender<Result<Event>>,
) -> Result<()> {
    let started = Instant::now();
    let stop = request.params.stop.clone();
    let (path, decoder) = (protocol.path(), protocol.decoder());
    let body = tokio::task::spawn_blocking(move || protocol.body(&request));
    let body = body.await.map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))??;
    tracing::debug!(server = server.name(), path, bytes = body.len(), "asking");
    let response = server.post(path, body).await?;
    // Some servers do not stream, and send the same as one JSON object.
    let incoming = match is_json(&response) {
        true => stream::once(whole(server, response)).boxed(),
        false => sse(server, response).boxed(),
    };
    hand_on(server.name(), incoming, decoder, stop, started, events).await
}

/// Reads the events of an answer, which was asked for when it was `started`, and hands on what they say up to
/// one of the texts `stop`: not every server knows these, and those that do have a limit of four or so.
pub(crate) async fn hand_on(
    name: &str,
    mut incoming: impl Stream<Item = Result<Sse>> + Unpin,
    mut decoder: Box<dyn Decoder>,
    stop: Vec<String>,
    started: Instant,
    events: &Sender<Result<Event>>,
) -> Result<()> {
    let mut stop = StopMatcher::new(stop);
    let mut first = None;
    while !decoder.ended() {
        let Some(event) = incoming.next().await else { break };
        let Some(text) = decoder.read(&event?)? else { continue };
        first.get_or_insert_with(Instant::now);
        let matched = stop.push(&text);
        send_text(events, matched.text).await;
        if matched.stopped {
            let end = completion(FinishReason::Stop, decoder.usage(), started, first);
            let _ = events.send(Ok(Event::End(end))).await;
            return Ok(());
        }
    }
    let Some(Finish { calls, reason }) = decoder.finish() else {
        let message = format!("{name}: the connection ended before the answer");
        return Err(Error::new(ErrorKind::Unavailable, message));
    };
    send_text(events, stop.finish()).await;
    for call in calls {
        let _ = events.send(Ok(Event::ToolCall(call))).await;
    }
    let end = completion(reason, decoder.usage(), started, first);
    let _ = events.send(Ok(Event::End(end))).await;
    Ok(())
}

async fn send_text(events: &Sender<Result<Event>>, text: String) {
    if !text.is_empty() {
        // An error means that nobody reads any more, which `start` sees.
        let _ = events.send(Ok(Event::Text(text))).await;
    }
}

fn completion(
    reason: FinishReason,
    usage: Usage,
    started: Instant,
    first: Option<Instant>,
) -> Completion {
    let end = Completion::new(reason, usage);
    match first {
        Some(first) => end.with_times(first - started, first.elapsed()),
        None => end,
    }
}

fn is_json(response: &reqwest::Response) -> bool {
    let content_type = response.headers().get(CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/json"))
}

/// Returns a response as if it were one event.
async fn whole(server: &Server, response: reqwest::Response) -> Result<Sse> {
    let chunks: Vec<_> = chunks(response).try_collect().await.map_err(|e| e.into_error(server))?;
    let data = String::from_utf8_lossy(&chunks.concat()).into_owned();
    Ok(Sse::default().data(data))
}

/// Returns the events of a response, which end with an error if they are too long or are none.
fn sse(server: &Server, response: reqwest::Response) -> impl Stream<Item = Result<Sse>> {
    SseStream::from_bytes_stream(chunks(response))
        .map(move |event| event.map_err(|error| broken(server, error)))
}

fn chunks(response: reqwest::Response) -> impl Stream<Item = Result<Bytes, Broken>> {
    stream::try_unfold((response, 0), |(mut response, bytes)| async move {
        let chunk = response.chunk().await.map_err(Broken::Connection)?;
        let Some(chunk) = chunk else { return Ok(None) };
        let bytes = bytes + chunk.len();
        match bytes > MAX_BYTES {
            true => Err(Broken::TooLong),
            false => Ok(Some((chunk, (response, bytes)))),
        }
    })
}

/// Why the bytes of an answer end.
#[derive(Debug)]
enum Broken {
    Connection(reqwest::Error),
    TooLong,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the answer cannot be read")
    }
}

impl std::error::Error for Broken {}

impl Broken {
    fn into_error(self, server: &Server) -> Error {
        match self {
            Self::Connection(error) => transport_error(server, error),
            Self::TooLong => unreadable(server, format!("more than {MAX_BYTES} bytes")),
        }
    }
}

fn broken(server: &Server, error: sse_stream::Error) -> Error {
    match error {
        sse_stream::Error::Body(cause) => match cause.downcast::<Broken>() {
            Ok(broken) => broken.into_error(server),
            Err(cause) => unreadable(server, cause.to_string()),
        },
        error => unreadable(server, format!("something else ({error})")),
    }
}

fn unreadable(server: &Server, found: String) -> Error {
    let message = format!("{}: expected server-sent events, found {found}", server.name());
    Error::new(ErrorKind::Unavailable, message)
}

/// The receiving end; dropping it closes the channel, which ends the work.
pub(crate) struct Events(pub(crate) Receiver<Result<Event>>);

impl Stream for Events {
    type Item = Result<Event>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}
