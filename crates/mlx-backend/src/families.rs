//! Every family against values that mlx-lm, or mlx-vlm, computed on the same tiny checkpoints; see
//! `testdata/families/README.md`.

mod images;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use futures_executor::block_on;
use llm_core::{Capability, GenerateParams, Message, Part, Provider, Request};
use mlx_rs::{Array, Dtype, ops::indexing::TryIndexOp};
use vision_preproc::{Input, PixelBudget, Workspace};

use crate::{
    MlxOptions, MlxProvider,
    checkpoint::Checkpoint,
    device::Backend,
    engine::{LoadSpec, build},
    kv_cache::{KvCache, RowCaches},
    models::{self, VisionLanguageModel},
    quantize::Quantize,
    rope::{Positions, Rotation},
    tokenizer::Tokenizer,
};

/// The folders of `testdata/families` that read text only.
const TEXT: [&str; 7] =
    ["gemma", "gemma3_text", "llama", "llama_tied", "qwen2", "qwen3", "qwen3_moe"];
const TOLERANCE: f32 = 1e-3;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/families").join(name)
}

fn load(name: &str, quantize: Option<Quantize>) -> Box<dyn VisionLanguageModel> {
    load_from(&folder(name), quantize)
}

fn load_from(path: &Path, quantize: Option<Quantize>) -> Box<dyn VisionLanguageModel> {
    let checkpoint = Checkpoint::open(path).unwrap();
    let architecture = models::architecture(checkpoint.model_type()).unwrap();
    let dtype = Some(Dtype::Float32);
    build(&LoadSpec { quantize, dtype, ..LoadSpec::new(&checkpoint, architecture) }).unwrap()
}

fn expected(name: &str) -> HashMap<String, Array> {
    Array::load_safetensors(folder(&format!("{name}.safetensors"))).unwrap()
}

