//! Sixty-four callers who come and go at random, for a while: no wrong answer, nobody waits for ever, and
//! memory stays level.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "somebody looks at the long one")]

mod plot;
mod random;

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use futures_executor::block_on;
use llm_core::{
    ErrorKind, Event, EventStream, GenerateParams, Image, OutputFormat, Provider, Request,
};
use mlx_backend::{CacheLimits, Caches, MlxOptions, MlxProvider, device_info};

use self::random::Random;

const CALLERS: u64 = 64;
/// Nobody should wait so long, on any machine.
const FOR_EVER: Duration = Duration::from_secs(300);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn load(caches: Arc<Caches>) -> MlxProvider {
    let path = root().join("models/tiny-vl/full");
    let max_queue = CALLERS as usize;
    let options = MlxOptions { caches, max_queue, ..MlxOptions::default() };
    MlxProvider::load(path.to_str().unwrap(), options).unwrap()
}

/// Little, so that entries leave all the time.
fn tight() -> CacheLimits {
    let mut limits = CacheLimits::default();
    (limits.image_bytes, limits.feature_bytes, limits.prefix_bytes) = (4 << 20, 200 << 10, 1 << 20);
    limits
}

/// Questions of several lengths about no, one or two images: greedy, drawn, and held to a schema.
fn requests() -> Vec<Request> {
    let scenes = ["models/tiny-vl/samples/scene.png", "models/tiny-vl/samples/second.png"];
    let scenes = scenes.map(|file| fs::read(root().join(file)).unwrap());
    let questions =
        ["Describe this image.", "What color is the circle?", "Read the text.", "Hello!"];
    let schema = serde_json::json!({"enum": ["red", "green", "blue"]});
    let mut all = Vec::new();
    for (i, question) in questions.iter().enumerate() {
        for images in [&scenes[..0], &scenes[..1], &scenes[1..], &scenes[..]] {
            let images = images.iter().map(|bytes| Image::encoded(bytes.clone()));
            let n = all.len();
            let params = GenerateParams {
                max_tokens: Some([5, 12, 30, 40][(n + i) % 4]),
                temperature: (n % 5 == 4).then_some(1.0),
                seed: (n % 5 == 4).then_some(n as u64),
                ..GenerateParams::default()
            };
            let request = Request::images(images, *question).with_params(params);
            all.push(match n % 7 {
                6 => request.with_output(OutputFormat::json_schema("color", schema.clone())),
                _ => request,
            });
        }
    }
    all
}

/// What all callers did.
#[derive(Debug, Default)]
struct Counts {
    whole: AtomicU64,
    cancelled: AtomicU64,
    refused: AtomicU64,
    bad_images: AtomicU64,
}

/// What callers share.
struct Field<'a> {
    model: &'a MlxProvider,
    requests: &'a [Request],
    expected: &'a [String],
    counts: Counts,
    /// For each caller, when it last had an answer, in milliseconds since the start.
    heard: Vec<AtomicU64>,
    started: Instant,
    over: AtomicBool,
}

impl Field<'_> {
    fn call(&self, caller: u64) {
        let mut random = Random(caller);
        while !self.over.load(Relaxed) {
            self.ask(&mut random);
            let now = self.started.elapsed().as_millis() as u64;
            self.heard[caller as usize].store(now, Relaxed);
        }
    }

    /// Asks for one answer, and reads all of it, some of it or nothing.
    fn ask(&self, random: &mut Random) {
        let which = random.below(self.requests.len() as u64) as usize;
        let leaves = random.below(2) == 0;
        let (request, expected) = (self.requests[which].clone(), &self.expected[which]);
        if random.below(50) == 0 {
            let broken = Request::images([Image::encoded(b"no image".to_vec())], "What is it?");
            match block_on(self.model.generate(broken)) {
                Err(error) if error.kind() == ErrorKind::RateLimited => {}
                answer => assert_eq!(answer.unwrap_err().kind(), ErrorKind::Image),
            }
            self.counts.bad_images.fetch_add(1, Relaxed);
            return;
        }
        let mut stream = match block_on(self.model.generate_stream(request)) {
            Ok(stream) => stream,
            // Those who left hold their places until that is noticed.
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::RateLimited, "{error}");
                self.counts.refused.fetch_add(1, Relaxed);
                thread::sleep(Duration::from_millis(5));
                return;
            }
        };
        if leaves {
            let events = random.below(12);
            let seen = read(&mut stream, events);
            assert!(expected.starts_with(&seen), "request {which}: {seen:?}, alone {expected:?}");
            self.counts.cancelled.fetch_add(1, Relaxed);
        } else {
            let found = read(&mut stream, u64::MAX);
            assert_eq!(&found, expected, "request {which}");
            self.counts.whole.fetch_add(1, Relaxed);
        }
    }

    /// Ends the process if somebody waits for ever: the callers, which cannot be ended, would keep it.
    fn watch(&self) {
        while !self.over.load(Relaxed) {
            thread::sleep(Duration::from_millis(200));
            let now = self.started.elapsed();
            for (caller, heard) in self.heard.iter().enumerate() {
                let waited = now.saturating_sub(Duration::from_millis(heard.load(Relaxed)));
                if waited > FOR_EVER {
                    eprintln!("caller {caller} waits for {waited:?}; {:?}", self.counts);
                    std::process::abort();
                }
            }
        }
    }
}

