//! Many requests at a time, whose tokens are made together, on tiny-vl: every answer is the one that
//! the request gets alone.

mod random;

use std::{
    fs,
    path::{Path, PathBuf},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use futures_executor::block_on;
use llm_core::{ErrorKind, Event, EventStream, GenerateParams, Image, Provider, Request, Response};
use mlx_backend::{CacheLimits, Caches, Error, MlxOptions, MlxProvider};
use perf_monitor::{Counter, Gauge, GenerationTrace, Phase, PhaseEvent, Recorder};

use self::random::Random;

/// All tests share the MLX thread, and some look at what it does or holds.
fn alone() -> MutexGuard<'static, ()> {
    static MLX: Mutex<()> = Mutex::new(());
    MLX.lock().unwrap_or_else(PoisonError::into_inner)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn load(model: &str, options: MlxOptions) -> MlxProvider {
    let path = root().join(model);
    MlxProvider::load(path.to_str().unwrap(), options).unwrap()
}

const FULL: &str = "models/tiny-vl/full";
const GOLDEN: &str = "testdata/golden/tiny_fp32";

/// What keeps nothing, so that every request does all its work.
fn fresh() -> MlxOptions {
    MlxOptions { caches: Caches::new(CacheLimits::none()), ..MlxOptions::default() }
}

const QUESTIONS: [&str; 6] = [
    "Describe this image.",
    "What color is the circle?",
    "What can you do?",
    "Read the text.",
    "How many shapes are there? Count them all, one after the other, and say what each is like.",
    "Hello!",
];

/// Requests of different lengths: with one image, with two or without.
fn requests(count: usize) -> Vec<Request> {
    let scenes = ["models/tiny-vl/samples/scene.png", "models/tiny-vl/samples/second.png"];
    let scenes = scenes.map(|file| fs::read(root().join(file)).unwrap());
    let mut random = Random(count as u64);
    let request = |i: usize| {
        let images = [&scenes[..1], &[], &scenes[1..], &scenes[..], &[]][i % 5];
        let images = images.iter().map(|bytes| Image::encoded(bytes.clone()));
        let params = GenerateParams {
            max_tokens: Some(2 + random.below(40) as u32),
            ..GenerateParams::default()
        };
        Request::images(images, QUESTIONS[i % QUESTIONS.len()]).with_params(params)
    };
    (0..count).map(request).collect()
}

/// Answers one after the other.
fn one_by_one(provider: &MlxProvider, requests: &[Request]) -> Vec<Response> {
    requests.iter().map(|request| block_on(provider.generate(request.clone())).unwrap()).collect()
}

/// Answers at a time.
fn together(provider: &MlxProvider, requests: &[Request]) -> Vec<Response> {
    let ask = &|request: &Request| block_on(provider.generate(request.clone())).unwrap();
    thread::scope(|scope| {
        let callers: Vec<_> =
            requests.iter().map(|request| scope.spawn(move || ask(request))).collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    })
}

fn assert_same(found: &[Response], expected: &[Response], what: &str) {
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.text, expected.text, "{what}: request {i}");
        let tokens = |response: &Response| response.completion.usage.completion_tokens;
        assert_eq!(tokens(found), tokens(expected), "{what}: request {i}");
        assert_eq!(found.completion.reason, expected.completion.reason, "{what}: request {i}");
    }
}

#[test]
fn every_answer_is_the_one_given_alone() {
    let _alone = alone();
    let of_models: [(_, &[usize]); 3] =
        [(FULL, &[2, 5, 16]), ("models/tiny-vl/4bit", &[9]), (GOLDEN, &[7])];
    for (model, counts) in of_models {
        let provider = load(model, fresh());
        for &count in counts {
            let requests = requests(count);
            let expected = one_by_one(&provider, &requests);
            let found = together(&provider, &requests);
            assert_same(&found, &expected, &format!("{model}, {count}"));
        }
    }
}

/// More than are made at a time: they join where others leave.
#[test]
fn who_waits_gets_the_same_answer_and_prefixes_stay_right() {
    let _alone = alone();
    let expected = one_by_one(&load(FULL, fresh()), &requests(12));
    for max_batch in [3, 8] {
        let caches = Caches::new(CacheLimits::default());
        let provider = load(FULL, MlxOptions { caches, max_batch, ..MlxOptions::default() });
        // The second time with what was kept of the first.
        for round in 0..2 {
            let found = together(&provider, &requests(12));
            assert_same(&found, &expected, &format!("{max_batch} at a time, round {round}"));
            let cached: usize = found.iter().map(|r| r.completion.usage.cached_tokens).sum();
            assert!(round == 0 || cached > 12 * 20, "{cached}");
        }
        assert!(provider.caches().report().prefixes.hits > 12);
    }
}

#[test]
fn each_request_draws_by_its_own_seed_and_parameters() {
    let _alone = alone();
    let provider = load(FULL, fresh());
    let mut requests = requests(12);
    for (i, request) in requests.iter_mut().enumerate() {
        let base = request.params.clone();
        let heat = Some([0.8, 1.0, 1.5][i % 3]);
        request.params = match i % 4 {
            0 => base,
            1 => GenerateParams { temperature: heat, seed: Some(i as u64), ..base },
            2 => GenerateParams { temperature: heat, seed: Some(3), top_k: Some(40), ..base },
            _ => GenerateParams { repetition_penalty: Some(1.3), ..base },
        };
        request.params.max_tokens = Some(30);
    }
    let expected = one_by_one(&provider, &requests);
    assert_same(&together(&provider, &requests), &expected, "seeded");
    let texts: Vec<&str> = expected.iter().map(|response| response.text.as_str()).collect();
    assert!(texts[1] != texts[5], "draws differ: {texts:?}");
}

