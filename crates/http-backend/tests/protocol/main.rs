//! What can happen between us and a server, played by a server on this machine.

mod loopback;

use std::time::{Duration, Instant};

use futures_executor::block_on;
use http_backend::{OpenAiOptions, OpenAiProvider, ServerOptions};
use llm_core::{
    Error, ErrorKind, Event, FinishReason, GenerateParams, Image, Provider, Request, Response,
    Result,
};

use self::loopback::{Loopback, Step, answer, end, events, head, status, text_chunk};

const KEY: &str = "sk-secret-0123456789";

fn options(url: &str) -> ServerOptions {
    ServerOptions {
        base_url: Some(url.to_owned()),
        api_key: Some(KEY.into()),
        retry_wait: Duration::from_millis(20),
        ..ServerOptions::default()
    }
}

fn provider(server: ServerOptions) -> OpenAiProvider {
    OpenAiProvider::new("m", OpenAiOptions { server, ..Default::default() }).unwrap()
}

fn ask(server: &Loopback) -> Result<Response> {
    block_on(provider(options(&server.url)).generate(Request::text("hello")))
}

fn kind_and_text(result: Result<Response>) -> (ErrorKind, String) {
    let error = result.unwrap_err();
    (error.kind(), error.to_string())
}

#[test]
fn an_answer_arrives_with_its_usage() {
    let server = Loopback::new([answer("Hello.")]);
    let found = ask(&server).unwrap();
    assert_eq!((found.text.as_str(), found.completion.reason), ("Hello.", FinishReason::Stop));
    let usage = found.completion.usage;
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (3, 2));
    assert!(found.completion.time_to_first_token.is_some());
    let received = &server.received()[0];
    assert_eq!(received.line, "POST /v1/chat/completions HTTP/1.1");
    assert!(received.headers.contains(&format!("authorization: bearer {KEY}")));
    assert_eq!(received.body["messages"][0]["content"], "hello");
}

