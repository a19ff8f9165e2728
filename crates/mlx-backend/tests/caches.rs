//! The provider with its caches, on tiny-vl: what is reused, and that it changes no answer.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Barrier, Mutex},
    thread,
    time::Duration,
};

use futures_executor::block_on;
use llm_core::{GenerateParams, Image, Message, Part, Provider, Request, Response, Role};
use mlx_backend::{CacheLimits, Caches, MlxOptions, MlxProvider};
use perf_monitor::{Counter, Gauge, GenerationTrace, Phase, PhaseEvent, Recorder};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Units and events of each phase.
#[derive(Debug, Default)]
struct Phases(Mutex<HashMap<Phase, (u64, u64)>>);

impl Recorder for Phases {
    fn enabled(&self) -> bool {
        true
    }

    fn phase(&self, event: PhaseEvent) {
        let mut phases = self.0.lock().unwrap();
        let (events, units) = phases.entry(event.phase).or_default();
        *events += 1;
        *units += event.units;
    }

    fn count(&self, _: Counter, _: u64) {}
    fn gauge(&self, _: Gauge, _: u64) {}
    fn generation(&self, _: &GenerationTrace) {}
}

impl Phases {
    /// Returns events and units of `phase` since the last call.
    fn take(&self, phase: Phase) -> (u64, u64) {
        self.0.lock().unwrap().remove(&phase).unwrap_or_default()
    }
}

fn load(model: &str, caches: Arc<Caches>, recorder: Arc<dyn Recorder>) -> MlxProvider {
    let path = root().join("models/tiny-vl").join(model);
    let options = MlxOptions { caches, recorder, ..MlxOptions::default() };
    MlxProvider::load(path.to_str().unwrap(), options).unwrap()
}

fn ask(provider: &MlxProvider, messages: &[Message]) -> Response {
    let params = GenerateParams { max_tokens: Some(40), ..Default::default() };
    block_on(provider.generate(Request::new(messages.to_vec()).with_params(params))).unwrap()
}

fn user(image: Option<Image>, text: &str) -> Message {
    let parts = image.map(Part::Image).into_iter().chain([Part::Text(text.to_owned())]);
    Message::new(Role::User, parts.collect::<Vec<Part>>())
}

fn scene(name: &str) -> PathBuf {
    root().join("models/tiny-vl/samples").join(name)
}

#[test]
fn the_second_question_about_a_picture_computes_its_own_tokens_only() {
    let phases = Arc::new(Phases::default());
    let caches = Caches::new(CacheLimits::default());
    let provider = load("full", caches.clone(), phases.clone());
    let fresh = load("full", Caches::new(CacheLimits::none()), Arc::new(Phases::default()));
    let image = Image::Path(scene("scene.png"));

    let mut turns = vec![user(Some(image), "Describe this image.")];
    let first = ask(&provider, &turns);
    assert_eq!(first.text, ask(&fresh, &turns).text);
    assert_eq!(first.completion.usage.cached_tokens, 0);
    assert_eq!(phases.take(Phase::VisionTower).0, 1);
    assert_eq!(phases.take(Phase::DecodeImage).0, 1);
    assert_eq!(phases.take(Phase::PrefillNew).1, first.completion.usage.prompt_tokens as u64);

    turns.push(Message::new(Role::Assistant, vec![Part::Text(first.text.clone())]));
    turns.push(user(None, "What color is the circle?"));
    let second = ask(&provider, &turns);
    let expected = ask(&fresh, &turns);
    assert_eq!(second.text, expected.text);
    let usage = second.completion.usage;
    assert_eq!(usage.prompt_tokens, expected.completion.usage.prompt_tokens);
    assert!(usage.cached_tokens >= first.completion.usage.prompt_tokens, "{usage:?}");
    assert_eq!(phases.take(Phase::VisionTower).0, 0, "the tower ran again");
    assert_eq!(phases.take(Phase::DecodeImage).0, 0, "the image was decoded again");
    let new = (usage.prompt_tokens - usage.cached_tokens) as u64;
    assert_eq!(phases.take(Phase::PrefillNew).1, new);

    let again = ask(&provider, &turns);
    assert_eq!(again.text, expected.text);
    assert_eq!(phases.take(Phase::PrefillNew).1, 1, "an identical prompt reads one token");
    let report = caches.report();
    assert_eq!((report.prefixes.hits, report.prefixes.misses), (2, 1));
}

