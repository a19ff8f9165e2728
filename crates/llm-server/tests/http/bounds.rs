//! Bounds on bodies and on what runs at once, clients that go away, and the end of the server.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

use llm_core::testing::{Script, ScriptedProvider};
use llm_server::ServerOptions;
use serde_json::json;

use crate::{
    Reply, Running, agent, ask, ask_with, events,
    gate::{Gate, until},
};

#[test]
fn bodies_have_a_largest_size() {
    let provider = Arc::new(ScriptedProvider::new([Script::text("yes")]));
    let options = ServerOptions { max_body_bytes: 10_000, ..Default::default() };
    let server = Running::start(provider.clone(), options);
    let base = ask("").to_string().len();
    let body = |length: usize| ask(&"x".repeat(length - base)).to_string();
    let post = || agent().post(server.url("/v1/chat/completions")).content_type("application/json");
    assert_eq!(Reply::read(post().send(body(10_000)).unwrap()).status, 200);
    Reply::read(post().send(body(10_001)).unwrap()).fails(413, None, "at most 10000 bytes");
    // In pieces, without a length in advance.
    let long = body(15_000);
    let mut pieces = long.as_bytes();
    let body = ureq::SendBody::from_reader(&mut pieces);
    Reply::read(post().send(body).unwrap()).fails(413, None, "at most 10000 bytes");
    assert_eq!(provider.requests().len(), 1);
}

#[test]
fn a_body_that_does_not_come_is_not_awaited_for_ever() {
    let provider = Arc::new(ScriptedProvider::new([Script::text("yes")]));
    let body_timeout = Duration::from_millis(200);
    let server = Running::start(provider, ServerOptions { body_timeout, ..Default::default() });
    let mut stream = TcpStream::connect(server.address).unwrap();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                content-type: application/json\r\ncontent-length: 100\r\n\r\n{";
    stream.write_all(head.as_bytes()).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 408 ") && reply.contains("within 0.2 s"), "{reply}");
}

#[test]
fn some_run_some_wait_and_the_rest_is_sent_away() {
    let gate = Gate::new();
    let options = ServerOptions { max_running: 2, max_waiting: 1, ..Default::default() };
    let server = Running::start(gate.clone(), options);
    thread::scope(|scope| {
        let mut chats: Vec<_> = (0..2).map(|_| scope.spawn(|| server.chat(&ask("x")))).collect();
        until("two run", || gate.begun.load(Ordering::SeqCst) == 2);
        chats.push(scope.spawn(|| server.chat(&ask("x"))));
        until("one waits", || server.get("/health").json()["waiting"] == 1);
        let refused = server.chat(&ask("x"));
        refused.fails(429, None, "2 answers are being made and 1 requests wait");
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert_eq!(refused.json()["error"]["type"], "rate_limit_error");
        assert_eq!(gate.begun.load(Ordering::SeqCst), 2);
        gate.open(3);
        for chat in chats {
            let body = chat.join().unwrap().json();
            assert_eq!(body["choices"][0]["message"]["content"], "begin end");
        }
    });
    assert_eq!(gate.dropped(), 0);
    assert_eq!(server.get("/health").json()["running"], 0);
}

#[test]
fn waiting_has_an_end() {
    let gate = Gate::new();
    let max_wait = Duration::from_millis(100);
    let options = ServerOptions { max_running: 1, max_wait, ..Default::default() };
    let server = Running::start(gate.clone(), options);
    let first = server.send(&ask_with(json!({"stream": true})));
    let reply = server.chat(&ask("x"));
    reply.fails(503, None, "no turn within 0.1 s");
    assert_eq!(reply.header("retry-after"), Some("1"));
    gate.open(1);
    assert_eq!(events(first.into_body().into_reader()).last().unwrap(), "[DONE]");
}

#[test]
fn a_client_that_goes_away_cancels_its_answer() {
    let gate = Gate::new();
    let options = ServerOptions { max_running: 1, ..Default::default() };
    let server = Running::start(gate.clone(), options);
    // While it reads events.
    let response = server.send(&ask_with(json!({"stream": true})));
    assert_eq!(gate.dropped(), 0);
    drop(response);
    until("the stream is dropped", || gate.dropped() == 1);
    // While it waits for the whole.
    let mut stream = TcpStream::connect(server.address).unwrap();
    let body = ask("x").to_string();
    let length = body.len();
    write!(
        stream,
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: \
        application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    until("the second has begun", || gate.begun.load(Ordering::SeqCst) == 2);
    drop(stream);
    until("the second is dropped", || gate.dropped() == 2);
    // Its turn is free again.
    gate.open(1);
    assert_eq!(server.chat(&ask("x")).status, 200);
    assert!(server.get("/metrics").text.contains("\nllm_server_cancelled_total 2\n"));
}

#[test]
fn at_the_end_running_answers_end_and_waiting_ones_are_refused() {
    let gate = Gate::new();
    let options = ServerOptions { max_running: 1, ..Default::default() };
    let mut server = Running::start(gate.clone(), options);
    let running = server.send(&ask_with(json!({"stream": true})));
    let url = server.url("/v1/chat/completions");
    let waiting = thread::spawn(move || {
        let request = agent().post(url).content_type("application/json");
        Reply::read(request.send(ask("x").to_string()).unwrap())
    });
    until("one waits", || server.get("/health").json()["waiting"] == 1);
    server.stop();
    waiting.join().unwrap().fails(503, None, "the server is being stopped");
    until("no connection is taken", || TcpStream::connect(server.address).is_err());
    gate.open(1);
    let all = events(running.into_body().into_reader());
    assert!(all[2].contains(r#""content":"end""#), "{all:?}");
    assert_eq!(all.last().unwrap(), "[DONE]");
    server.join();
    assert_eq!(gate.dropped(), 0);
}

#[test]
fn the_end_does_not_wait_for_ever() {
    let gate = Gate::new();
    let shutdown_grace = Duration::from_millis(200);
    let mut server =
        Running::start(gate.clone(), ServerOptions { shutdown_grace, ..Default::default() });
    let _running = server.send(&ask_with(json!({"stream": true})));
    server.join();
    assert_eq!(gate.dropped(), 1);
}
