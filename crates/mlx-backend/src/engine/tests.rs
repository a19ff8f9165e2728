//! Panics on the thread that owns MLX: whoever waits for an answer gets an error, and the thread goes on.
//!
//! They run in a process of their own, since a panic may end the answers of others.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use futures_executor::block_on;
use llm_core::{ErrorKind, Event, EventStream, GenerateParams, Image, Provider, Request};

use super::call;
use crate::{
    CacheLimits, Caches, MlxOptions, MlxProvider,
    models::fragile::{Place, break_at, is_whole},
};

const CHILD: &str = "MLX_PANICS";

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-vl")
}

/// Returns tiny-vl as a model that can be broken.
fn fragile() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(models().join("full")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let config = folder.path().join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(config, text.replacen("\"qwen2_5_vl\"", "\"fragile\"", 1)).unwrap();
    folder
}

/// Loads without caches, so that every request does all its work and a model leaves at once.
fn try_load(path: &Path) -> crate::Result<MlxProvider> {
    let caches = Caches::new(CacheLimits::none());
    MlxProvider::load(path.to_str().unwrap(), MlxOptions { caches, ..MlxOptions::default() })
}

fn describe() -> Request {
    let scene = models().join("samples/scene.png");
    let params = GenerateParams { max_tokens: Some(20), ..GenerateParams::default() };
    Request::images([Image::Path(scene)], "Describe this image.").with_params(params)
}

/// An answer that does not end by itself, of which the first word has come.
fn endless(model: &MlxProvider) -> EventStream {
    let params = GenerateParams {
        max_tokens: Some(3000),
        frequency_penalty: Some(-2.0),
        ..GenerateParams::default()
    };
    let request = Request::text("What is the capital of France?").with_params(params);
    let mut stream = block_on(model.generate_stream(request)).unwrap();
    while !matches!(block_on(stream.next()).unwrap().unwrap(), Event::Text(_)) {}
    stream
}

/// Gives the model back and waits until the thread has heard of it.
fn unload(model: MlxProvider) {
    let caches = model.caches().clone();
    model.unload();
    while caches.report().models.entries > 0 {
        thread::yield_now();
    }
    call(|| ()).unwrap();
}

#[track_caller]
fn is_told(error: &llm_core::Error, place: Place) {
    assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
    assert!(error.to_string().contains(&format!("panic: broken at {place:?}")), "{error}");
    assert!(!is_whole(), "{place:?}");
}

fn ends(stream: EventStream, place: Place) {
    is_told(&block_on(stream.collect()).unwrap_err(), place);
}

/// Not a test of its own: the process that the other test starts.
#[test]
#[ignore = "is run by the other test"]
fn child() {
    if env::var_os(CHILD).is_none() {
        return;
    }
    let folder = fragile();
    let sound = try_load(&models().join("full")).unwrap();
    let expected = block_on(sound.generate(describe())).unwrap().text;
    let right = |model: &MlxProvider| {
        assert_eq!(block_on(model.generate(describe())).unwrap().text, expected);
    };

    break_at(Place::Load);
    let error = try_load(folder.path()).unwrap_err();
    is_told(&error.into(), Place::Load);
    let model = try_load(folder.path()).unwrap();
    right(&model);

    // In what is done for one request: others go on, of this model too.
    for place in [Place::Encode, Place::Positions, Place::Prefill] {
        let other = endless(&model);
        break_at(place);
        is_told(&block_on(model.generate(describe())).unwrap_err(), place);
        right(&model);
        drop(other);
    }
    // In what is done for all answers of a model: they end, and those of others go on.
    for place in [Place::Embed, Place::Step, Place::Logits] {
        let (first, second) = (endless(&model), endless(&model));
        let mut of_sound = endless(&sound);
        break_at(place);
        ends(first, place);
        ends(second, place);
        block_on(of_sound.next()).unwrap().unwrap();
        right(&model);
    }
    // While a model is dropped that nobody uses.
    break_at(Place::Drop);
    unload(model);
    assert!(!is_whole(), "the model was dropped");
    right(&sound);

    // While one is dropped whose last answer has ended: whose fault a panic is that nobody has caught before is
    // not known, so every answer in the making ends.
    let model = try_load(folder.path()).unwrap();
    let (last, other) = (endless(&model), endless(&sound));
    unload(model);
    break_at(Place::Drop);
    drop(last);
    ends(other, Place::Drop);
    right(&sound);
    right(&try_load(folder.path()).unwrap());
}

#[test]
fn after_a_panic_callers_have_an_error_and_the_thread_goes_on() {
    let output = Command::new(env::current_exe().unwrap())
        .args(["engine::tests::child", "--exact", "--ignored", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    assert!(said.contains("broken at Drop"), "the child ran: {said}");
}
