//! Checkpoints and requests that cannot work: each gets an error that names what is wrong.

use std::{collections::HashMap, fs, path::Path};

use futures_executor::block_on;
use llm_core::{ErrorKind, Event, GenerateParams, Image, Provider, Request};
use mlx_backend::{MlxOptions, MlxProvider};
use mlx_rs::Array;
use tempfile::TempDir;

const WEIGHTS: &str = "model.safetensors";
const NORM: &str = "model.layers.1.input_layernorm.weight";

/// A copy of the tiny checkpoint that a test may spoil.
fn copy() -> TempDir {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden/tiny_fp32");
    let folder = tempfile::tempdir().expect("a folder");
    for entry in fs::read_dir(source).expect("the fixture") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, folder.path().join(path.file_name().expect("a name"))).expect("copied");
    }
    folder
}

fn spoil_weights(folder: &Path, change: impl FnOnce(&mut HashMap<String, Array>)) {
    let path = folder.join(WEIGHTS);
    let mut tensors = Array::load_safetensors(&path).expect("the fixture");
    // Read before the file that they would be read from is written.
    mlx_rs::transforms::eval(tensors.values()).expect("read");
    change(&mut tensors);
    Array::save_safetensors(tensors.iter(), None, &path).expect("written");
}

fn spoil_config(folder: &Path, from: &str, to: &str) {
    let path = folder.join("config.json");
    let text = fs::read_to_string(&path).expect("the fixture");
    assert!(text.contains(from), "the fixture holds {from}");
    fs::write(path, text.replacen(from, to, 1)).expect("written");
}

fn refused(folder: &Path, says: &[&str]) {
    let name = folder.to_str().expect("a path");
    let error = MlxProvider::load(name, MlxOptions::default()).expect_err("must be refused");
    let text = llm_core::Error::from(error).chain();
    for part in says {
        assert!(text.contains(part), "expected `{part}` in: {text}");
    }
}

#[test]
fn a_missing_tensor_is_named() {
    let folder = copy();
    spoil_weights(folder.path(), |tensors| {
        tensors.remove(NORM).expect("a tensor of the fixture");
    });
    refused(
        folder.path(),
        &["missing tensor `language_model.model.layers.1.input_layernorm.weight`"],
    );
}

#[test]
fn an_unused_tensor_is_named() {
    let folder = copy();
    spoil_weights(folder.path(), |tensors| {
        tensors.insert("model.layers.9.surplus".to_owned(), Array::from_slice(&[1f32], &[1]));
    });
    refused(folder.path(), &["1 unused tensor: `language_model.model.layers.9.surplus`"]);
}

#[test]
fn a_tensor_of_another_shape_is_named_with_both_shapes() {
    let folder = copy();
    spoil_weights(folder.path(), |tensors| {
        tensors.insert(NORM.to_owned(), Array::from_slice(&[1f32; 32], &[32]));
    });
    refused(folder.path(), &["input_layernorm.weight` has shape [32], expected [64]"]);
}

#[test]
fn a_tensor_of_another_type_is_named() {
    let folder = copy();
    spoil_weights(folder.path(), |tensors| {
        tensors.insert(NORM.to_owned(), Array::from_slice(&[1i32; 64], &[64]));
    });
    refused(folder.path(), &["input_layernorm.weight` has type", "expected float32, float16"]);
}

#[test]
fn a_corrupt_weight_file_is_named() {
    let folder = copy();
    let path = folder.path().join(WEIGHTS);
    let whole = fs::read(&path).expect("the fixture");
    let mut huge = whole.clone();
    huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut garbled = whole.clone();
    garbled[20] = 0xff;
    let shortened = whole[..whole.len() - 100].to_vec();
    for (bytes, says) in [
        (Vec::new(), "at least 8 bytes, found 0"),
        (huge, "corrupt safetensors header: it claims"),
        (garbled, "corrupt safetensors header"),
        (shortened, "bytes by its header, found"),
    ] {
        fs::write(&path, bytes).expect("written");
        refused(folder.path(), &[WEIGHTS, says]);
    }
}

