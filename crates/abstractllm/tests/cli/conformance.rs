//! The provider of servers keeps its promises with a server of ours, for what that says its model can do.

use std::sync::Arc;

use abstractllm::{Capabilities, Image, create_llm, testing};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    repository,
    serve::{end, request, start},
};

#[test]
fn the_provider_conforms_with_our_server() {
    let (child, address, _stdout) = start(&[]);
    let told = request(&address, "GET /v1/models HTTP/1.1\r\nhost: localhost", "");
    let (_, body) = told.split_once("\r\n\r\n").unwrap();
    let models: Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {told}"));
    let listed = models["data"][0]["capabilities"].clone();
    let capabilities: Capabilities = serde_json::from_value(listed).unwrap();
    let names: Vec<&str> = capabilities.iter().map(|capability| capability.as_str()).collect();
    let settings = [
        ("model", "tiny-vl".to_owned()),
        ("base_url", format!("http://{address}/v1")),
        ("capabilities", names.join(",")),
    ];
    let provider = create_llm("openai", settings).unwrap();
    assert_eq!(provider.info().capabilities, capabilities);
    let with = testing::Conformance {
        prompt: "What can you do?".to_owned(),
        image: Image::Path(repository("models/tiny-vl/samples/scene.png").into()),
    };
    testing::check(Arc::from(provider), &with);
    assert_eq!(end(child, Signal::SIGTERM), Some(0));
}
