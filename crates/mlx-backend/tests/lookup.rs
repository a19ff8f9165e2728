//! Guesses from prompt and answer change no greedy answer, and are counted.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_executor::block_on;
use llm_core::{GenerateParams, Image, Provider, Request, Response};
use mlx_backend::{CacheLimits, Caches, KvCacheOptions, KvQuantize, MlxOptions, MlxProvider};
use perf_monitor::{Counter, Gauge, GenerationTrace, PhaseEvent, Recorder};
use serde_json::Value;

/// Counts tokens that were guessed, and those of them that were right.
#[derive(Debug, Default)]
struct Guesses {
    drafted: AtomicU64,
    accepted: AtomicU64,
}

impl Guesses {
    fn take(&self) -> (u64, u64) {
        (self.drafted.swap(0, Ordering::Relaxed), self.accepted.swap(0, Ordering::Relaxed))
    }
}

impl Recorder for Guesses {
    fn enabled(&self) -> bool {
        true
    }

    fn phase(&self, _event: PhaseEvent) {}

    fn count(&self, counter: Counter, amount: u64) {
        match counter {
            Counter::DraftedTokens => self.drafted.fetch_add(amount, Ordering::Relaxed),
            Counter::AcceptedTokens => self.accepted.fetch_add(amount, Ordering::Relaxed),
            _ => 0,
        };
    }

    fn gauge(&self, _gauge: Gauge, _value: u64) {}

    fn generation(&self, _trace: &GenerationTrace) {}
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn cases() -> Vec<Value> {
    let text = std::fs::read_to_string(root().join("testdata/scenes/expected.json"));
    let all: Value = serde_json::from_str(&text.expect("a fixture")).expect("JSON");
    all["cases"].as_array().expect("cases").clone()
}

fn load(tokens: usize, kv_cache: KvCacheOptions) -> (MlxProvider, Arc<Guesses>) {
    let guesses = Arc::new(Guesses::default());
    let options = MlxOptions {
        prompt_lookup_tokens: tokens,
        kv_cache,
        caches: Caches::new(CacheLimits::none()),
        recorder: guesses.clone(),
        ..MlxOptions::default()
    };
    let path = root().join("models/tiny-vl/full");
    let provider = MlxProvider::load(path.to_str().expect("a path of this repository"), options);
    (provider.expect("the model of this repository loads"), guesses)
}

fn request(case: &Value, prompt: &str, params: GenerateParams) -> Request {
    let folder = root().join("testdata/scenes");
    let images = case["images"].as_array().expect("images").iter();
    let images = images.map(|file| Image::Path(folder.join(file.as_str().expect("a file"))));
    Request::images(images, prompt).with_params(params)
}

fn greedy(max_tokens: u32) -> GenerateParams {
    GenerateParams { max_tokens: Some(max_tokens), ..GenerateParams::default() }
}

fn ask(provider: &MlxProvider, request: &Request) -> Response {
    block_on(provider.generate(request.clone())).expect("an answer")
}

/// Questions that the model knows, and some whose words its answers repeat.
const PROMPTS: [&str; 5] = [
    "Describe the image.",
    "What does the text say?",
    "How many shapes are there?",
    "A small gray cross at the top. A small gray cross at the left. A small gray cross. Describe it.",
    "Compare these images.",
];

#[test]
fn answers_are_those_without_guesses() {
    let (plain, none) = load(0, KvCacheOptions::default());
    let packed = KvCacheOptions {
        quantize: Some(KvQuantize { bits: 8, group_size: 64, start_tokens: 0 }),
        window: None,
    };
    let all =
        [load(1, packed), load(3, KvCacheOptions::default()), load(12, KvCacheOptions::default())];
    let (mut drafted, mut accepted) = (0, 0);
    for (i, case) in cases().iter().enumerate() {
        // Two of the prompts for each, other ones for the next.
        for (j, prompt) in PROMPTS.iter().enumerate().filter(|(j, _)| (i + j) % 5 < 2) {
            // Some end at their limit.
            let request = request(case, prompt, greedy([96, 96, 7][(i + j) % 3]));
            let expected = ask(&plain, &request);
            let (provider, guesses) = &all[(i + j) % all.len()];
            let found = ask(provider, &request);
            assert_eq!(found.text, expected.text, "{} {prompt}", case["name"]);
            let tokens = |answer: &Response| answer.completion.usage.completion_tokens;
            assert_eq!(tokens(&found), tokens(&expected));
            assert_eq!(found.completion.reason, expected.completion.reason);
            let (of_this, right) = guesses.take();
            (drafted, accepted) = (drafted + of_this, accepted + right);
        }
    }
    assert_eq!(none.take(), (0, 0));
    assert!(accepted > 50 && drafted > accepted, "{accepted} of {drafted}");
}

#[test]
fn the_fixtures_of_mlx_vlm_hold() {
    let (provider, _) = load(6, KvCacheOptions::default());
    for case in &cases() {
        let system = case["system"].as_str().map(str::to_owned);
        let params = GenerateParams { system, ..greedy(256) };
        let request = request(case, case["prompt"].as_str().expect("a prompt"), params);
        let expected = case["full"]["text"].as_str().expect("a text");
        assert_eq!(ask(&provider, &request).text, expected, "{}", case["name"]);
    }
}

/// What depends on more than the likeliest token is not guessed, nor what is made beside others.
#[test]
fn draws_and_penalties_are_not_guessed() {
    let (provider, guesses) = load(6, KvCacheOptions::default());
    let case = &cases()[19];
    let prompt = case["prompt"].as_str().expect("a prompt");
    ask(&provider, &request(case, prompt, greedy(96)));
    assert_ne!(guesses.take().0, 0);
    let random = GenerateParams { temperature: Some(0.5), seed: Some(1), ..greedy(96) };
    let punished = GenerateParams { repetition_penalty: Some(1.1), ..greedy(96) };
    for params in [random, punished] {
        ask(&provider, &request(case, prompt, params));
        assert_eq!(guesses.take(), (0, 0));
    }
}

/// Guesses end when others join, and begin again; everyone gets the answer of one who is alone.
#[test]
fn others_may_join_and_leave() {
    let (provider, _) = load(6, KvCacheOptions::default());
    let all = cases();
    for _ in 0..3 {
        std::thread::scope(|scope| {
            for case in all[18..27].iter() {
                let provider = &provider;
                scope.spawn(move || {
                    let prompt = case["prompt"].as_str().expect("a prompt");
                    let found = ask(provider, &request(case, prompt, greedy(256)));
                    assert_eq!(found.text, case["full"]["text"].as_str().expect("a text"));
                });
            }
        });
    }
}