/// Reads at most so many events, and returns the text in them.
fn read(stream: &mut EventStream, events: u64) -> String {
    let mut text = String::new();
    for _ in 0..events {
        match block_on(stream.next()) {
            Some(Ok(Event::Text(piece))) => text += &piece,
            Some(event) => drop(event.unwrap()),
            None => break,
        }
    }
    text
}

/// Memory at a time.
#[derive(Clone, Copy, Debug)]
struct Sample {
    seconds: f64,
    /// Of the process.
    resident_bytes: u64,
    /// In arrays of MLX.
    active_bytes: u64,
}

fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = status.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0u64);
    pages * 4096
}

fn soak(length: Duration) -> Vec<Sample> {
    let requests = requests();
    let alone = load(Caches::new(CacheLimits::none()));
    let expected: Vec<String> = requests
        .iter()
        .map(|request| block_on(alone.generate(request.clone())).unwrap().text)
        .collect();
    drop(alone);
    let caches = Caches::new(tight());
    let model = load(caches.clone());
    let active = || device_info().unwrap().active_bytes;
    caches.clear().unwrap();
    let before = active();
    let field = Field {
        model: &model,
        requests: &requests,
        expected: &expected,
        counts: Counts::default(),
        heard: (0..CALLERS).map(|_| AtomicU64::new(0)).collect(),
        started: Instant::now(),
        over: AtomicBool::new(false),
    };
    let mut samples = Vec::new();
    thread::scope(|scope| {
        let field = &field;
        for caller in 0..CALLERS {
            scope.spawn(move || {
                // Whoever finds something wrong ends it for all, and then the test.
                let over = OnPanic(&field.over);
                field.call(caller);
                std::mem::forget(over);
            });
        }
        scope.spawn(|| field.watch());
        while field.started.elapsed() < length && !field.over.load(Relaxed) {
            thread::sleep(length.div_f64(1000.0).max(Duration::from_millis(50)));
            samples.push(Sample {
                seconds: field.started.elapsed().as_secs_f64(),
                resident_bytes: resident(),
                active_bytes: active(),
            });
        }
        field.over.store(true, Relaxed);
    });
    println!("{:?} in {:.0?}", field.counts, field.started.elapsed());
    println!("{:#?}", caches.report());
    for count in [&field.counts.whole, &field.counts.cancelled] {
        assert!(count.load(Relaxed) > CALLERS / 2, "{:?}", field.counts);
    }
    // Those who left last are noticed at the next turn.
    let mut after = active();
    for _ in 0..500 {
        caches.clear().unwrap();
        after = active();
        if after <= before {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    assert!(after <= before, "{after} bytes in arrays, {before} before");
    for (request, expected) in requests.iter().zip(&expected) {
        assert_eq!(
            &block_on(model.generate(request.clone())).unwrap().text,
            expected,
            "afterwards"
        );
    }
    samples
}

struct OnPanic<'a>(&'a AtomicBool);

impl Drop for OnPanic<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn nobody_gets_a_wrong_answer_or_waits_for_ever() {
    soak(Duration::from_secs(6));
}

/// `SOAK_PLOT=docs/images/caller-soak.svg cargo test -p mlx-backend --test caller_soak -- --ignored --nocapture`,
/// with `SOAK_SECONDS` for another length.
#[test]
#[ignore = "takes ten minutes"]
fn memory_stays_level_for_ten_minutes() {
    let seconds = env::var("SOAK_SECONDS").map_or(600, |text| text.parse().unwrap());
    let samples = soak(Duration::from_secs(seconds));
    let series = |of: fn(&Sample) -> u64| -> Vec<(f64, f64)> {
        samples.iter().map(|sample| (sample.seconds, of(sample) as f64 / 1e6)).collect()
    };
    let lines = [
        ("resident memory of the process", series(|sample| sample.resident_bytes)),
        ("arrays of MLX", series(|sample| sample.active_bytes)),
    ];
    if let Ok(path) = env::var("SOAK_PLOT") {
        fs::write(root().join(path), plot::svg("s", "MB", &lines)).unwrap();
    }
    for (name, line) in &lines {
        let quarter = line.len() / 4;
        let mean = |part: &[(f64, f64)]| part.iter().map(|p| p.1).sum::<f64>() / part.len() as f64;
        let means: Vec<f64> = line.chunks(quarter).take(4).map(mean).collect();
        println!("{name} by quarter, MB: {means:.1?}");
        let growth = means[3] / means[1];
        assert!(growth < 1.03, "{name}: the last quarter is {growth:.4} of the second");
    }
}
