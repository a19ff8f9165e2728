//! What a report says of the engine, on tiny-vl: phases with their units, counters, and bytes.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use futures_executor::block_on;
use llm_core::{FinishReason, GenerateParams, Image, Provider, Request, Response};
use mlx_backend::{CacheLimits, Caches, MlxOptions, MlxProvider};
use mlx_rs::memory;
use perf_monitor::{
    Counter, Gauge, GenerationTrace, PerformanceMonitor, PhaseEvent, PhaseReport, Recorder, Report,
};

/// All tests share the MLX thread, and its counters are compared.
fn alone() -> MutexGuard<'static, ()> {
    static MLX: Mutex<()> = Mutex::new(());
    MLX.lock().unwrap_or_else(PoisonError::into_inner)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn weight_bytes(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let weights = files.filter(|file| file.extension().is_some_and(|end| end == "safetensors"));
    weights.map(|file| fs::metadata(file).unwrap().len()).sum()
}

fn scene(name: &str) -> PathBuf {
    root().join("models/tiny-vl/samples").join(name)
}

fn load(caches: Arc<Caches>, recorder: Arc<dyn Recorder>) -> MlxProvider {
    let path = root().join("models/tiny-vl/full");
    let options = MlxOptions { caches, recorder, ..MlxOptions::default() };
    MlxProvider::load(path.to_str().unwrap(), options).unwrap()
}

fn ask(provider: &MlxProvider, image: &str, text: &str, max_tokens: u32) -> Response {
    let params = GenerateParams { max_tokens: Some(max_tokens), ..Default::default() };
    let request = Request::images([Image::Path(scene(image))], text).with_params(params);
    block_on(provider.generate(request)).unwrap()
}

fn phase<'a>(report: &'a Report, name: &str) -> &'a PhaseReport {
    let found = report.phases.iter().find(|phase| phase.phase == name);
    found.unwrap_or_else(|| panic!("no phase {name} in {:?}", report.phases))
}

#[test]
fn every_phase_counts_its_own_work() {
    let _alone = alone();
    let monitor = PerformanceMonitor::default();
    let recorder = Arc::new(monitor.clone());
    let provider = {
        let _operation = monitor.monitor("load");
        load(Caches::new(CacheLimits::default()), recorder)
    };
    let first = {
        let _operation = monitor.monitor("first");
        ask(&provider, "scene.png", "Describe this image.", 40)
    };
    let second = {
        let _operation = monitor.monitor("second");
        ask(&provider, "scene.png", "What color is the circle?", 40)
    };
    let report = monitor.report();

    let [one, two] = [first, second].map(|response| response.completion);
    assert_eq!((one.reason, two.reason), (FinishReason::Stop, FinishReason::Stop));
    assert!(two.usage.cached_tokens >= 64, "{two:?}");
    let prompt = one.usage.prompt_tokens + two.usage.prompt_tokens - two.usage.cached_tokens;
    let made = one.usage.completion_tokens + two.usage.completion_tokens;
    let weights = weight_bytes(&root().join("models/tiny-vl/full"));
    let file = fs::metadata(scene("scene.png")).unwrap().len();
    // The picture is 336 pixels wide and high, which is a multiple of the patches already: 24 by 24 patches of 14.
    for (name, unit, count, units) in [
        ("load", "bytes", 1, weights),
        ("fetch", "bytes", 2, 2 * file),
        ("decode_image", "pixels", 1, 336 * 336),
        ("resize", "pixels", 1, 336 * 336),
        ("patchify", "patches", 1, 24 * 24),
        ("vision_tower", "patches", 1, 24 * 24),
        ("prefill_new", "tokens", 2, prompt as u64),
        ("prefill_reused", "tokens", 2, two.usage.cached_tokens as u64),
        ("decode_step", "tokens", made as u64, made as u64),
        // The token that ends an answer has no text.
        ("detokenise", "tokens", made as u64 - 2, made as u64 - 2),
    ] {
        let found = phase(&report, name);
        assert_eq!(
            (&*found.unit, found.durations.count, found.units),
            (unit, count, units),
            "{name}"
        );
        assert!(found.total_duration > 0.0, "{name}");
    }
    let generation = report.generation.as_ref().unwrap();
    assert_eq!(generation.new_tokens, made as u64);
    assert_eq!(generation.prompt_tokens, prompt as u64);
    assert_eq!(generation.reused_tokens, two.usage.cached_tokens as u64);
    assert_eq!(report.counters["bytes_read"], 2 * file);

    // Each phase lies within an operation: loading in the first, all else in the others.
    let [loading, asking @ ..] = &report.operations[..] else { panic!("{report:?}") };
    for event in &report.events {
        let homes = if event.name == "load" { std::slice::from_ref(loading) } else { asking };
        let inside = homes.iter().any(|home| {
            let (start, end) = (home.start, home.start + home.duration);
            start <= event.start && event.start + event.duration <= end + 1e-6
        });
        assert!(inside, "{event:?} is outside of {homes:?}");
    }
    let threads = |name: &str| {
        let events = report.events.iter().filter(|event| event.name == name);
        let mut threads: Vec<u32> = events.map(|event| event.thread).collect();
        threads.dedup();
        threads
    };
    assert_eq!(threads("decode_step"), threads("vision_tower"), "both run on the MLX thread");
    assert_ne!(threads("decode_image"), threads("vision_tower"), "images are read beside it");
}

