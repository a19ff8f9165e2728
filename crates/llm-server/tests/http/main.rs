//! The server as clients see it: over real connections, with scripted models behind.

mod bounds;
mod chat;
mod gate;
mod images;
mod refusals;
mod routes;

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use llm_core::Provider;
use llm_server::{Server, ServerOptions};
use serde_json::{Value, json};
use tokio::{net::TcpListener, runtime::Runtime, sync::oneshot};

/// A server on a port of its own.
struct Running {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(provider: Arc<dyn Provider>, options: ServerOptions) -> Self {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let server = Server::new([("script".to_owned(), provider)], options);
        let thread = std::thread::spawn(move || {
            let stopped = async { drop(stopped.await) };
            runtime.block_on(server.run(listener, stopped)).unwrap();
        });
        Self { address, stop: Some(stop), thread: Some(thread) }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Tells the server to stop.
    fn stop(&mut self) {
        self.stop.take();
    }

    /// Waits for the server to end.
    fn join(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    fn get(&self, path: &str) -> Reply {
        Reply::read(agent().get(self.url(path)).call().unwrap())
    }

    fn chat(&self, body: &Value) -> Reply {
        Reply::read(self.send(body))
    }

    /// Sends a request and returns its answer, of which only the head was read.
    fn send(&self, body: &Value) -> ureq::http::Response<ureq::Body> {
        let request = agent().post(self.url("/v1/chat/completions"));
        request.content_type("application/json").send(body.to_string()).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

/// An answer that was read to its end.
#[derive(Debug)]
struct Reply {
    status: u16,
    headers: ureq::http::HeaderMap,
    text: String,
}

impl Reply {
    fn read(mut response: ureq::http::Response<ureq::Body>) -> Self {
        let text = response.body_mut().read_to_string().unwrap();
        Self { status: response.status().as_u16(), headers: response.headers().clone(), text }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Returns what each server-sent event holds.
    fn events(&self) -> Vec<String> {
        events(self.text.as_bytes())
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    #[track_caller]
    fn fails(&self, status: u16, param: Option<&str>, says: &str) {
        let error = self.json()["error"].clone();
        assert_eq!(self.status, status, "{error}");
        assert_eq!(error["param"], json!(param), "{error}");
        assert!(error["message"].as_str().unwrap().contains(says), "expected {says:?}: {error}");
    }
}

fn events(from: impl std::io::Read) -> Vec<String> {
    let lines = BufReader::new(from).lines().map(Result::unwrap);
    lines.filter_map(|line| Some(line.strip_prefix("data: ")?.to_owned())).collect()
}

/// A client that takes errors for answers, and never the connection of another request.
fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(30)))
        .max_idle_connections(0);
    config.build().into()
}

/// A request of one text.
fn ask(text: &str) -> Value {
    json!({"model": "script", "messages": [{"role": "user", "content": text}]})
}

/// `ask` with `more` fields.
fn ask_with(more: Value) -> Value {
    let mut body = ask("hello");
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}
