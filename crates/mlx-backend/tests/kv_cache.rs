//! Answers with keys and values that are packed or of a window, on tiny-vl, against the greedy answers
//! of mlx-vlm with the same settings; see `testdata/kv_cache/README.md`.

use std::path::{Path, PathBuf};

use futures_executor::block_on;
use llm_core::{GenerateParams, Image, Provider, Request, Response};
use mlx_backend::{
    CacheLimits, Caches, KvCacheOptions, KvQuantize, KvWindow, MlxOptions, MlxProvider,
};
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn cases(folder: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(root().join("testdata").join(folder).join("expected.json"));
    let all: Value = serde_json::from_str(&text.expect("a fixture")).expect("JSON");
    all["cases"].as_array().expect("cases").clone()
}

fn load(model: &str, kv_cache: KvCacheOptions, caches: &std::sync::Arc<Caches>) -> MlxProvider {
    let path = root().join("models/tiny-vl").join(model);
    let options = MlxOptions { kv_cache, caches: caches.clone(), ..MlxOptions::default() };
    MlxProvider::load(path.to_str().expect("a path of this repository"), options)
        .expect("the model of this repository loads")
}

fn packed(bits: i32, start_tokens: usize) -> KvCacheOptions {
    let quantize = Some(KvQuantize { bits, group_size: 64, start_tokens });
    KvCacheOptions { quantize, window: None }
}

fn window(max_tokens: usize) -> KvCacheOptions {
    KvCacheOptions { quantize: None, window: Some(KvWindow::new(max_tokens)) }
}

/// The request of a case of `testdata/scenes`.
fn request(case: &Value, max_tokens: u32) -> Request {
    let folder = root().join("testdata/scenes");
    let images = case["images"].as_array().expect("images").iter();
    let images = images.map(|file| Image::Path(folder.join(file.as_str().expect("a file"))));
    let request = Request::images(images, case["prompt"].as_str().expect("a prompt"));
    request.with_params(GenerateParams {
        max_tokens: Some(max_tokens),
        system: case["system"].as_str().map(str::to_owned),
        ..GenerateParams::default()
    })
}

fn ask(provider: &MlxProvider, case: &Value, max_tokens: u32) -> Response {
    block_on(provider.generate(request(case, max_tokens))).expect("an answer")
}

/// Asks every case of `key` with `kv_cache`, and compares text and number of tokens.
fn check(model: &str, key: &str, kv_cache: KvCacheOptions) {
    let provider = load(model, kv_cache, &Caches::new(CacheLimits::none()));
    let expected = cases("kv_cache");
    for (case, expected) in cases("scenes").iter().zip(&expected) {
        assert_eq!(case["name"], expected["name"]);
        let expected = &expected[model][key];
        let answer = ask(&provider, case, 96);
        assert_eq!(answer.text, expected["text"].as_str().expect("a text"), "{}", case["name"]);
        // The end token counts, and the fixture leaves it out.
        let tokens = expected["token_ids"].as_array().expect("ids").len();
        let ended = usize::from(expected["stop_token_id"].is_number());
        assert_eq!(answer.completion.usage.completion_tokens, tokens + ended, "{}", case["name"]);
    }
}

#[test]
fn keys_and_values_in_8_bits_answer_as_those_of_mlx_vlm() {
    check("full", "kv8", packed(8, 0));
    check("4bit", "kv8", packed(8, 0));
}

#[test]
fn keys_and_values_in_4_bits_answer_as_those_of_mlx_vlm() {
    check("full", "kv4", packed(4, 0));
    check("4bit", "kv4", packed(4, 0));
}

#[test]
fn a_window_answers_as_that_of_mlx_vlm() {
    check("full", "window48", window(48));
    check("full", "window120", window(120));
}

/// What is packed is kept for the next question as it is, and is not taken for what is not packed.
#[test]
fn the_prefix_cache_keeps_what_is_packed_and_what_a_window_has() {
    let scenes = cases("scenes");
    let (limits, case) = (CacheLimits::default(), &scenes[0]);
    let caches = Caches::new(limits);
    let mut bytes = Vec::new();
    for how in [KvCacheOptions::default(), packed(8, 0), packed(4, 0), window(4096)] {
        let provider = load("full", how, &caches);
        let before = caches.report().prefixes.bytes;
        let first = ask(&provider, case, 64);
        assert_eq!(first.completion.usage.cached_tokens, 0, "{how:?}");
        bytes.push(caches.report().prefixes.bytes - before);
        let again = ask(&provider, case, 64);
        let usage = again.completion.usage;
        assert_eq!(usage.cached_tokens, usage.prompt_tokens - 1, "{how:?}");
        assert_eq!(again.text, first.text);
    }
    // As floats a token takes 6 * 2 * 2 * 64 * 4 bytes here: 8 bits are 28 %, 4 bits 16 %.
    let share = |i: usize| bytes[i] as f64 / bytes[0] as f64;
    assert!((share(1) - 72.0 / 256.0).abs() < 0.02, "{bytes:?}");
    assert!((share(2) - 40.0 / 256.0).abs() < 0.02, "{bytes:?}");
    assert_eq!(bytes[3], bytes[0]);
    // A window that has lost tokens is no beginning of anything.
    let provider = load("full", window(64), &caches);
    for _ in 0..2 {
        assert_eq!(ask(&provider, case, 64).completion.usage.cached_tokens, 0);
    }
}

/// Before enough tokens are there nothing is packed: the answer is the exact one.
#[test]
fn short_answers_are_exact_and_long_ones_are_packed_on_the_way() {
    let scenes = cases("scenes");
    let caches = Caches::new(CacheLimits::default());
    for (case, start) in scenes.iter().zip([5000, 1, 120, 151].into_iter().cycle()).take(12) {
        let provider = load("full", packed(8, start), &caches);
        assert_eq!(ask(&provider, case, 96).text, case["full"]["text"].as_str().expect("a text"));
    }
}

/// They take their steps beside those that are shared.
#[test]
fn answers_of_all_kinds_are_made_at_a_time() {
    let (scenes, expected) = (cases("scenes"), cases("kv_cache"));
    let caches = Caches::new(CacheLimits::none());
    let kinds = [
        (KvCacheOptions::default(), None),
        (packed(4, 0), Some("kv4")),
        (window(48), Some("window48")),
    ];
    let providers = kinds.map(|(how, key)| (load("full", how, &caches), key));
    std::thread::scope(|scope| {
        for (i, case) in scenes.iter().enumerate().take(24) {
            let (provider, key) = &providers[i % 3];
            let expected = &expected[i];
            scope.spawn(move || {
                let all = key.map_or(&case["full"], |key| &expected["full"][key]);
                let answer = ask(provider, case, 96);
                assert_eq!(answer.text, all["text"].as_str().expect("a text"), "{}", case["name"]);
            });
        }
    });
}

#[test]
fn what_the_model_has_no_heads_for_is_refused() {
    let path = root().join("models/tiny-vl/full");
    let load = |kv_cache| {
        let options = MlxOptions { kv_cache, ..MlxOptions::default() };
        MlxProvider::load(path.to_str().expect("a path"), options).map(drop)
    };
    let error = |kv_cache| load(kv_cache).unwrap_err().to_string();
    let mut wide = packed(8, 0);
    wide.quantize.as_mut().expect("packed").group_size = 128;
    assert!(error(wide).contains("groups of 128 do not divide heads of 64 values"));
    assert!(error(window(3)).contains("more tokens than the 4 that stay"));
}
