//! Any bytes as the body of a request to the server: an answer, or an error that is the client's.
#![no_main]

use std::sync::Arc;

use axum::{
    body::{Body, to_bytes},
    http::Request,
};
use futures_executor::block_on;
use http_backend::fuzzing::{Service, answer};
use libfuzzer_sys::fuzz_target;
use llm_core::{
    Capability, Provider, ToolCall,
    testing::{Script, ScriptedProvider},
};
use llm_server::{Server, ServerOptions, UnknownFields};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt;

struct Setup {
    runtime: Runtime,
    router: axum::Router,
}

fn setup() -> Setup {
    let script =
        Script::text("a text \n of words").calls([ToolCall::new("1", "f", json!({"x": 1}))]);
    let provider = ScriptedProvider::new([script]).with_capabilities([
        Capability::ToolUse,
        Capability::JsonMode,
        Capability::StructuredOutput,
        Capability::LogitBias,
        Capability::MultiTurn,
        Capability::MaxTokens,
    ]);
    let provider: Arc<dyn Provider> = Arc::new(provider);
    let options =
        ServerOptions { unknown_fields: UnknownFields::Ignore, ..ServerOptions::default() };
    let router = Server::new([("m".to_owned(), provider)], options).router();
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    Setup { runtime, router }
}

thread_local! {
    static SETUP: Setup = setup();
}

fuzz_target!(|bytes: &[u8]| SETUP.with(|setup| ask(setup, bytes)));

fn ask(setup: &Setup, bytes: &[u8]) {
    let (status, is_json, body) = setup.runtime.block_on(async {
        let request = Request::post("/v1/chat/completions")
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Body::from(bytes.to_vec()))
            .expect("a request");
        let response = setup.router.clone().oneshot(request).await.expect("it never fails");
        let is_json =
            response.headers()["content-type"].as_bytes().starts_with(b"application/json");
        let status = response.status().as_u16();
        (status, is_json, to_bytes(response.into_body(), 1 << 24).await.expect("a whole body"))
    });
    match status {
        // As our own client reads it.
        200 => {
            let read = block_on(answer(Service::OpenAi, is_json, vec![body.clone()], vec![]));
            let response = read.unwrap_or_else(|e| panic!("{e}: {body:?}"));
            assert!(response.text.len() <= "a text \n of words".len());
        }
        400..500 => {
            let error: Value = serde_json::from_slice(&body).expect("an error is JSON");
            let message = error["error"]["message"].as_str().expect("a message");
            assert!(!message.is_empty() && message.len() <= 2000 + 2 * bytes.len(), "{message}");
        }
        other => panic!("{other}: {body:?}"),
    }
}
