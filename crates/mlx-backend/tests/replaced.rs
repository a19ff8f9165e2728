//! A checkpoint that is replaced while it is loaded, or while its files are read.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use futures_executor::block_on;
use llm_core::{GenerateParams, Image, Provider, Request};
use mlx_backend::{CacheLimits, Caches, MlxOptions, MlxProvider};

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-vl")
}

/// Copies the files of `from` over those in `to`, which may be mapped or open.
fn copy_over(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::write(to.join(path.file_name().unwrap()), fs::read(&path).unwrap()).unwrap();
    }
}

const SECOND: &str = "model-00002-of-00002.safetensors";

/// Makes a checkpoint that is another one: half of its second file is zeros.
fn write_other(to: &Path) {
    copy_over(&models().join("full"), to);
    let mut weights = fs::read(to.join(SECOND)).unwrap();
    let from = weights.len() / 2;
    weights[from..].fill(0);
    fs::write(to.join(SECOND), weights).unwrap();
}

fn load(path: &Path, options: MlxOptions) -> mlx_backend::Result<MlxProvider> {
    MlxProvider::load(path.to_str().unwrap(), options)
}

fn uncached() -> MlxOptions {
    MlxOptions { caches: Caches::new(CacheLimits::none()), ..MlxOptions::default() }
}

fn answer(model: &MlxProvider) -> String {
    let params = GenerateParams { max_tokens: Some(40), ..GenerateParams::default() };
    let scene = models().join("samples/scene.png");
    let request = Request::images([Image::Path(scene)], "Describe this image.");
    block_on(model.generate(request.with_params(params))).unwrap().text
}

#[test]
fn a_model_that_is_loaded_stays_what_it_was() {
    let folder = tempfile::tempdir().unwrap();
    copy_over(&models().join("full"), folder.path());
    let caches = Caches::new(CacheLimits::default());
    let shared = || MlxOptions { caches: caches.clone(), ..MlxOptions::default() };
    let old = load(folder.path(), shared()).unwrap();
    let second = tempfile::tempdir().unwrap();
    write_other(second.path());
    let expected = answer(&load(&models().join("full"), uncached()).unwrap());
    let other = answer(&load(second.path(), uncached()).unwrap());
    assert_ne!(expected, other, "the two can be told apart");
    assert_eq!(answer(&old), expected);

    // Overwritten in place: a file that is mapped, or still to be read, would change below the model.
    fs::write(folder.path().join(SECOND), b"").unwrap();
    assert_eq!(answer(&old), expected);
    copy_over(second.path(), folder.path());
    assert_eq!(answer(&old), expected);
    let new = load(folder.path(), shared()).unwrap();
    assert_eq!(answer(&new), other, "what is loaded now is what is there now");
    assert_eq!(answer(&old), expected);
    drop(folder);
    assert_eq!(answer(&old), expected, "the folder is gone");
}

/// MLX reads tensors late: those of a file that changes meanwhile would be of neither checkpoint.
#[test]
fn a_checkpoint_that_changes_while_it_is_read_is_not_loaded() {
    let whole = fs::read(models().join("full").join(SECOND)).unwrap();
    let other = tempfile::tempdir().unwrap();
    write_other(other.path());
    let changed = fs::read(other.path().join(SECOND)).unwrap();
    for (what, bytes) in [("cut", &whole[..whole.len() / 2]), ("changed", &changed[..])] {
        let folder = tempfile::tempdir().unwrap();
        copy_over(&models().join("full"), folder.path());
        // Files that were made just now could be changed within the same tick of the clock.
        let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
        let file = folder.path().join(SECOND);
        fs::File::options().append(true).open(&file).unwrap().set_modified(long_ago).unwrap();
        let (path, bytes, told) = (file.clone(), bytes.to_vec(), Mutex::new(false));
        let load_progress = Arc::new(move |_, _| {
            let mut told = told.lock().unwrap();
            if !*told {
                *told = true;
                fs::write(&path, &bytes).unwrap();
            }
        });
        let error = load(folder.path(), MlxOptions { load_progress, ..uncached() }).unwrap_err();
        assert!(error.to_string().contains("changed while"), "{what}: {error}");
        fs::write(&file, &whole).unwrap();
        load(folder.path(), uncached()).unwrap();
    }
}
