//! The provider on tiny-vl, end to end, against the greedy answers of mlx-vlm; see
//! `testdata/scenes/README.md`.

use std::path::{Path, PathBuf};

use futures_executor::block_on;
use llm_core::{GenerateParams, Image, Provider, Request};
use mlx_backend::{MlxOptions, MlxProvider};
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn load(model: &str) -> MlxProvider {
    let path = root().join("models/tiny-vl").join(model);
    MlxProvider::load(path.to_str().expect("a path of this repository"), MlxOptions::default())
        .expect("the model of this repository loads")
}

/// Asks every case and compares text, number of tokens and prompt length.
fn check(model: &str) {
    let provider = load(model);
    let folder = root().join("testdata/scenes");
    let text = std::fs::read_to_string(folder.join("expected.json")).expect("a fixture");
    let expected: Value = serde_json::from_str(&text).expect("JSON");
    let cases = expected["cases"].as_array().expect("cases");
    assert!(cases.len() >= 38, "found {} cases", cases.len());
    for case in cases {
        let name = case["name"].as_str().expect("a name");
        let images = case["images"].as_array().expect("images").iter();
        let images = images.map(|file| Image::Path(folder.join(file.as_str().expect("a file"))));
        let params = GenerateParams {
            max_tokens: Some(256),
            system: case["system"].as_str().map(str::to_owned),
            ..Default::default()
        };
        let request = Request::images(images, case["prompt"].as_str().expect("a prompt"));
        let answer = block_on(provider.generate(request.with_params(params))).expect("an answer");
        let key = if model == "full" { "full" } else { "4bit" };
        assert_eq!(answer.text, case[key]["text"].as_str().expect("a text"), "{name}");
        let usage = answer.completion.usage;
        let tokens = case[key]["token_ids"].as_array().expect("ids").len();
        // The end token counts, and the fixture leaves it out.
        assert_eq!(usage.completion_tokens, tokens + 1, "{name}");
        let prompt = case["prompt_token_ids"].as_array().expect("ids").len();
        assert_eq!(usage.prompt_tokens, prompt, "{name}");
    }
}

#[test]
fn the_full_model_answers_as_mlx_vlm() {
    check("full");
}

#[test]
fn the_4_bit_model_answers_as_mlx_vlm() {
    check("4bit");
}
