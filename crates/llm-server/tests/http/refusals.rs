//! Requests that are refused, and what the client is told.

use std::sync::Arc;

use llm_core::testing::{Script, ScriptedProvider};
use llm_server::{ApiKey, ServerOptions};
use serde_json::json;

use crate::{Reply, Running, agent, ask, ask_with};

fn start(options: ServerOptions) -> (Arc<ScriptedProvider>, Running) {
    let provider = Arc::new(ScriptedProvider::new([Script::text("yes")]));
    (provider.clone(), Running::start(provider, options))
}

#[test]
fn each_bad_field_is_named() {
    let (provider, server) = start(ServerOptions::default());
    let content = |content| json!({"messages": [{"role": "user", "content": content}]});
    let image = |url: &str| content(json!([{"type": "image_url", "image_url": {"url": url}}]));
    for (fields, param, says) in [
        (json!({"model": null}), Some("model"), "missing"),
        (json!({"messages": null}), Some("messages"), "missing"),
        (json!({"messages": []}), None, "holds no message"),
        (json!({"messages": "hi"}), Some("messages"), "invalid type: string"),
        (json!({"messages": ["hi"]}), Some("messages[0]"), "expected an object, found `hi`"),
        (
            json!({"messages": [{"role": "me", "content": "x"}]}),
            Some("messages[0].role"),
            "found `me`",
        ),
        (json!({"messages": [{"role": "user"}]}), Some("messages[0].content"), "missing"),
        (content(json!(5)), Some("messages[0].content"), "a text or a list of parts, found `5`"),
        (content(json!([{"type": "audio"}])), Some("messages[0].content[0].type"), "found `audio`"),
        (image("http://a/b.png"), Some("messages[0].content[0].image_url"), "as a data URL"),
        (image("/etc/passwd"), Some("messages[0].content[0].image_url"), "expected a data URL"),
        (
            image("data:image/png;base64,%"),
            Some("messages[0].content[0].image_url"),
            "not valid base64",
        ),
        (json!({"temperature": 3}), None, "temperature must be within 0..=2, found 3"),
        (json!({"temperature": "hot"}), Some("temperature"), "invalid type"),
        (json!({"max_tokens": -1}), Some("max_tokens"), "invalid value"),
        (
            json!({"max_tokens": 1, "max_completion_tokens": 2}),
            Some("max_completion_tokens"),
            "use one",
        ),
        (json!({"stop": 1}), Some("stop"), "a text or a list of texts, found `1`"),
        (json!({"stream_options": {}}), Some("stream_options"), "only allowed with `stream`"),
        (json!({"n": 2}), Some("n"), "only 1 is supported"),
        (json!({"logprobs": true}), Some("logprobs"), "only false is supported"),
        (json!({"audio": {}}), Some("audio"), "not supported"),
        (json!({"tools": [{}]}), Some("tools[0].function"), "missing"),
        (json!({"tools": [{"type": "web"}]}), Some("tools[0].type"), "found `web`"),
        (
            json!({"tools": [{"function": {"name": "a b"}}]}),
            Some("tools[0]"),
            "expected a tool name of 1 to 64",
        ),
        (json!({"tools": [{"function": {"name": "a"}}]}), None, "it lacks tool_use"),
        (json!({"tool_choice": "must"}), Some("tool_choice"), "found `must`"),
        (json!({"response_format": {"type": "xml"}}), Some("response_format.type"), "found `xml`"),
        (json!({"response_format": {"type": "json_object"}}), None, "it lacks json_mode"),
        (json!({"logit_bias": {"5": 1}}), None, "it lacks logit_bias"),
        (json!({"temprature": 1}), Some("temprature"), "did you mean `temperature`?"),
        (json!({"frobnicate": 1}), Some("frobnicate"), "there is no such field"),
    ] {
        let reply = server.chat(&ask_with(fields));
        reply.fails(400, param, says);
        assert_eq!(reply.json()["error"]["type"], "invalid_request_error");
    }
    assert_eq!(provider.requests().len(), 0);
}

#[test]
fn what_is_no_json_is_refused() {
    let (_, server) = start(ServerOptions::default());
    let post = |kind: &str, body: &str| {
        let request = agent().post(server.url("/v1/chat/completions"));
        Reply::read(request.header("content-type", kind).send(body).unwrap())
    };
    post("application/json", "{").fails(400, None, "the body is no JSON: EOF");
    post("application/json", "[]").fails(400, None, "no JSON object");
    post("text/plain", "{}").fails(415, None, "expected the content type `application/json`");
    assert_eq!(post("application/json; charset=utf-8", &ask("x").to_string()).status, 200);
}

#[test]
fn an_image_that_the_model_cannot_read_is_the_clients_mistake() {
    let (_, server) = start(ServerOptions::default());
    let url = "data:image/png;base64,AAAA";
    let part = json!([{"type": "image_url", "image_url": {"url": url}}]);
    let reply = server.chat(&ask_with(json!({"messages": [{"role": "user", "content": part}]})));
    reply.fails(400, None, "expected a PNG or JPEG file");
    assert_eq!(reply.json()["error"]["code"], "invalid_image");
}

#[test]
fn a_key_is_needed_everywhere_but_for_health() {
    let api_keys = vec![ApiKey::new("first").unwrap(), ApiKey::new("second").unwrap()];
    let (_, server) = start(ServerOptions { api_keys, ..Default::default() });
    let get = |path: &str, value: Option<&str>| {
        let mut request = agent().get(server.url(path));
        if let Some(value) = value {
            request = request.header("authorization", value);
        }
        Reply::read(request.call().unwrap())
    };
    for value in [None, Some("Bearer wrong"), Some("Bearer "), Some("first"), Some("Basic first")] {
        for path in ["/v1/models", "/metrics", "/v1/models/script", "/nowhere"] {
            let reply = get(path, value);
            reply.fails(401, None, "key");
            assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
            assert_eq!(reply.json()["error"]["code"], "invalid_api_key");
        }
    }
    server.chat(&ask("x")).fails(401, None, "an API key is needed");
    assert_eq!(get("/v1/models", Some("Bearer first")).status, 200);
    assert_eq!(get("/v1/models", Some("bearer second")).status, 200);
    assert_eq!(get("/health", None).status, 200);
}

#[test]
fn a_foreign_host_is_refused() {
    let allowed_hosts = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let (_, server) = start(ServerOptions { allowed_hosts, ..Default::default() });
    let get = |host: &str| {
        let request = agent().get(server.url("/v1/models")).header("host", host);
        Reply::read(request.call().unwrap())
    };
    get("evil.example:80").fails(403, None, "`evil.example`");
    assert_eq!(get("localhost:9").status, 200);
    assert_eq!(server.get("/v1/models").status, 200);
}
