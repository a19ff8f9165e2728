//! Everything but the answers.

use std::sync::Arc;

use llm_core::testing::{Script, ScriptedProvider};
use llm_server::ServerOptions;
use perf_monitor::PerformanceMonitor;
use serde_json::json;

use crate::{Reply, Running, agent, ask};

fn start(options: ServerOptions) -> Running {
    Running::start(Arc::new(ScriptedProvider::new([Script::text("yes")])), options)
}

#[test]
fn models_say_what_they_can_do() {
    let server = start(ServerOptions::default());
    let list = server.get("/v1/models").json();
    assert_eq!(list["object"], "list");
    let model = &list["data"][0];
    assert_eq!((&model["id"], &model["object"]), (&json!("script"), &json!("model")));
    assert_eq!(model["owned_by"], "scripted");
    assert_eq!(model["context_tokens"], 4096);
    assert!(model["capabilities"].as_array().unwrap().contains(&json!("vision")));
    assert_eq!(&server.get("/v1/models/script").json(), model);
    let reply = server.get("/v1/models/org/other");
    reply.fails(404, None, "there is no model `org/other`; there is `script`");
    assert_eq!(reply.json()["error"]["code"], "model_not_found");
    let mut body = ask("x");
    body["model"] = json!("gpt-4o");
    server.chat(&body).fails(404, None, "there is no model `gpt-4o`");
}

#[test]
fn unknown_paths_and_methods_are_errors_of_the_same_form() {
    let server = start(ServerOptions::default());
    server.get("/v1/embeddings").fails(404, None, "nothing at /v1/embeddings");
    server.get("/v1/chat/completions").fails(405, None, "GET is not a method of");
    let reply = Reply::read(agent().delete(server.url("/v1/models")).call().unwrap());
    reply.fails(405, None, "DELETE");
}

#[test]
fn metrics_count_requests_and_time_answers() {
    let monitor = Some(PerformanceMonitor::default());
    let server = start(ServerOptions { monitor, ..ServerOptions::default() });
    for _ in 0..3 {
        assert_eq!(server.chat(&ask("x")).status, 200);
    }
    server.get("/made/up/path");
    assert_eq!(server.get("/health").json(), json!({"status": "ok", "running": 0, "waiting": 0}));
    let reply = server.get("/metrics");
    assert!(reply.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    for line in [
        r#"llm_server_requests_total{route="/v1/chat/completions",status="200"} 3"#,
        r#"llm_server_requests_total{route="other",status="404"} 1"#,
        "llm_server_running 0",
        "llm_server_waiting 0",
        "llm_server_cancelled_total 0",
        r#"perf_monitor_operation_duration_seconds_count{operation="chat"} 3"#,
    ] {
        assert!(reply.text.lines().any(|l| l == line), "{line}: {}", reply.text);
    }
}
