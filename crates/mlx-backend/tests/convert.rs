//! The converter, against the checkpoint that mlx-vlm's converter made of the same weights.

use std::{path::Path, sync::Arc};

use mlx_backend::{MlxOptions, MlxProvider, Quantize, convert};
use mlx_rs::Array;

#[test]
fn the_tensors_are_those_of_mlx_vlm() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden");
    let folder = tempfile::tempdir().expect("a folder");
    let target = folder.path().join("converted");
    let source = golden.join("tiny_fp32");
    convert(&source, &target, Quantize::default(), Arc::new(|_, _| {})).expect("converted");

    let load = |path: &Path| Array::load_safetensors(path.join("model.safetensors")).expect("file");
    let (ours, theirs) = (load(&target), load(&golden.join("tiny_q4")));
    let names = |tensors: &std::collections::HashMap<String, Array>| {
        let mut names: Vec<String> = tensors.keys().cloned().collect();
        names.sort();
        names
    };
    assert_eq!(names(&ours), names(&theirs));
    for (name, expected) in &theirs {
        let found = &ours[name];
        assert_eq!(found.shape(), expected.shape(), "{name}");
        assert_eq!(found.dtype(), expected.dtype(), "{name}");
        assert!(found.eq_values(expected).expect("comparable"), "{name}");
    }
    let name = target.to_str().expect("a path");
    MlxProvider::load(name, MlxOptions::default()).expect("what was written loads");

    let again = convert(&source, &target, Quantize::default(), Arc::new(|_, _| {}));
    assert!(again.expect_err("refused").to_string().ends_with("exists already"));
    let twice = folder.path().join("twice");
    let packed = convert(&target, &twice, Quantize::default(), Arc::new(|_, _| {}));
    assert!(packed.expect_err("refused").to_string().contains("quantised already"));
    assert!(!twice.exists());
}