#[test]
fn requests_at_the_same_time_add_up() {
    const REQUESTS: usize = 8;
    let _alone = alone();
    let monitor = PerformanceMonitor::default();
    let provider = load(Caches::new(CacheLimits::none()), Arc::new(monitor.clone()));
    let responses: Vec<Response> = thread::scope(|scope| {
        let requests: Vec<_> = (0..REQUESTS)
            .map(|n| {
                let (monitor, provider) = (&monitor, &provider);
                scope.spawn(move || {
                    let _operation = monitor.monitor("request");
                    ask(provider, "scene.png", "Describe this image.", 4 + n as u32)
                })
            })
            .collect();
        requests.into_iter().map(|request| request.join().unwrap()).collect()
    });
    let report = monitor.report();
    let sum = |of: fn(&Response) -> usize| responses.iter().map(of).sum::<usize>() as u64;
    let made = sum(|response| response.completion.usage.completion_tokens);
    let prompt = sum(|response| response.completion.usage.prompt_tokens);
    assert_eq!(report.by_name[0].durations.count, REQUESTS as u64);
    assert_eq!(phase(&report, "decode_step").durations.count, made);
    assert_eq!(phase(&report, "prefill_new").units, prompt);
    assert_eq!(phase(&report, "vision_tower").units, REQUESTS as u64 * 24 * 24);
    assert_eq!(report.generation.unwrap().generations, REQUESTS as u64);
    // They take turns: each lasts while others are served.
    assert!(report.summary.total_duration > 1.5 * report.summary.busy_duration);
}