fn largest_difference(found: &Array, expected: &Array) -> f32 {
    assert_eq!(found.size(), expected.size(), "{:?} {:?}", found.shape(), expected.shape());
    let floats = |x: &Array| x.reshape(&[-1]).unwrap().to_vec_cast::<f32>().unwrap();
    let pairs = floats(found).into_iter().zip(floats(expected));
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Reads a prompt of text `step` tokens at a time, and returns the logits of all.
fn read(
    model: &dyn VisionLanguageModel,
    ids: &[u32],
    caches: &mut Vec<KvCache>,
    step: usize,
) -> Array {
    let positions = Positions::of_text(ids.len());
    let tokens = Array::from_slice(ids, &[1, ids.len() as i32]);
    read_embedded(model, &model.embed(&tokens).unwrap(), &positions, caches, step)
}

/// As [`read`], from embeddings.
fn read_embedded(
    model: &dyn VisionLanguageModel,
    embeddings: &Array,
    positions: &Positions,
    caches: &mut Vec<KvCache>,
    step: usize,
) -> Array {
    let tokens = embeddings.dim(1) as usize;
    let (mut parts, mut from) = (Vec::new(), 0);
    while from < tokens {
        let to = positions.step_end(from, tokens.min(from.saturating_add(step)));
        let rotation = model.prompt_rotation(positions, from..to).unwrap();
        let x = embeddings.try_index((.., from as i32..to as i32, ..)).unwrap();
        parts.push(model.logits(&model.forward(x, &rotation, caches).unwrap()).unwrap());
        from = to;
    }
    mlx_rs::ops::concatenate(&parts, 1).unwrap()
}

fn best(logits: &Array) -> i32 {
    let token = mlx_rs::ops::indexing::argmax_axis(logits, -1, false).unwrap();
    token.to_vec_cast::<i32>().unwrap()[0]
}

/// Compares eight greedy tokens after a prompt, which stand `delta` from where they would without
/// images, and the logits of each, with the reference's.
fn continues(
    name: &str,
    model: &dyn VisionLanguageModel,
    (mut last, delta): (Array, i32),
    caches: &mut Vec<KvCache>,
    (tokens, logits): (&Array, &Array),
) {
    let mut found = Vec::new();
    for row in 0..8 {
        let off = largest_difference(&last, &logits.try_index((row, ..)).unwrap());
        assert!(off < TOLERANCE, "{name}: step {row} differs by {off}");
        found.push(best(&last));
        let token = Array::from_slice(&found[row as usize..], &[1, 1]);
        let x = model.embed(&token).unwrap();
        let hidden = model.forward(x, &Rotation::from(caches[0].offset() + delta), caches).unwrap();
        last = model.logits(&hidden.try_index((.., -1, ..)).unwrap()).unwrap();
    }
    assert_eq!(found, tokens.to_vec_cast::<i32>().unwrap(), "{name}: greedy tokens");
}

fn check(name: &str, step: usize) {
    let expected = expected(name);
    let ids: Vec<u32> = expected["input_ids"].to_vec_cast().unwrap();
    let model = load(name, None);
    let mut caches = vec![KvCache::default(); model.layers()];
    let logits = read(&*model, &ids, &mut caches, step);
    let off = largest_difference(&logits, &expected["logits"]);
    assert!(off < TOLERANCE, "{name}: logits differ by {off}");
    let last = logits.try_index((.., -1, ..)).unwrap();
    let reference = (&expected["greedy"], &expected["greedy_logits"]);
    continues(name, &*model, (last, 0), &mut caches, reference);
}

#[test]
fn every_text_family_matches_the_reference() {
    TEXT.iter().for_each(|name| check(name, usize::MAX >> 1));
}

#[test]
fn a_prompt_read_in_steps_gives_the_same() {
    TEXT.iter().for_each(|name| [1, 5].into_iter().for_each(|step| check(name, step)));
}

#[test]
fn every_text_family_packed_to_four_bits_matches_the_reference() {
    for name in TEXT {
        let expected = expected(name);
        let ids: Vec<u32> = expected["input_ids"].to_vec_cast().unwrap();
        let model = load(name, Some(Quantize::default()));
        let mut caches = vec![KvCache::default(); model.layers()];
        let logits = read(&*model, &ids, &mut caches, ids.len());
        let last = logits.try_index((.., -1, ..)).unwrap();
        let reference = (&expected["q4_greedy"], &expected["q4_greedy_logits"]);
        continues(name, &*model, (last, 0), &mut caches, reference);
    }
}

/// Sequences of other lengths beside it do not change what a sequence leads to.
#[test]
fn a_token_of_each_of_several_sequences_is_that_of_each_alone() {
    for name in TEXT {
        let ids: Vec<u32> = expected(name)["input_ids"].to_vec_cast().unwrap();
        let model = load(name, None);
        let lengths = [ids.len(), 9, 30];
        let mut alone: Vec<Vec<KvCache>> = Vec::new();
        for length in lengths {
            let mut caches = vec![KvCache::default(); model.layers()];
            read(&*model, &ids[..length], &mut caches, length);
            alone.push(caches);
        }
        let mut together = RowCaches::new(Backend::Cpu);
        let order = together.change(&[], alone.clone()).unwrap();
        for step in 0..3u32 {
            let positions: Vec<i32> = together.lengths().collect();
            let next = Array::from_slice(&[40 + step; 3], &[1, 3]);
            together.begin_step().unwrap();
            let x = model.embed(&next).unwrap();
            let rows = model.forward(x, &Rotation::rows(&positions), &mut together).unwrap();
            together.end_step();
            for (row, &of) in (0..).zip(&order) {
                let caches = &mut alone[of];
                let x = model.embed(&Array::from_slice(&[40 + step], &[1, 1])).unwrap();
                let one = model.forward(x, &Rotation::from(caches[0].offset()), caches).unwrap();
                let off = largest_difference(&rows.try_index((.., row, ..)).unwrap(), &one);
                assert!(off < TOLERANCE, "{name}: row {row} differs by {off} in step {step}");
            }
        }
    }
}

/// The whole way: chat template, tokens, answer, and what the model says of itself.
#[test]
fn a_text_model_answers_and_refuses_images() {
    for name in TEXT {
        let model =
            MlxProvider::load(folder(name).to_str().unwrap(), MlxOptions::default()).unwrap();
        assert!(!model.info().capabilities.has(Capability::Vision), "{name}");
        assert_eq!(model.info().context_tokens, Some(4096));

        let tokens: Vec<u32> = expected(name)["greedy"].to_vec_cast().unwrap();
        let end = tokens.iter().position(|&id| id == 258).unwrap_or(tokens.len());
        let text = Tokenizer::load(&folder(name)).unwrap().decode(&tokens[..end]).unwrap();
        let ask = |parts: Vec<Part>| {
            let request = Request::new([Message::system("be brief"), Message::user(parts)]);
            let greedy = GenerateParams { max_tokens: Some(8), ..GenerateParams::default() };
            block_on(model.generate(request.with_params(greedy)))
        };
        let text_part = |text: &str| Part::Text(text.to_owned());
        let answer = ask(vec![text_part("hello there")]).unwrap();
        assert_eq!(answer.text, text, "{name}");

        let image = Part::image_file(folder("qwen2").join("none.png"));
        let error = ask(vec![image, text_part("what is it?")]).unwrap_err().to_string();
        assert!(error.contains("vision"), "{name}: {error}");
    }
}

/// Lists each architecture with the fixture that it is compared on; with `WRITE_DOCS` set, writes it.
#[test]
fn docs_list_every_architecture_with_its_fixture() {
    let about = |name: &str| {
        let config = folder(name).join("config.json");
        let config = std::fs::read_to_string(config).unwrap_or_else(|e| panic!("{name}: {e}"));
        serde_json::from_str::<serde_json::Value>(&config).unwrap()["model_type"].clone()
    };
    let mut rows = String::new();
    for architecture in models::architectures() {
        let kind = architecture.model_type;
        let fixture = match kind {
            "qwen2_5_vl" => "../golden/tiny_fp32",
            // The same in all but the name.
            "smolvlm" => "idefics3",
            kind => kind,
        };
        if kind != "smolvlm" {
            assert_eq!(about(fixture), kind);
        }
        let (reads, reference, tests) = match architecture.reads_images() {
            true if architecture.reads_videos().is_some() => {
                ("text, images and videos", "mlx-vlm 0.7.10", "families::images")
            }
            true => ("text and images", "mlx-vlm 0.7.10", "families::images"),
            false => ("text", "mlx-lm 0.32.2", "families::every_text"),
        };
        let tests = if kind == "qwen2_5_vl" { "golden" } else { tests };
        let fixture =
            fixture.strip_prefix("../").map_or(format!("families/{fixture}"), str::to_owned);
        rows += &format!(
            "| `{kind}` | {} | {reads} | {reference} | `testdata/{fixture}` | `cargo test -p mlx-backend --lib {tests}` |\n",
            architecture.about
        );
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/model-support.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once("<!-- begin models -->\n").unwrap();
    let (_, after) = rest.split_once("<!-- end models -->").unwrap();
    let head =
        "| `model_type` | models | reads | compared with | on | by |\n|---|---|---|---|---|---|\n";
    let current = format!("{before}<!-- begin models -->\n{head}{rows}<!-- end models -->{after}");
    if std::env::var_os("WRITE_DOCS").is_some() {
        std::fs::write(&path, &current).unwrap();
    }
    assert!(page == current, "docs/model-support.md is not current; WRITE_DOCS=1 writes it");
}
