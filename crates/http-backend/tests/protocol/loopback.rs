//! A server on this machine that sends what a test wrote, byte for byte.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use serde_json::Value;

/// A step of an answer.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Send(String),
    Wait(Duration),
    /// Until the other side closes the connection.
    UntilClosed,
}

/// What was received.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) line: String,
    pub(crate) headers: String,
    pub(crate) body: Value,
}

/// Answers each connection once, with the answers in turn and the last one for ever.
pub(crate) struct Loopback {
    pub(crate) url: String,
    received: Arc<Mutex<Vec<Received>>>,
    closed: Arc<Mutex<usize>>,
}

impl Loopback {
    pub(crate) fn new(answers: impl IntoIterator<Item = Vec<Step>>) -> Self {
        let answers: Vec<_> = answers.into_iter().collect();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let (received, closed) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
        let (log, ends) = (received.clone(), closed.clone());
        thread::spawn(move || {
            for (i, connection) in listener.incoming().enumerate() {
                let answer = answers[i.min(answers.len() - 1)].clone();
                let (log, ends) = (log.clone(), ends.clone());
                thread::spawn(move || serve(connection.unwrap(), &answer, &log, &ends));
            }
        });
        Self { url, received, closed }
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    /// Waits until this many connections were closed by the other side.
    pub(crate) fn wait_closed(&self, connections: usize) {
        while *self.closed.lock().unwrap() < connections {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn serve(
    mut connection: TcpStream,
    answer: &[Step],
    log: &Mutex<Vec<Received>>,
    closed: &Mutex<usize>,
) {
    let mut reader = BufReader::new(connection.try_clone().unwrap());
    let mut head = String::new();
    loop {
        let before = head.len();
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return;
        }
        if head[before..].trim().is_empty() {
            break;
        }
    }
    let length = head.to_lowercase().lines().find_map(|line| {
        line.strip_prefix("content-length:").map(|length| length.trim().parse().unwrap())
    });
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).unwrap();
    let (line, headers) = head.split_once("\r\n").unwrap();
    log.lock().unwrap().push(Received {
        line: line.to_owned(),
        headers: headers.to_lowercase(),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    });
    for step in answer {
        match step {
            // The other side may be gone, which some tests are about.
            Step::Send(text) => drop(connection.write_all(text.as_bytes())),
            Step::Wait(time) => thread::sleep(*time),
            Step::UntilClosed => {
                let _ = reader.read(&mut [0]);
                *closed.lock().unwrap() += 1;
            }
        }
    }
    let _ = connection.shutdown(Shutdown::Both);
}

/// The head of a response without a length, which ends with the connection.
pub(crate) fn head(status: u16, headers: &str) -> Step {
    Step::Send(format!("HTTP/1.1 {status} X\r\nconnection: close\r\n{headers}\r\n"))
}

pub(crate) fn status(status: u16, headers: &str, body: &str) -> Vec<Step> {
    let headers = format!("content-length: {}\r\n{headers}", body.len());
    vec![head(status, &headers), Step::Send(body.to_owned())]
}

pub(crate) fn text_chunk(text: &str) -> Step {
    let chunk = serde_json::json!({"choices": [{"delta": {"content": text}}]});
    Step::Send(format!("data: {chunk}\n\n"))
}

pub(crate) fn events() -> Step {
    head(200, "content-type: text/event-stream\r\n")
}

pub(crate) fn end() -> Step {
    let stop = r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#;
    let usage = r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#;
    Step::Send(format!("data: {stop}\n\ndata: {usage}\n\ndata: [DONE]\n\n"))
}

/// A whole answer, `text` in one piece.
pub(crate) fn answer(text: &str) -> Vec<Step> {
    vec![events(), text_chunk(text), end()]
}
