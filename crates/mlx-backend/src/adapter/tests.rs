//! Adapters that mlx-vlm made, beside what it answers with them.

use std::collections::HashMap;

use mlx_rs::{Dtype, ops::indexing::TryIndexOp};

use super::*;
use crate::{
    checkpoint::Checkpoint,
    engine::{LoadSpec, build_with_products},
    golden::{ReadCase, golden, greedy, largest_difference, prefill, read_case},
    kv_cache::KvCache,
    models::{self, VisionLanguageModel},
    rope::Positions,
};

const NAMES: [&str; 4] = ["language", "some", "older", "tower"];

fn folder(name: &str) -> PathBuf {
    golden("..").join("adapters").join(name)
}

fn load(checkpoint: &str) -> (Box<dyn VisionLanguageModel>, Products, Rename) {
    let checkpoint = Checkpoint::open(&golden(checkpoint)).unwrap();
    let architecture = models::architecture(checkpoint.model_type()).unwrap();
    let dtype = Some(Dtype::Float32);
    let spec = LoadSpec { dtype, ..LoadSpec::new(&checkpoint, architecture) };
    let (model, products) = build_with_products(&spec).unwrap();
    (model, products, architecture.rename)
}

/// What `model` says about the picture of a case, `step` tokens of the prompt at a time, beside `expected`.
fn check(model: &dyn VisionLanguageModel, case: &str, expected: &Path, step: usize) {
    let inputs = Array::load_safetensors(golden(&format!("{case}.safetensors"))).unwrap();
    let expected = Array::load_safetensors(expected).unwrap();
    let expected: HashMap<&str, &Array> = expected.iter().map(|(k, v)| (k.as_str(), v)).collect();
    let ReadCase { features, logits, mut caches, delta } = read_case(model, &inputs, step);
    let off = largest_difference(&features, expected["vision_features"]);
    assert!(off < 1e-4, "{case}: features differ by {off}");
    let last = expected["logits"].dim(-2);
    let end = logits.try_index((0, logits.dim(1) - last.., ..)).unwrap();
    let off = largest_difference(&end, &expected["logits"].reshape(&[last, -1]).unwrap());
    assert!(off < 1e-3, "{case}: logits differ by {off}");
    let last = logits.try_index((.., -1, ..)).unwrap();
    let found = greedy(model, last, delta, &mut caches, (case, &expected));
    assert_eq!(found, expected["greedy"].to_vec_cast::<i32>().unwrap(), "{case}: greedy tokens");
}

#[test]
fn every_adapter_matches_the_reference() {
    for (checkpoint, case) in [("tiny_fp32", "one_image"), ("tiny_q4", "q4_one_image")] {
        let (model, products, rename) = load(checkpoint);
        for name in NAMES {
            let adapter =
                AdapterFiles::open(&folder(name)).unwrap().read(&products, rename).unwrap();
            assert_eq!(adapter.changes_tower(), name == "tower");
            let expected = folder(&format!("{name}-{checkpoint}.safetensors"));
            for step in [usize::MAX >> 1, 7] {
                with(Some(&adapter), || check(&*model, case, &expected, step));
            }
            // The model itself is not changed by one.
            check(&*model, case, &golden(&format!("{case}.safetensors")), usize::MAX >> 1);
        }
    }
}

/// Of all linear layers, the head too, with names and configuration as mlx-lm writes them.
#[test]
fn an_adapter_of_mlx_lm_matches_the_reference() {
    let (model, products, rename) = load("../families/llama");
    let adapter = AdapterFiles::open(&folder("text/llama")).unwrap();
    let adapter = adapter.read(&products, rename).unwrap();
    let check = |file: PathBuf, step| {
        let expected = Array::load_safetensors(file).unwrap();
        let expected: HashMap<&str, &Array> =
            expected.iter().map(|(k, v)| (k.as_str(), v)).collect();
        let ids: Vec<u32> = expected["input_ids"].to_vec_cast().unwrap();
        let x = model.embed(&Array::from_slice(&ids, &[1, ids.len() as i32])).unwrap();
        let positions = Positions::of_text(ids.len());
        let mut caches = vec![KvCache::default(); model.layers()];
        let logits = prefill(&*model, &x, &positions, &mut caches, step);
        let off = largest_difference(&logits, expected["logits"]);
        assert!(off < 1e-3, "logits differ by {off}");
        let last = logits.try_index((.., -1, ..)).unwrap();
        let found = greedy(&*model, last, positions.delta, &mut caches, ("llama", &expected));
        assert_eq!(found, expected["greedy"].to_vec_cast::<i32>().unwrap());
    };
    for step in [usize::MAX >> 1, 5] {
        with(Some(&adapter), || check(folder("text/llama.safetensors"), step));
        check(golden("../families/llama.safetensors"), step);
    }
}

#[test]
fn after_a_panic_no_adapter_is_active() {
    let adapter = Rc::new(Adapter { deltas: HashMap::new() });
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        with(Some(&adapter), || {
            assert!(is_active());
            with(None, || assert!(!is_active()));
            assert!(is_active());
            panic!("within");
        })
    }));
    assert!(panicked.is_err() && !is_active());
}