#[test]
fn what_caches_did_and_hold_is_in_the_report() {
    let _alone = alone();
    let monitor = PerformanceMonitor::default();
    let mut limits = CacheLimits::default();
    // The patches of one picture take 576 * 588 * 4 bytes, so that there is no room for two.
    limits.image_bytes = 2 << 20;
    let caches = Caches::new(limits);
    let provider = load(caches.clone(), Arc::new(monitor.clone()));
    let gauges_agree = |report: &Report| {
        let held = caches.report();
        for (gauge, bytes) in [
            (Gauge::ImageCacheBytes, held.images.bytes),
            (Gauge::FeatureCacheBytes, held.features.bytes),
            (Gauge::KvCacheBytes, held.prefixes.bytes),
        ] {
            assert_eq!(report.gauges[gauge.name()].last, bytes, "{gauge}");
            assert!(bytes > 0, "{gauge}");
        }
    };
    ask(&provider, "scene.png", "Describe this image.", 40);
    let report = monitor.report();
    gauges_agree(&report);
    assert_eq!(report.gauges["image_cache_bytes"].last, 576 * 588 * 4);
    let expect = |report: &Report, expected: &[(Counter, u64)]| {
        for &(counter, count) in expected {
            let found = report.counters.get(counter.name()).copied().unwrap_or(0);
            assert_eq!(found, count, "{counter}: {:?}", report.counters);
        }
    };
    expect(
        &report,
        &[
            (Counter::ImageCacheMisses, 1),
            (Counter::FeatureCacheMisses, 1),
            (Counter::PromptCacheMisses, 1),
            (Counter::PromptCacheHits, 0),
            (Counter::CacheEvictions, 0),
        ],
    );

    // The same picture under another question, then another picture, which takes its place.
    ask(&provider, "scene.png", "What color is the circle?", 40);
    ask(&provider, "second.png", "Describe this image.", 40);
    let report = monitor.report();
    gauges_agree(&report);
    let held = caches.report();
    expect(
        &report,
        &[
            (Counter::ImageCacheMisses, 2),
            (Counter::FeatureCacheHits, held.features.hits),
            (Counter::FeatureCacheMisses, 2),
            (Counter::PromptCacheHits, held.prefixes.hits),
            (Counter::PromptCacheMisses, held.prefixes.misses),
            (Counter::CacheEvictions, 1),
            (Counter::Images, 3),
            (Counter::Requests, 3),
        ],
    );
    assert!(held.prefixes.hits >= 1, "{held:?}");
}

/// Reads MLX's counters itself whenever it is told of them.
#[derive(Debug)]
struct Witness {
    monitor: PerformanceMonitor,
    seen: Mutex<Vec<(Gauge, u64)>>,
}

impl Recorder for Witness {
    fn enabled(&self) -> bool {
        true
    }

    fn phase(&self, event: PhaseEvent) {
        self.monitor.phase(event);
    }

    fn count(&self, counter: Counter, amount: u64) {
        self.monitor.count(counter, amount);
    }

    fn gauge(&self, gauge: Gauge, value: u64) {
        self.monitor.gauge(gauge, value);
        let counter = match gauge {
            Gauge::MlxActiveBytes => memory::active_memory(),
            Gauge::MlxPeakBytes => memory::peak_memory(),
            Gauge::MlxCacheBytes => memory::cache_memory(),
            _ => return,
        };
        self.seen.lock().unwrap().push((gauge, counter.unwrap() as u64));
    }

    fn generation(&self, trace: &GenerationTrace) {
        self.monitor.generation(trace);
    }
}

#[test]
fn bytes_of_mlx_are_those_of_its_own_counters() {
    let _alone = alone();
    let monitor = PerformanceMonitor::default();
    let witness = Arc::new(Witness { monitor: monitor.clone(), seen: Mutex::default() });
    let provider = load(Caches::new(CacheLimits::default()), witness.clone());
    for image in ["scene.png", "second.png", "scene.png"] {
        // An answer that is cut leaves no step in flight, which would still move the counters.
        let answer = ask(&provider, image, "Describe this image.", 3);
        assert_eq!(answer.completion.reason, FinishReason::Length);
        let report = monitor.report();
        let seen = std::mem::take(&mut *witness.seen.lock().unwrap());
        assert_eq!(seen.len(), 3, "each counter is read once for an answer: {seen:?}");
        for (gauge, counter) in seen {
            assert_eq!(report.gauges[gauge.name()].last, counter, "{gauge}");
        }
        // The weights alone are larger than this.
        assert!(report.gauges["mlx_active_bytes"].last > 10 << 20, "{:?}", report.gauges);
        assert!(report.gauges["mlx_peak_bytes"].last >= report.gauges["mlx_active_bytes"].last);
    }
}
