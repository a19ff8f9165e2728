//! A recorder that panics changes no answer, on whatever thread it is called.

use std::{path::Path, sync::Arc, thread};

use futures_executor::block_on;
use llm_core::{GenerateParams, Image, Provider, Request};
use mlx_backend::{CacheLimits, Caches, MlxOptions, MlxProvider};
use perf_monitor::{Counter, Gauge, GenerationTrace, PhaseEvent, Recorder};

/// Panics whenever it is told something of one kind.
#[derive(Debug)]
struct Broken(&'static str);

impl Broken {
    fn at(&self, kind: &str) {
        assert!(kind != self.0, "the recorder is broken at {kind}");
    }
}

impl Recorder for Broken {
    fn enabled(&self) -> bool {
        self.at("enabled");
        true
    }

    fn phase(&self, event: PhaseEvent) {
        self.at("phase");
        self.at(event.phase.name());
    }

    fn count(&self, _: Counter, _: u64) {
        self.at("count");
    }

    fn gauge(&self, _: Gauge, _: u64) {
        self.at("gauge");
    }

    fn generation(&self, _: &GenerationTrace) {
        self.at("generation");
    }
}

fn load(recorder: Option<Arc<dyn Recorder>>) -> MlxProvider {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-vl/full");
    let caches = Caches::new(CacheLimits::none());
    let mut options = MlxOptions { caches, ..MlxOptions::default() };
    options.recorder = recorder.unwrap_or(options.recorder);
    MlxProvider::load(path.to_str().unwrap(), options).unwrap()
}

fn ask(model: &MlxProvider) -> String {
    let scene =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-vl/samples/scene.png");
    let params = GenerateParams { max_tokens: Some(8), ..GenerateParams::default() };
    let request = Request::images([Image::Path(scene)], "Describe this image.");
    block_on(model.generate(request.with_params(params))).unwrap().text
}

#[test]
fn a_recorder_that_panics_changes_no_answer() {
    let expected = ask(&load(None));
    for kind in
        ["enabled", "phase", "load", "prefill_new", "decode_step", "count", "gauge", "generation"]
    {
        let model = load(Some(Arc::new(Broken(kind))));
        // Several, so that a step ends with several spans.
        let answers: Vec<String> = thread::scope(|scope| {
            let all: Vec<_> = (0..3).map(|_| scope.spawn(|| ask(&model))).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(answers.iter().all(|answer| *answer == expected), "{kind}: {answers:?}");
        assert_eq!(ask(&model), expected, "{kind}, afterwards");
    }
}
