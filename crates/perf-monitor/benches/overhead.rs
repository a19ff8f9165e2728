//! What measuring costs. Budgets: null recorder 5 ns per event, active recorder 1 µs per event.

use std::{hint::black_box, sync::Arc, time::Duration};

use criterion::Criterion;
use perf_monitor::{
    Counter, Gauge, GenerationTimer, MonitorOptions, NullRecorder, PerformanceMonitor, Phase,
    Recorder, Span,
};

fn main() {
    let mut criterion =
        Criterion::default().configure_from_args().measurement_time(Duration::from_secs(2));
    let null: Arc<dyn Recorder> = Arc::new(NullRecorder);
    recorder(&mut criterion, "null", &null);

    let monitor = PerformanceMonitor::new(MonitorOptions::default());
    let active: Arc<dyn Recorder> = Arc::new(monitor.clone());
    recorder(&mut criterion, "active", &active);
    {
        let _open = monitor.monitor("so that the sampling thread runs");
        recorder(&mut criterion, "active and sampling", &active);
    }
    criterion.bench_function("operation", |bencher| bencher.iter(|| monitor.monitor("op")));
    criterion
        .bench_function("report to JSON", |bencher| bencher.iter(|| monitor.report().to_json()));
    criterion.final_summary();
}

fn recorder(criterion: &mut Criterion, name: &str, recorder: &Arc<dyn Recorder>) {
    let recorder = black_box(recorder);
    let mut group = criterion.benchmark_group(name);
    group.bench_function("span", |bencher| {
        bencher.iter(|| Span::enter(&**recorder, black_box(Phase::DecodeStep)))
    });
    group.bench_function("shared span", |bencher| {
        bencher.iter(|| Span::shared(recorder, Phase::DecodeStep))
    });
    group.bench_function("count", |bencher| {
        bencher.iter(|| recorder.count(black_box(Counter::NewTokens), 1))
    });
    group.bench_function("gauge", |bencher| {
        bencher.iter(|| recorder.gauge(Gauge::MlxActiveBytes, black_box(7)))
    });
    // The gaps of one generation are kept until it ends, so the timer is renewed every thousand tokens.
    group.bench_function("1000 tokens", |bencher| {
        bencher.iter(|| {
            let mut timer = GenerationTimer::start(recorder);
            (0..1000).for_each(|_| timer.token());
        });
    });
    group.finish();
}