#[test]
fn a_file_that_is_replaced_is_another_image() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("picture.png");
    let provider = load("4bit", Caches::new(CacheLimits::default()), Arc::new(Phases::default()));
    let fresh = load("4bit", Caches::new(CacheLimits::none()), Arc::new(Phases::default()));
    let scenes = ["01-describe.png", "07-describe.png", "09-describe.png"]
        .map(|name| root().join("testdata/scenes").join(name));
    let mut answers = Vec::new();
    for scene in scenes.iter().chain(&scenes) {
        fs::copy(scene, &path).unwrap();
        let turns = [user(Some(Image::Path(path.clone())), "Describe this image.")];
        let answer = ask(&provider, &turns);
        assert_eq!(answer.text, ask(&fresh, &turns).text, "{}", scene.display());
        answers.push(answer.text);
    }
    assert_ne!(answers[0], answers[1]);
    assert_eq!(answers[..3], answers[3..]);
}

#[test]
fn a_model_is_loaded_once_however_many_ask_for_it() {
    let caches = Caches::new(CacheLimits::default());
    let phases = Arc::new(Phases::default());
    let barrier = Barrier::new(4);
    let providers: Vec<MlxProvider> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    load("4bit", caches.clone(), phases.clone())
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(phases.take(Phase::Load).0, 1);
    let stats = caches.report().models;
    assert_eq!((stats.hits, stats.misses, stats.entries), (3, 1, 1));
    assert_eq!(
        ask(&providers[3], &[user(None, "What can you do?")]).completion.usage.image_tokens,
        0
    );
    drop(providers);
    let _again = load("4bit", caches.clone(), phases.clone());
    assert_eq!(phases.take(Phase::Load).0, 0, "it is kept for a while");
}

#[test]
fn models_leave_when_their_place_is_needed_and_not_while_in_use() {
    let mut limits = CacheLimits::default();
    limits.models = 1;
    let caches = Caches::new(limits);
    let full = load("full", caches.clone(), Arc::new(Phases::default()));
    let small = load("4bit", caches.clone(), Arc::new(Phases::default()));
    assert_eq!(caches.report().models.entries, 2, "both are in use");
    ask(&full, &[user(None, "What can you do?")]);
    drop(full);
    let stats = caches.report().models;
    assert_eq!((stats.entries, stats.evictions), (1, 1));
    ask(&small, &[user(None, "What can you do?")]);
    drop(small);
    assert_eq!(caches.report().models.entries, 1);
    caches.clear().unwrap();
    assert_eq!(caches.report().models.entries, 0);
    let [one, two] = [(); 2].map(|()| load("4bit", caches.clone(), Arc::new(Phases::default())));
    one.unload();
    assert_eq!(caches.report().models.entries, 1, "another uses it");
    two.unload();
    assert_eq!(caches.report().models.entries, 0);
}

#[test]
fn an_unused_model_leaves_when_its_time_is_up() {
    let mut limits = CacheLimits::default();
    limits.keep_alive = Some(Duration::from_millis(50));
    let caches = Caches::new(limits);
    drop(load("4bit", caches.clone(), Arc::new(Phases::default())));
    // Longer than any machine should need; it ends as soon as the model is gone.
    for _ in 0..1200 {
        if caches.report().models.entries == 0 {
            return;
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("still loaded: {:?}", caches.report().models);
}

#[test]
fn a_load_that_fails_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let caches = Caches::new(CacheLimits::default());
    let try_load = || {
        let options = MlxOptions { caches: caches.clone(), ..MlxOptions::default() };
        MlxProvider::load(dir.path().to_str().unwrap(), options)
    };
    fs::write(dir.path().join("config.json"), "{").unwrap();
    try_load().unwrap_err();
    for file in fs::read_dir(root().join("models/tiny-vl/4bit")).unwrap() {
        let file = file.unwrap().path();
        fs::copy(&file, dir.path().join(file.file_name().unwrap())).unwrap();
    }
    drop(try_load().unwrap());
    assert_eq!(caches.report().models.entries, 1);

    // Nor does it push out a model that is kept.
    let mut limits = CacheLimits::default();
    limits.models = 1;
    let caches = Caches::new(limits);
    let good = load("4bit", caches.clone(), Arc::new(Phases::default()));
    fs::write(dir.path().join("config.json"), "{").unwrap();
    let options = MlxOptions { caches: caches.clone(), ..MlxOptions::default() };
    MlxProvider::load(dir.path().to_str().unwrap(), options).unwrap_err();
    drop(good);
    assert_eq!(caches.report().models.entries, 1);
}