/// As PEFT writes them: transposed, with names of its own.
#[test]
fn the_layout_of_peft_is_read() {
    let (model, products, rename) = load("tiny_fp32");
    let dir = tempfile::tempdir().unwrap();
    let stored = Array::load_safetensors(folder("language").join("adapters.safetensors")).unwrap();
    let renamed: Vec<(String, Array)> = stored
        .iter()
        .map(|(name, array)| {
            let (module, part) = name.rsplit_once(".lora_").unwrap();
            let module = module.replace("language_model.model.", "model.language_model.");
            let name = format!("base_model.model.{module}.lora_{}.weight", part.to_uppercase());
            let flat: Vec<f32> =
                ops::transpose(array).unwrap().reshape(&[-1]).unwrap().to_vec_cast().unwrap();
            (name, Array::from_slice(&flat, &[array.dim(1), array.dim(0)]))
        })
        .collect();
    let file = dir.path().join("adapter_model.safetensors");
    Array::save_safetensors(renamed.iter().map(|(k, v)| (k.as_str(), v)), None, file).unwrap();
    let config = r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}"#;
    std::fs::write(dir.path().join("adapter_config.json"), config).unwrap();
    let adapter = AdapterFiles::open(dir.path()).unwrap().read(&products, rename).unwrap();
    let expected = folder("language-tiny_fp32.safetensors");
    with(Some(&adapter), || check(&*model, "one_image", &expected, usize::MAX >> 1));
}

/// Files that do not fit, and what is said of each.
#[test]
fn what_does_not_fit_is_named() {
    let (_, products, rename) = load("tiny_fp32");
    let q = "language_model.model.layers.0.self_attn.q_proj";
    let matrix = |rows: i32, columns: i32, value: f32| {
        Array::from_slice(&vec![value; (rows * columns) as usize], &[rows, columns])
    };
    let good = || {
        [(format!("{q}.lora_a"), matrix(64, 4, 0.1)), (format!("{q}.lora_b"), matrix(4, 64, 0.1))]
    };
    let says = |tensors: &[(String, Array)]| {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("adapters.safetensors");
        Array::save_safetensors(tensors.iter().map(|(k, v)| (k.as_str(), v)), None, file).unwrap();
        let config = r#"{"lora_parameters": {"rank": 4, "scale": 2.0}}"#;
        std::fs::write(dir.path().join("adapter_config.json"), config).unwrap();
        AdapterFiles::open(dir.path()).and_then(|files| files.read(&products, rename))
    };
    assert!(says(&good()).is_ok());
    let [a, b] = good();
    let int = Array::from_slice(&[1i32; 256], &[64, 4]);
    let other = |name: &str| (name.to_owned(), matrix(64, 4, 0.1));
    for (tensors, reason) in [
        (vec![a.clone()], "has a matrix A and no matrix B"),
        (vec![b.clone()], "has a matrix B and no matrix A"),
        (vec![(a.0.clone(), matrix(64, 8, 0.1)), b.clone()], "has shape [64, 8], expected [64, 4]"),
        (vec![a.clone(), (b.0.clone(), matrix(64, 4, 0.1))], "has shape [64, 4], expected [4, 64]"),
        (vec![(a.0.clone(), matrix(64, 4, f32::NAN)), b.clone()], "infinite or no numbers"),
        (vec![(a.0.clone(), int), b.clone()], "has type Int32, expected float32"),
        (vec![other("language_model.model.layers.9.self_attn.q_proj.lora_a")], "no linear layer"),
        (vec![other("../../etc/passwd.lora_a")], "no linear layer"),
        (vec![other("language_model.model.embed_tokens.lora_a")], "no linear layer"),
        (vec![other(&format!("{q}.m"))], "expected `PRODUCT.lora_a`"),
    ] {
        let error = says(&tensors).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        assert!(error.contains(&tensors[0].0) || error.contains(q), "{error}");
    }
}

#[test]
fn files_that_are_not_there_or_not_whole_are_named() {
    let (_, products, rename) = load("tiny_fp32");
    let dir = tempfile::tempdir().unwrap();
    let says = || {
        let read = AdapterFiles::open(dir.path()).and_then(|files| files.read(&products, rename));
        read.unwrap_err().to_string()
    };
    assert!(says().contains("adapter_config.json"));
    std::fs::copy(
        folder("some").join("adapter_config.json"),
        dir.path().join("adapter_config.json"),
    )
    .unwrap();
    assert!(says().contains("adapters.safetensors or adapter_model.safetensors"));
    let whole = std::fs::read(folder("some").join("adapters.safetensors")).unwrap();
    for length in [0, 7, 100, whole.len() - 1] {
        std::fs::write(dir.path().join("adapters.safetensors"), &whole[..length]).unwrap();
        let error = says();
        assert!(error.contains("adapters.safetensors"), "{length} bytes: {error}");
    }
    std::fs::write(dir.path().join("adapter_config.json"), "[1]").unwrap();
    assert!(says().contains("expected lora_parameters"));
}
