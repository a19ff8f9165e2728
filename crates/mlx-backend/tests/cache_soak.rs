//! Thousands of requests about many images to more models than may be loaded, under limits of a few
//! megabytes: memory stays flat, the counts add up, and no answer is wrong.
#![allow(clippy::print_stdout, reason = "somebody runs the long one and looks")]

mod random;

use std::{
    collections::HashMap,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    sync::Arc,
};

use futures_executor::block_on;
use llm_core::{GenerateParams, Image, Provider, Request};
use mlx_backend::{CacheLimits, Caches, MlxOptions, MlxProvider, Quantize};

use self::random::Random;

const PROMPTS: [&str; 3] = ["What is it?", "Where?", "What is it? Look again."];
const MODELS: usize = 3;

fn model_path(model: usize) -> PathBuf {
    let name = ["tiny_fp32", "tiny_q4", "tiny_fp32"][model];
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden").join(name)
}

fn load(model: usize, caches: &Arc<Caches>, prefill_step_tokens: usize) -> MlxProvider {
    let quantize = (model == 2).then_some(Quantize::affine(8, 32));
    let caches = caches.clone();
    let options = MlxOptions { caches, quantize, prefill_step_tokens, ..MlxOptions::default() };
    MlxProvider::load(model_path(model).to_str().unwrap(), options).unwrap()
}

/// One of many images; several share a size.
fn image(index: u64) -> Image {
    let mut random = Random(index);
    let (width, height) = (56 + 28 * random.below(4) as u32, 56 + 28 * random.below(3) as u32);
    let step = 1 + random.below(250);
    let pixels: Vec<u8> =
        (0..u64::from(width * height) * 3).map(|i| (i * step / 7 + index) as u8).collect();
    Image::rgb(width, height, pixels).unwrap()
}

fn ask(provider: &MlxProvider, index: u64, prompt: &str) -> String {
    let params = GenerateParams { max_tokens: Some(5), ..Default::default() };
    let request = Request::images([image(index)], prompt).with_params(params);
    block_on(provider.generate(request)).unwrap().text
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// Bytes of memory that this process holds.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = status.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0u64);
    pages * 4096
}

/// Asks `requests` questions about `images` images, and returns the memory after each.
fn soak(requests: usize, images: u64) -> Vec<u64> {
    let mut limits = CacheLimits::default();
    limits.image_bytes = 2 << 20;
    limits.feature_bytes = 60 << 10;
    limits.prefix_bytes = 1 << 20;
    limits.models = MODELS - 1;
    let caches = Caches::new(limits);
    let nothing = Caches::new(CacheLimits::none());
    // In steps of several sizes, since a tie between two tokens may go either way.
    let fresh = |model, step| load(model, &nothing, step);
    let plain: Vec<MlxProvider> = (0..MODELS).map(|model| fresh(model, 512)).collect();
    // Hashes of the fresh answers, with their room taken beforehand: what is measured is not this.
    let mut answers: HashMap<(usize, u64, usize), u64> =
        HashMap::with_capacity(MODELS * images as usize * PROMPTS.len());
    let (mut random, mut memory) = (Random(1), Vec::with_capacity(requests));
    let mut last = (0, 0);
    for i in 0..requests {
        // Half of the questions are about the picture of the last one, as in a conversation.
        if random.below(2) == 0 {
            last = (random.below(MODELS as u64) as usize, random.below(images));
        }
        let (model, index) = last;
        let prompt = random.below(PROMPTS.len() as u64) as usize;
        let found = ask(&load(model, &caches, 512), index, PROMPTS[prompt]);
        let expected = answers
            .entry((model, index, prompt))
            .or_insert_with(|| hash(&ask(&plain[model], index, PROMPTS[prompt])));
        if hash(&found) != *expected {
            let others = [64, 23, 7].map(|step| ask(&fresh(model, step), index, PROMPTS[prompt]));
            assert!(others.contains(&found), "request {i}: {found:?}, fresh {others:?}");
        }
        memory.push(resident());
        let report = caches.report();
        for stats in [report.images, report.features, report.prefixes] {
            assert!(stats.bytes <= stats.limit_bytes, "request {i}: {report:?}");
        }
        assert!(report.models.entries < MODELS as u64, "request {i}: {report:?}");
    }
    let report = caches.report();
    let asked = requests as u64;
    assert_eq!(report.prefixes.hits + report.prefixes.misses, asked, "{report:?}");
    assert_eq!(report.models.hits + report.models.misses, asked, "{report:?}");
    assert_eq!(report.models.misses, report.models.entries + report.models.evictions);
    // What the features do not know is asked of the images, and nothing else is.
    assert_eq!(report.images.hits + report.images.misses, report.features.misses, "{report:?}");
    assert!(report.features.hits + report.features.misses <= asked, "{report:?}");
    for stats in [report.images, report.features, report.prefixes, report.models] {
        assert!(stats.hits > 0 && stats.misses > 0 && stats.evictions > 0, "{report:?}");
        assert_eq!(stats.refused, 0, "{report:?}");
    }
    println!("{report:#?}");
    memory
}

#[test]
fn no_answer_is_wrong_and_the_counts_add_up() {
    soak(200, 15);
}

/// `cargo test --release -p mlx-backend --test cache_soak -- --ignored --nocapture`
#[test]
#[ignore = "takes minutes"]
fn memory_is_flat_over_ten_thousand_requests() {
    let memory = soak(10_000, 1_000);
    let quarter = memory.len() / 4;
    let mean = |part: &[u64]| part.iter().sum::<u64>() as f64 / part.len() as f64;
    let means: Vec<f64> = memory.chunks(quarter).map(mean).collect();
    println!("resident by quarter, MB: {:.1?}", means.iter().map(|m| m / 1e6).collect::<Vec<_>>());
    let growth = means[3] / means[1];
    assert!((growth - 1.0).abs() < 0.02, "the last quarter is {growth:.4} of the second");
}