#[test]
fn an_unknown_architecture_names_those_known() {
    let folder = copy();
    spoil_config(folder.path(), "\"qwen2_5_vl\"", "\"qwen9\"");
    refused(folder.path(), &["unsupported model_type `qwen9`; supported: qwen2_vl, qwen2_5_vl"]);
}

#[test]
fn a_configuration_that_does_not_fit_itself_is_refused() {
    let folder = copy();
    spoil_config(folder.path(), "\"num_attention_heads\": 4", "\"num_attention_heads\": 3");
    refused(folder.path(), &["config.json", "does not divide into 3 even heads"]);
}

#[test]
fn a_prompt_beyond_the_context_is_refused_with_its_lengths() {
    let folder = copy();
    let positions = "\"max_position_embeddings\": 128000";
    spoil_config(folder.path(), positions, "\"max_position_embeddings\": 40");
    let name = folder.path().to_str().expect("a path");
    let model = MlxProvider::load(name, MlxOptions::default()).expect("loads");
    let error = block_on(model.generate(Request::text("hello there"))).expect_err("too long");
    assert_eq!(error.kind(), ErrorKind::ContextOverflow);
    assert!(error.to_string().contains("the context of the model 40"), "{error}");
}

#[test]
fn the_context_ends_an_answer() {
    let folder = copy();
    let positions = "\"max_position_embeddings\": 128000";
    spoil_config(folder.path(), positions, "\"max_position_embeddings\": 72");
    let name = folder.path().to_str().expect("a path");
    let model = MlxProvider::load(name, MlxOptions::default()).expect("loads");
    // The reference's prompt of 68 tokens, which leaves room for four.
    let answer = block_on(model.generate(Request::text("hello there"))).expect("an answer");
    assert_eq!(answer.completion.usage.prompt_tokens, 68);
    assert_eq!(answer.completion.usage.completion_tokens, 4);
    assert_eq!(answer.completion.reason, llm_core::FinishReason::Length);
}

#[test]
fn a_written_out_placeholder_is_refused() {
    let folder = copy();
    let name = folder.path().to_str().expect("a path");
    let model = MlxProvider::load(name, MlxOptions::default()).expect("loads");
    let request = Request::text("what is <|image_pad|> here?");
    let error = block_on(model.generate(request)).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert!(error.to_string().contains("`<|image_pad|>`"), "{error}");
}

#[test]
fn a_template_with_more_placeholders_than_images_is_refused() {
    let folder = copy();
    let template = r#"{"chat_template": "<|image_pad|><|image_pad|>{{ messages[0].role }}"}"#;
    fs::write(folder.path().join("chat_template.json"), template).expect("written");
    let name = folder.path().to_str().expect("a path");
    let model = MlxProvider::load(name, MlxOptions::default()).expect("loads");
    let image = Image::rgb(56, 56, vec![128; 56 * 56 * 3]).expect("an image");
    let error = block_on(model.generate(Request::images([image], "x"))).expect_err("refused");
    assert!(error.to_string().contains("2 placeholders for 1 images and videos"), "{error}");
}

#[test]
fn a_dropped_answer_stops_the_model() {
    let folder = copy();
    let name = folder.path().to_str().expect("a path");
    let model = MlxProvider::load(name, MlxOptions::default()).expect("loads");
    // A random model does not end by itself; a thousand such answers would take minutes.
    let endless = || {
        let params = GenerateParams { max_tokens: Some(100_000), ..Default::default() };
        Request::text("hello there").with_params(params)
    };
    for _ in 0..5 {
        let mut stream = block_on(model.generate_stream(endless())).expect("starts");
        while !matches!(block_on(stream.next()), Some(Ok(Event::Text(_)))) {}
    }
    let short = GenerateParams { max_tokens: Some(2), ..Default::default() };
    let answer = block_on(model.generate(endless().with_params(short))).expect("an answer");
    assert_eq!(answer.completion.usage.completion_tokens, 2);
}
