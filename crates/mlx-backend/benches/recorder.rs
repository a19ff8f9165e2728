//! What recording adds to a generation of tiny-vl: `cargo bench -p mlx-backend --bench recorder -- [ROUNDS]`.
//!
//! Three providers share one model: one has a recorder that keeps nothing, one a monitor with an open operation, and
//! one a monitor that looks at the process [`HASTE`] times as often. They answer in turns, and who begins alternates.
//! The answer is that of three questions to the same run:
//!
//! - the ratio of times, round by round: direct, and as noisy as the machine;
//! - the same of the hasty monitor, over its haste: what looking costs, with the noise made as many times smaller;
//! - what the events of one answer cost when they are recorded by themselves, over the time of an answer.

#![allow(clippy::print_stdout, reason = "a benchmark reports to a terminal")]

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_executor::block_on;
use llm_core::{GenerateParams, Image, Provider, Request};
use mlx_backend::{CacheLimits, Caches, MlxOptions, MlxProvider};
use perf_monitor::{
    Counter, Gauge, GenerationTimer, MonitorOptions, NullRecorder, PerformanceMonitor, Phase,
    Recorder, Span,
};
use rustix::time::{ClockId, clock_gettime};

/// Of the time of an answer.
const BUDGET: f64 = 0.005;

const NEW_TOKENS: u32 = 64;

/// How many times as often as by default the third provider's monitor looks at the process.
const HASTE: u32 = 25;

fn main() {
    // Cargo says `--bench`; criterion's options, which `cargo xtask bench` hands to everybody, mean nothing here.
    let rounds = std::env::args().skip(1).find_map(|text| text.parse().ok()).unwrap_or(100);
    let mut limits = CacheLimits::none();
    (limits.models, limits.model_bytes, limits.keep_alive) = (1, u64::MAX, None);
    let caches = Caches::new(limits);
    let usual = MonitorOptions::default();
    let sample_interval = usual.sample_interval / HASTE;
    let monitor = PerformanceMonitor::new(usual.clone());
    let hasty = PerformanceMonitor::new(MonitorOptions { sample_interval, ..usual });
    let null = load(&caches, Arc::new(NullRecorder));
    let active = load(&caches, Arc::new(monitor.clone()));
    let watched = load(&caches, Arc::new(hasty.clone()));

    let arms: [&dyn Fn(); 3] =
        [&|| answer(&null), &|| monitor.time("answer", || answer(&active)), &|| {
            hasty.time("answer", || answer(&watched))
        }];
    arms.iter().for_each(|arm| arm());
    let (mut wall, mut cpu) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    let mut seconds = Vec::new();
    for round in 0..rounds {
        let mut took = [(0.0, 0.0); 3];
        for turn in 0..arms.len() {
            let arm = (round as usize + turn) % arms.len();
            took[arm] = timed(arms[arm]);
        }
        for arm in 0..2 {
            wall[arm].push(took[arm + 1].0 / took[0].0);
            cpu[arm].push(took[arm + 1].1 / took[0].1);
        }
        seconds.push(took[0].0);
    }
    let answer_seconds = median(&mut seconds);
    println!(
        "{rounds} rounds of answers of {NEW_TOKENS} tokens, {:.1} ms each",
        answer_seconds * 1e3
    );
    for (what, ratios) in [("wall", &mut wall), ("CPU", &mut cpu)] {
        let [(low, high), hasty] = ratios.each_mut().map(|ratios| interval(ratios));
        println!(
            "{what} time with a monitor over without: {:+.3} % (95 % interval {:+.3} to {:+.3} %)",
            percent(median(&mut ratios[0])),
            percent(low),
            percent(high)
        );
        println!(
            "{what} time with {HASTE} times as many looks over without, by {HASTE}: {:+.3} % \
             (95 % interval {:+.3} to {:+.3} %)",
            percent(median(&mut ratios[1])) / f64::from(HASTE),
            percent(hasty.0) / f64::from(HASTE),
            percent(hasty.1) / f64::from(HASTE)
        );
    }
    let looking = (interval(&mut cpu[1]).1 - 1.0) / f64::from(HASTE);
    let events = events(&monitor, rounds + 1);
    let cost = cost(&monitor, &events);
    let share = cost.as_secs_f64() / answer_seconds;
    let [spans, levels, tokens] = events;
    println!(
        "{spans} phases, {levels} counts and gauges and {tokens} tokens of an answer cost {cost:?}: \
         {:.4} % of it; the budget is {} %",
        share * 100.0,
        BUDGET * 100.0
    );
    assert!(share + looking < BUDGET, "recording is over its budget: {looking} for looks alone");
}

fn load(caches: &Arc<Caches>, recorder: Arc<dyn Recorder>) -> MlxProvider {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-vl/full");
    let options = MlxOptions { caches: caches.clone(), recorder, ..MlxOptions::default() };
    MlxProvider::load(path.to_str().expect("a path of UTF-8"), options).expect("tiny-vl")
}

/// A description of a picture, which goes on until the tokens are used up.
fn answer(provider: &MlxProvider) {
    let image =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-vl/samples/scene.png");
    let params = GenerateParams {
        max_tokens: Some(NEW_TOKENS),
        // Otherwise the model would end earlier.
        presence_penalty: Some(2.0),
        frequency_penalty: Some(2.0),
        ..GenerateParams::default()
    };
    let request = Request::images([Image::Path(image)], "Describe this image.").with_params(params);
    block_on(provider.generate(request)).expect("an answer");
}

/// Wall and CPU seconds of `work`; the latter are those of all threads.
fn timed(work: &dyn Fn()) -> (f64, f64) {
    let (start, busy) = (Instant::now(), cpu_seconds());
    work();
    (start.elapsed().as_secs_f64(), cpu_seconds() - busy)
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Phases, counts with gauges, and tokens of one of `answers` answers.
fn events(monitor: &PerformanceMonitor, answers: u64) -> [u64; 3] {
    let report = monitor.report();
    let phases: u64 = report.phases.iter().map(|phase| phase.durations.count).sum();
    let tokens = report.generation.map_or(0, |generation| generation.new_tokens);
    let levels = Counter::ALL.len() + Gauge::ALL.len();
    [phases.div_ceil(answers), levels as u64, tokens.div_ceil(answers)]
}

/// What recording these events costs, and opening and closing an operation.
fn cost(monitor: &PerformanceMonitor, &[spans, levels, tokens]: &[u64; 3]) -> Duration {
    const ROUNDS: u32 = 200;
    let recorder: Arc<dyn Recorder> = Arc::new(monitor.clone());
    let start = Instant::now();
    for _ in 0..ROUNDS {
        let _operation = monitor.monitor("cost");
        let mut timer = GenerationTimer::start(&recorder);
        (0..spans).for_each(|_| Span::enter(&*recorder, Phase::DecodeStep).units(1));
        (0..levels).for_each(|bytes| recorder.gauge(Gauge::QueueDepth, bytes));
        (0..tokens).for_each(|_| timer.token());
    }
    start.elapsed() / ROUNDS
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The 95 % interval of the median, by order statistics: ranks `n / 2 ± 0.98 √n`.
fn interval(values: &mut [f64]) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    let (n, reach) = (values.len() as f64, 0.98 * (values.len() as f64).sqrt());
    let rank = |rank: f64| values[(rank.max(0.0) as usize).min(values.len() - 1)];
    (rank(n / 2.0 - reach), rank(n / 2.0 + reach))
}

fn percent(ratio: f64) -> f64 {
    (ratio - 1.0) * 100.0
}