#[test]
fn a_busy_server_is_asked_again_after_the_time_it_names() {
    let limited = status(429, "retry-after-ms: 300\r\n", r#"{"error":{"message":"slow down"}}"#);
    let server = Loopback::new([status(503, "", ""), limited, answer("at last")]);
    let started = Instant::now();
    assert_eq!(ask(&server).unwrap().text, "at last");
    assert!(started.elapsed() >= Duration::from_millis(300), "{:?}", started.elapsed());
    assert_eq!(server.received().len(), 3);
}

#[test]
fn tries_come_to_an_end_and_the_last_error_is_told() {
    let server = Loopback::new([status(500, "", r#"{"error":{"message":"no memory"}}"#)]);
    let (kind, text) = kind_and_text(ask(&server));
    assert_eq!(kind, ErrorKind::Unavailable);
    assert_eq!(text, format!("{} answered 500: no memory", server.url));
    assert_eq!(server.received().len(), 3);
}

#[test]
fn a_long_wait_is_left_to_the_caller() {
    let server = Loopback::new([status(429, "retry-after: 3600\r\n", "")]);
    let error = ask(&server).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RateLimited);
    assert_eq!(error.retry_after(), Some(Duration::from_secs(3600)));
    assert_eq!(server.received().len(), 1);
}

#[test]
fn what_another_try_cannot_mend_is_not_tried_again() {
    for (code, body, expected) in [
        (400, r#"{"error":{"message":"bad field"}}"#, ErrorKind::InvalidRequest),
        (400, r#"{"error":{"code":"context_length_exceeded"}}"#, ErrorKind::ContextOverflow),
        (401, "", ErrorKind::Authentication),
        (404, r#"{"error":"model 'm' not found"}"#, ErrorKind::Model),
        (429, r#"{"error":{"code":"insufficient_quota"}}"#, ErrorKind::RateLimited),
        (501, "", ErrorKind::Unavailable),
    ] {
        let server = Loopback::new([status(code, "", body)]);
        assert_eq!(kind_and_text(ask(&server)).0, expected, "{code} {body}");
        assert_eq!(server.received().len(), 1, "{code} {body}");
    }
}

#[test]
fn a_key_that_the_server_repeats_is_not_told() {
    let body = format!(r#"{{"error":{{"message":"wrong key {KEY}"}}}}"#);
    let server = Loopback::new([status(401, "", &body)]);
    let error = ask(&server).unwrap_err();
    assert_eq!(error.to_string(), format!("{} answered 401: wrong key ...", server.url));
    let texts =
        [format!("{error:?}"), error.chain(), format!("{:?}", provider(options(&server.url)))];
    assert!(texts.iter().all(|text| !text.contains(KEY)), "{texts:?}");
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    drop(listener);
    let error = block_on(provider(options(&url)).generate(Request::text("x"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let text = error.to_string();
    assert!(text.starts_with(&format!("{url}: no connection: is the server running")), "{text}");
    assert!(text.contains("refused"), "{text}");
}

#[test]
fn text_before_a_cut_connection_is_kept_and_nothing_is_asked_twice() {
    let server = Loopback::new([vec![events(), text_chunk("half an "), text_chunk("ans")]]);
    let llm = provider(options(&server.url));
    let mut stream = block_on(llm.generate_stream(Request::text("x"))).unwrap();
    let mut text = String::new();
    let error = loop {
        match block_on(stream.next()).unwrap() {
            Ok(Event::Text(piece)) => text += &piece,
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        }
    };
    assert_eq!(text, "half an ans");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("ended before the answer"), "{error}");
    assert_eq!(server.received().len(), 1);
}

#[test]
fn what_is_no_answer_is_an_error() {
    let sent = |text: &str| vec![events(), Step::Send(text.to_owned())];
    for (steps, says) in [
        (sent("<html>Welcome</html>\n\n"), "expected server-sent events"),
        (sent("data: {\"choices\": [\n\n"), "expected a piece of a chat completion"),
        (sent("data: 7\n\n"), "expected a piece of a chat completion"),
        (sent("data: \u{fffd}"), "ended before the answer"),
        (sent(""), "ended before the answer"),
        (
            sent("data: {\"error\":{\"message\":\"overloaded\"}}\n\n"),
            "the server failed: overloaded",
        ),
        (
            vec![head(200, "content-length: 1000\r\n"), Step::Send("data: ".into())],
            "the connection broke",
        ),
    ] {
        let server = Loopback::new([steps.clone()]);
        let (kind, text) = kind_and_text(ask(&server));
        assert_eq!(kind, ErrorKind::Unavailable, "{steps:?}");
        assert!(text.contains(says), "{steps:?}: {text}");
    }
}

#[test]
fn events_may_be_cut_anywhere() {
    let whole = "data: {\"choices\":[{\"delta\":{\"content\":\"é\"}}]}\r\n\r\n: a comment\r\n\r\n";
    // A character of two bytes must not be cut by this side, since `Send` holds texts.
    let pieces = whole.split_inclusive([':', '\r']).map(|p| Step::Send(p.into()));
    let steps = [events()]
        .into_iter()
        .chain(pieces.flat_map(|p| [p, Step::Wait(Duration::from_millis(2))]));
    let server = Loopback::new([steps.chain([end()]).collect::<Vec<_>>()]);
    assert_eq!(ask(&server).unwrap().text, "é");
}

#[test]
fn a_server_that_does_not_stream_is_read() {
    let body = r#"{"choices":[{"message":{"content":"whole"},"finish_reason":"stop"}]}"#;
    let server = Loopback::new([status(200, "content-type: application/json\r\n", body)]);
    assert_eq!(ask(&server).unwrap().text, "whole");
}

#[test]
fn silence_and_slowness_have_limits() {
    let silent = Loopback::new([vec![events(), text_chunk("a"), Step::UntilClosed]]);
    let server = ServerOptions { read_timeout: Duration::from_millis(100), ..options(&silent.url) };
    let (kind, text) = kind_and_text(block_on(provider(server).generate(Request::text("x"))));
    assert_eq!(kind, ErrorKind::Unavailable);
    assert!(text.contains("nothing came within the time for reading"), "{text}");

    // Never silent for long, and never ready.
    let drip = [text_chunk("a"), Step::Wait(Duration::from_millis(20))];
    let slow = [events()].into_iter().chain(drip.into_iter().cycle().take(2000));
    let slow = Loopback::new([slow.collect::<Vec<_>>()]);
    let server = ServerOptions {
        read_timeout: Duration::from_secs(30),
        timeout: Some(Duration::from_millis(200)),
        ..options(&slow.url)
    };
    let (kind, text) = kind_and_text(block_on(provider(server).generate(Request::text("x"))));
    assert_eq!((kind, text.as_str()), (ErrorKind::Unavailable, "no whole answer within 0.2 s"));
}

#[test]
fn dropping_an_answer_closes_its_connection() {
    let server = Loopback::new([vec![events(), text_chunk("a"), Step::UntilClosed]]);
    let llm = provider(options(&server.url));
    let mut stream = block_on(llm.generate_stream(Request::text("x"))).unwrap();
    assert_eq!(block_on(stream.next()).unwrap().unwrap(), Event::Text("a".into()));
    drop(stream);
    server.wait_closed(1);
}

#[test]
fn stop_texts_end_the_answer_of_a_server_that_ignores_them() {
    let server = Loopback::new([vec![
        events(),
        text_chunk("one E"),
        text_chunk("ND two"),
        Step::UntilClosed,
    ]]);
    let params = GenerateParams { stop: vec!["END".into()], ..Default::default() };
    let request = Request::text("x").with_params(params);
    let answer = block_on(provider(options(&server.url)).generate(request)).unwrap();
    assert_eq!((answer.text.as_str(), answer.completion.reason), ("one ", FinishReason::Stop));
    assert_eq!(server.received()[0].body["stop"][0], "END");
    server.wait_closed(1);
}

#[test]
fn a_key_does_not_follow_to_another_place() {
    let other = Loopback::new([answer("stolen")]);
    let location = format!("location: {}\r\n", other.url);
    let server = Loopback::new([status(307, &location, "")]);
    let (kind, text) = kind_and_text(ask(&server));
    assert_eq!(kind, ErrorKind::InvalidRequest);
    assert!(text.contains(&format!("points to {}; set base_url", other.url)), "{text}");
    assert!(other.received().is_empty());
}

#[test]
fn a_proxy_is_asked_for_everything() {
    let proxy = Loopback::new([answer("by proxy")]);
    let server = ServerOptions {
        proxy: Some(proxy.url.trim_end_matches("/v1").to_owned()),
        ..options("http://model.invalid/v1")
    };
    let answer = block_on(provider(server).generate(Request::text("x"))).unwrap();
    assert_eq!(answer.text, "by proxy");
    assert!(proxy.received()[0].line.starts_with("POST http://model.invalid/v1/chat"));
}

#[test]
fn a_bad_image_is_told_before_anything_is_sent() {
    let server = Loopback::new([answer("a cat")]);
    let request = Request::images([Image::Path("no-such-folder/cat.png".into())], "What is it?");
    let result = block_on(provider(options(&server.url)).generate(request));
    assert_eq!(kind_and_text(result).0, ErrorKind::Image);
    assert!(server.received().is_empty());
}

#[test]
fn any_executor_will_do() {
    let server = Loopback::new([answer("yes")]);
    let llm = std::sync::Arc::new(provider(options(&server.url)));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    // A runtime without timers and sockets of its own.
    let answer = runtime.block_on(llm.generate(Request::text("x"))).unwrap();
    assert_eq!(answer.text, "yes");
    let threads: Vec<_> = (0..16)
        .map(|_| {
            let llm = llm.clone();
            std::thread::spawn(move || block_on(llm.generate(Request::text("x"))))
        })
        .collect();
    let texts: Result<Vec<String>, Error> =
        threads.into_iter().map(|t| t.join().unwrap().map(|answer| answer.text)).collect();
    assert!(texts.unwrap().iter().all(|text| text == "yes"));
}
