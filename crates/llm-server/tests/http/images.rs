//! Images that a request names by address: what is asked for, and how much of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use llm_core::{
    Error, ErrorKind, Image, Result,
    testing::{Script, ScriptedProvider},
};
use llm_server::{ImageSource, ServerOptions};
use serde_json::{Value, json};

use crate::{Running, ask_with};

/// Has `http://images/N`, an image of `N` bytes; an image of no bytes never comes.
#[derive(Debug, Default)]
struct Images(AtomicUsize);

fn image(length: usize) -> Image {
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    bytes.resize(length, 7);
    Image::encoded(bytes)
}

#[async_trait]
impl ImageSource for Images {
    async fn fetch(&self, url: &str) -> Result<Image> {
        self.0.fetch_add(1, Ordering::SeqCst);
        let length = url.strip_prefix("http://images/").and_then(|length| length.parse().ok());
        match length {
            Some(0) => std::future::pending().await,
            Some(length) => Ok(image(length)),
            None => Err(Error::new(ErrorKind::Image, "there is no such image")),
        }
    }
}

fn start() -> (Arc<Images>, Arc<ScriptedProvider>, Running) {
    let images = Arc::new(Images::default());
    let provider = Arc::new(ScriptedProvider::new(vec![Script::text("yes"); 4]));
    let options = ServerOptions {
        images: images.clone(),
        max_body_bytes: 1000,
        body_timeout: Duration::from_millis(500),
        ..ServerOptions::default()
    };
    (images, provider.clone(), Running::start(provider, options))
}

fn ask(urls: &[&str]) -> Value {
    let parts: Vec<Value> =
        urls.iter().map(|url| json!({"type": "image_url", "image_url": {"url": url}})).collect();
    ask_with(json!({"messages": [{"role": "user", "content": parts}]}))
}

#[test]
fn an_address_becomes_the_image() {
    let (images, provider, server) = start();
    let reply = server.chat(&ask(&["http://images/40", "http://images/20"]));
    assert_eq!(reply.status, 200, "{}", reply.text);
    let request = provider.requests().remove(0);
    let found: Vec<Image> = request.messages[0].images().cloned().collect();
    assert_eq!(found, [image(40), image(20)]);
    assert_eq!(images.0.load(Ordering::SeqCst), 2);
}

#[test]
fn images_are_bounded_together_as_a_body_is() {
    let (_, provider, server) = start();
    assert_eq!(server.chat(&ask(&["http://images/500", "http://images/500"])).status, 200);
    let at = Some("messages[0].content[1].image_url");
    server.chat(&ask(&["http://images/500", "http://images/501"])).fails(
        413,
        at,
        "are larger than",
    );
    assert_eq!(provider.requests().len(), 1);
}

#[test]
fn an_image_that_does_not_come_is_not_awaited_for_ever() {
    let (_, provider, server) = start();
    server.chat(&ask(&["http://images/0"])).fails(408, None, "did not arrive within 0.5 s");
    assert_eq!(provider.requests().len(), 0);
    // Its place is free again.
    assert!(server.get("/metrics").text.contains("llm_server_running 0\n"));
}

#[test]
fn nothing_is_fetched_for_a_request_that_is_refused() {
    let (images, _, server) = start();
    let mut body = ask(&["http://images/4"]);
    body["model"] = "other".into();
    server.chat(&body).fails(404, None, "there is no model `other`");
    let at = Some("messages[0].content[0].image_url");
    for url in ["file:///etc/passwd", "/etc/passwd", "ftp://images/4", "HTTP://images/4"] {
        server.chat(&ask(&[url])).fails(400, at, "begins with http:// or https://");
    }
    assert_eq!(images.0.load(Ordering::SeqCst), 0);
    server.chat(&ask(&["http://images/x"])).fails(400, at, "there is no such image");
}