/// Reads `texts` pieces of text and lets the stream go.
fn cancel_after(mut stream: EventStream, texts: usize) -> String {
    let mut seen = Vec::new();
    while seen.len() < texts {
        match block_on(stream.next()) {
            Some(event) => {
                if let Event::Text(text) = event.unwrap() {
                    seen.push(text);
                }
            }
            None => break,
        }
    }
    seen.concat()
}

#[test]
fn who_leaves_in_the_middle_disturbs_nobody() {
    let _alone = alone();
    let requests = requests(10);
    let expected = one_by_one(&load(FULL, fresh()), &requests);
    let caches = Caches::new(CacheLimits::default());
    let provider = load(FULL, MlxOptions { caches, ..MlxOptions::default() });
    for round in 0..2usize {
        thread::scope(|scope| {
            for (i, request) in requests.iter().enumerate() {
                let (provider, expected) = (&provider, &expected[i]);
                scope.spawn(move || {
                    if (i + round) % 3 == 0 {
                        let stream = block_on(provider.generate_stream(request.clone())).unwrap();
                        let seen = cancel_after(stream, 1 + i % 4);
                        assert!(expected.text.starts_with(&seen), "{seen:?}, {expected:?}");
                    } else {
                        let found = block_on(provider.generate(request.clone())).unwrap();
                        let what = format!("round {round}, request {i}");
                        assert_same(&[found], std::slice::from_ref(expected), &what);
                    }
                });
            }
        });
    }
    // What was kept of those who left is right, too.
    assert_same(&together(&provider, &requests), &expected, "afterwards");
}

#[test]
fn a_full_queue_is_an_error_that_says_so() {
    let _alone = alone();
    let provider = load(FULL, MlxOptions { max_batch: 2, max_queue: 1, ..fresh() });
    let request = &requests(1)[0];
    // Whoever has seen the end of an answer may ask again at once.
    let expected = block_on(provider.generate(request.clone())).unwrap();
    let stream = || block_on(provider.generate_stream(request.clone()));
    let held: Vec<EventStream> = (0..3).map(|_| stream().unwrap()).collect();
    let refused = stream().map(drop).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::RateLimited);
    assert!(Error::Busy { max_batch: 2, max_queue: 1 }.to_string() == refused.to_string());
    drop(held);
    // Places are free once it was noticed that nobody listens.
    let again = (0..500).find_map(|_| {
        thread::sleep(Duration::from_millis(20));
        stream().ok()
    });
    let found = block_on(again.expect("a place is free again").collect()).unwrap();
    assert_same(&[found], &[expected], "after the queue was full");
}

/// Looks whether `future` is ready, without waiting.
fn poll_now<T>(future: impl Future<Output = T>) -> Poll<T> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Phases in their order; they end on one thread.
#[derive(Debug, Default)]
struct Log(Mutex<Vec<PhaseEvent>>);

impl Recorder for Log {
    fn enabled(&self) -> bool {
        true
    }

    fn phase(&self, event: PhaseEvent) {
        if [Phase::PrefillNew, Phase::DecodeStep].contains(&event.phase) {
            self.0.lock().unwrap().push(event);
        }
    }

    fn count(&self, _: Counter, _: u64) {}
    fn gauge(&self, _: Gauge, _: u64) {}
    fn generation(&self, _: &GenerationTrace) {}
}

/// Steps are shared by all, and a prompt that is read in pieces lets others have a token in between.
#[test]
fn tokens_are_made_together_and_between_the_pieces_of_a_prompt() {
    let _alone = alone();
    let log = Arc::new(Log::default());
    let recorder: Arc<dyn Recorder> = log.clone();
    let options = MlxOptions { recorder, prefill_step_tokens: 16, ..fresh() };
    // Random weights, which seldom end an answer.
    let provider = load(GOLDEN, options);
    let mut all = requests(6);
    all.iter_mut().for_each(|request| request.params.max_tokens = Some(30));
    let expected = one_by_one(&provider, &all);
    let long = Request::text("Say much.")
        .with_params(GenerateParams { max_tokens: Some(2000), ..GenerateParams::default() });
    let mut stream = block_on(provider.generate_stream(long)).unwrap();
    while !matches!(block_on(stream.next()), Some(Ok(Event::Text(_)))) {}
    log.0.lock().unwrap().clear();
    assert_same(&together(&provider, &all), &expected, "six beside a long one");
    let log = std::mem::take(&mut *log.0.lock().unwrap());
    // The long one has not ended meanwhile.
    while let Poll::Ready(event) = poll_now(stream.next()) {
        assert!(!matches!(event.unwrap().unwrap(), Event::End(_)), "too soon for this test");
    }
    drop(stream);
    let at_once = |event: &&PhaseEvent| {
        let steps = log.iter().filter(|other| other.phase == Phase::DecodeStep);
        steps.filter(|other| other.start <= event.end && event.start <= other.end).count()
    };
    let most = log.iter().filter(|e| e.phase == Phase::DecodeStep).map(|e| at_once(&e)).max();
    assert!(most.is_some_and(|most| (4..=7).contains(&most)), "{most:?} rows in a step");
    let order: Vec<Phase> = log.iter().map(|event| event.phase).collect();
    let pieces = order.iter().filter(|&&phase| phase == Phase::PrefillNew).count();
    assert!(pieces > 12, "{pieces} pieces of prompts");
    assert!(!order.windows(2).any(|pair| *pair == [Phase::PrefillNew; 2]), "{order:?}");
}
