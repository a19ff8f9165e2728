//! What is logged, by us and by the libraries below, never holds a key.

use std::{
    io::{self, Read, Write},
    net::TcpListener,
    sync::{Arc, Mutex},
    thread,
};

use futures_executor::block_on;
use http_backend::{OpenAiOptions, OpenAiProvider, ServerOptions};
use llm_core::{ErrorKind, Provider, Request};

const KEY: &str = "sk-secret-0123456789";

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn no_log_holds_the_key() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .init();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://user:{KEY}@{}/v1", listener.local_addr().unwrap());
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let _ = connection.read(&mut [0; 4096]);
            let body = format!("wrong key {KEY}");
            let length = body.len();
            let head = "HTTP/1.1 503 X\r\nconnection: close\r\ncontent-length:";
            let _ = write!(connection, "{head} {length}\r\n\r\n{body}");
        }
    });
    let server = ServerOptions {
        base_url: Some(url),
        api_key: Some(KEY.into()),
        max_retries: 1,
        ..ServerOptions::default()
    };
    let llm = OpenAiProvider::new("m", OpenAiOptions { server, ..Default::default() }).unwrap();
    let error = block_on(llm.generate(Request::text("x"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let text = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(text.contains("trying again") && text.contains("hyper"), "{text}");
    assert!(!text.contains(KEY), "{text}");
}
