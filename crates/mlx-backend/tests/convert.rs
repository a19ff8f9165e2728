//! The converter, against what mlx-vlm's converter made of the same weights.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use mlx_backend::{MlxOptions, MlxProvider, QuantizationMode, Quantize, Recipe, Rule, convert};
use mlx_rs::Array;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden").join(name)
}

fn load(folder: &Path) -> HashMap<String, Array> {
    Array::load_safetensors(folder.join("model.safetensors")).expect("file")
}

fn equal(name: &str, found: &Array, expected: &Array) {
    assert_eq!(found.shape(), expected.shape(), "{name}");
    assert_eq!(found.dtype(), expected.dtype(), "{name}");
    assert!(found.eq_values(expected).expect("comparable"), "{name}");
}

#[test]
fn the_tensors_are_those_of_mlx_vlm() {
    let folder = tempfile::tempdir().expect("a folder");
    let target = folder.path().join("converted");
    let source = golden("tiny_fp32");
    let how = Recipe::from(Quantize::default());
    let done = convert(&source, &target, &how, Arc::new(|_, _| {})).expect("converted");
    assert_eq!(done.resumed, 0);

    let (ours, theirs) = (load(&target), load(&golden("tiny_q4")));
    let names = |tensors: &HashMap<String, Array>| {
        let mut names: Vec<String> = tensors.keys().cloned().collect();
        names.sort();
        names
    };
    assert_eq!(names(&ours), names(&theirs));
    for (name, expected) in &theirs {
        equal(name, &ours[name], expected);
    }
    let name = target.to_str().expect("a path");
    MlxProvider::load(name, MlxOptions::default()).expect("what was written loads");

    let again = convert(&source, &target, &how, Arc::new(|_, _| {}));
    assert!(again.expect_err("refused").to_string().ends_with("exists already"));
    let twice = folder.path().join("twice");
    let packed = convert(&target, &twice, &how, Arc::new(|_, _| {}));
    assert!(packed.expect_err("refused").to_string().contains("quantised already"));
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
}

/// Every mode, widths and groups of integers, and a recipe: `testdata/golden/quantized`.
#[test]
fn in_every_mode_the_packed_tensors_are_those_of_mlx_vlm() {
    let affine = |bits, group| Quantize::affine(bits, group).into();
    let folder = tempfile::tempdir().expect("a folder");
    let cases: [(&str, Recipe); 9] = [
        ("affine2", affine(2, 32)),
        ("affine3", affine(3, 64)),
        ("affine5", affine(5, 32)),
        ("affine6", affine(6, 64)),
        ("affine8", affine(8, 32)),
        ("mxfp4", Quantize::from(QuantizationMode::Mxfp4).into()),
        ("mxfp8", Quantize::from(QuantizationMode::Mxfp8).into()),
        ("nvfp4", Quantize::from(QuantizationMode::Nvfp4).into()),
        ("mixed_3_6", Recipe::mixed("mixed_3_6").expect("a recipe")),
    ];
    for (case, recipe) in cases {
        let target = folder.path().join(case);
        convert(&golden("tiny_fp32"), &target, &recipe, Arc::new(|_, _| {})).expect("converted");
        let ours = load(&target);
        let file = golden(&format!("quantized/{case}.safetensors"));
        let theirs = Array::load_safetensors(file).expect("file");
        let packed = |tensors: &HashMap<String, Array>| {
            tensors.keys().filter(|name| name.ends_with(".scales")).count()
        };
        assert_eq!(packed(&ours), packed(&theirs), "{case}");
        for (name, expected) in theirs.iter().filter(|(name, _)| !name.starts_with("greedy")) {
            equal(&format!("{case}: {name}"), &ours[name], expected);
        }
    }
}

#[test]
fn a_try_goes_on_where_the_last_one_ended() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = golden("tiny_fp32");
    let how = Recipe::from(Quantize::default());
    let whole = folder.path().join("whole");
    convert(&source, &whole, &how, Arc::new(|_, _| {})).expect("converted");

    // Ended by a panic of the listener, which is like any other end of the process to the files.
    let (target, work) = (folder.path().join("target"), folder.path().join("target.incomplete"));
    let stop = Arc::new(|done, _| assert!(done < 20, "no more"));
    convert(&source, &target, &how, stop).expect_err("ended");
    assert!(!target.exists());
    let lines = || fs::read_to_string(work.join(".progress")).expect("a journal").lines().count();
    assert_eq!(lines(), 1 + 20);

    let file = work.join("model.safetensors");
    let mut bytes = fs::read(&file).expect("weights");
    let complete = fs::read(whole.join("model.safetensors")).expect("weights");
    assert_eq!(bytes.len(), complete.len());
    let done = convert(&source, &target, &how, Arc::new(|_, _| {})).expect("converted");
    assert_eq!(done.resumed, 20);
    assert_eq!(fs::read(target.join("model.safetensors")).expect("weights"), complete);
    assert!(!work.exists());

    // With a byte that is not as it was written, what is after it is done again.
    fs::remove_dir_all(&target).expect("removed");
    let stop = Arc::new(|done, _| assert!(done < 20, "no more"));
    convert(&source, &target, &how, stop).expect_err("ended");
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    bytes[8 + header] ^= 1;
    fs::write(&file, bytes).expect("written");
    let done = convert(&source, &target, &how, Arc::new(|_, _| {})).expect("converted");
    assert_eq!(done.resumed, 0);
    assert_eq!(fs::read(target.join("model.safetensors")).expect("weights"), complete);

    // With another recipe nothing is kept.
    fs::remove_dir_all(&target).expect("removed");
    let stop = Arc::new(|done, _| assert!(done < 20, "no more"));
    convert(&source, &target, &how, stop).expect_err("ended");
    let eight = Quantize::affine(8, 64).into();
    let done = convert(&source, &target, &eight, Arc::new(|_, _| {})).expect("converted");
    assert_eq!(done.resumed, 0);
}

#[test]
fn a_source_that_changes_while_it_is_read_gives_no_copy() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = folder.path().join("source");
    fs::create_dir(&source).expect("a folder");
    for entry in fs::read_dir(golden("tiny_fp32")).expect("the fixture") {
        let path = entry.expect("a file").path();
        fs::copy(&path, source.join(path.file_name().expect("a name"))).expect("copied");
    }
    let (target, how) = (folder.path().join("target"), Recipe::from(Quantize::default()));
    let weights = source.join("model.safetensors");
    let whole = fs::read(&weights).expect("weights");
    let (path, mut changed) = (weights.clone(), whole.clone());
    *changed.last_mut().expect("a byte") ^= 1;
    let change = Arc::new(move |done, _| {
        if done == 20 {
            fs::write(&path, &changed).expect("written");
        }
    });
    let error = convert(&source, &target, &how, change).expect_err("it changed");
    assert!(error.to_string().contains("changed while it was read"), "{error}");
    assert!(!target.exists());
    // What was done is of other files.
    let done = convert(&source, &target, &how, Arc::new(|_, _| {})).expect("converted");
    assert_eq!(done.resumed, 0);
}

#[test]
fn a_rule_that_changes_nothing_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let target = folder.path().join("target");
    let rule: Rule = "*.no_such_layer=8".parse().expect("a rule");
    let how = Recipe::from(Quantize::default()).with_rules([rule]);
    let error = convert(&golden("tiny_fp32"), &target, &how, Arc::new(|_, _| {}));
    assert!(error.expect_err("refused").to_string().contains("*.no_such_layer=8/64 matches no"));
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
}
