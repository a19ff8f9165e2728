//! Operations and phases through the public interface.

use std::{
    sync::{Arc, Barrier},
    thread,
    time::Duration,
};

use perf_monitor::{
    Counter, Gauge, GenerationTimer, MonitorOptions, NullRecorder, PerformanceMonitor, Phase,
    Recorder, Report, Span,
};

#[test]
fn nested_operations_each_count() {
    let monitor = PerformanceMonitor::default();
    let outer = monitor.monitor("outer");
    for _ in 0..3 {
        monitor.time("inner", || thread::sleep(Duration::from_millis(10)));
    }
    let outer = outer.finish();
    let report = monitor.report();
    let names: Vec<_> = report.operations.iter().map(|operation| operation.name.as_str()).collect();
    assert_eq!(names, ["inner", "inner", "inner", "outer"]);
    let inner: f64 = report.operations[..3].iter().map(|operation| operation.duration).sum();
    assert!(inner >= 0.03 && outer.duration >= inner, "{inner} {}", outer.duration);
    assert!((report.summary.total_duration - inner - outer.duration).abs() < 1e-9);
    assert!(
        (report.summary.busy_duration - outer.duration).abs() < 1e-9,
        "busy time counts overlaps once"
    );
    assert_eq!(report.by_name.iter().map(|name| name.durations.count).collect::<Vec<_>>(), [3, 1]);
}

#[test]
fn concurrent_operations_add_up() {
    const THREADS: usize = 64;
    const EACH: usize = 25;
    let monitor = PerformanceMonitor::new(MonitorOptions {
        max_operations: 100,
        ..MonitorOptions::default()
    });
    let barrier = Arc::new(Barrier::new(THREADS));
    let workers: Vec<_> = (0..THREADS)
        .map(|n| {
            let (monitor, barrier) = (monitor.clone(), Arc::clone(&barrier));
            thread::spawn(move || {
                barrier.wait();
                let own: Vec<f64> = (0..EACH)
                    .map(|_| monitor.monitor(format!("worker {}", n % 4)).finish().duration)
                    .collect();
                own.iter().sum::<f64>()
            })
        })
        .collect();
    let expected: f64 = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
    let summary = monitor.report().summary;
    assert_eq!(summary.operation_count, (THREADS * EACH) as u64);
    assert_eq!(
        (summary.operations_omitted, summary.operations_open),
        ((THREADS * EACH - 100) as u64, 0)
    );
    assert!((summary.total_duration - expected).abs() < 1e-9 * expected.max(1.0));
    let by_name = monitor.report().by_name;
    assert_eq!(
        by_name.iter().map(|name| name.durations.count).sum::<u64>(),
        (THREADS * EACH) as u64
    );
    assert_eq!(by_name.len(), 4);
}

#[test]
fn a_guard_may_end_on_another_thread_and_outlive_the_monitor() {
    let monitor = PerformanceMonitor::default();
    let guard = monitor.monitor("moved");
    drop(monitor);
    let report = thread::spawn(move || guard.finish()).join().unwrap();
    assert_eq!(report.name, "moved");
}

#[test]
fn a_discarded_operation_leaves_no_trace() {
    let monitor = PerformanceMonitor::default();
    monitor.monitor("gone").discard();
    let report = monitor.report();
    assert!(report.operations.is_empty() && report.by_name.is_empty());
    assert_eq!((report.summary.operation_count, report.summary.operations_open), (0, 0));
}

#[test]
fn a_panic_inside_an_operation_still_reports_it() {
    let monitor = PerformanceMonitor::default();
    let inner = monitor.clone();
    let result = thread::spawn(move || inner.time("fails", || panic!("on purpose"))).join();
    assert!(result.is_err());
    assert_eq!(monitor.report().operations[0].name, "fails");
}

#[test]
fn the_thread_samples_while_an_operation_is_open_and_only_then() {
    let options =
        MonitorOptions { sample_interval: Duration::from_millis(10), ..MonitorOptions::default() };
    let monitor = PerformanceMonitor::new(options);
    monitor.time("first", || thread::sleep(Duration::from_millis(300)));
    let during = monitor.report().samples.len();
    assert!(during >= 5, "{during} samples in 300 ms at 10 ms");
    thread::sleep(Duration::from_millis(100));
    assert_eq!(monitor.report().samples.len(), during, "idle time is not sampled");
    monitor.time("second", || thread::sleep(Duration::from_millis(100)));
    assert!(monitor.report().samples.len() >= during + 3, "the thread wakes again");
}

#[test]
fn phases_counters_and_gauges_reach_the_report() {
    let monitor = PerformanceMonitor::default();
    let recorder: Arc<dyn Recorder> = Arc::new(monitor.clone());
    {
        let mut span = Span::enter(&*recorder, Phase::Resize);
        span.units(640);
        span.units(360);
        Span::enter(&*recorder, Phase::Fetch).cancel();
    }
    let span = Span::shared(&recorder, Phase::VisionTower);
    thread::spawn(move || drop(span)).join().unwrap();
    recorder.count(Counter::FeatureCacheHits, 2);
    recorder.count(Counter::FeatureCacheHits, 1);
    recorder.gauge(Gauge::MlxActiveBytes, 500);
    recorder.gauge(Gauge::MlxActiveBytes, 300);

    let report = monitor.report();
    let phases: Vec<_> =
        report.phases.iter().map(|p| (p.phase.as_str(), p.units, p.durations.count)).collect();
    assert_eq!(phases, [("resize", 1000, 1), ("vision_tower", 0, 1)]);
    assert_eq!(
        report.counters.into_iter().collect::<Vec<_>>(),
        [("feature_cache_hits".to_owned(), 3)]
    );
    let gauge = report.gauges["mlx_active_bytes"];
    assert_eq!((gauge.last, gauge.max, report.gauges.len()), (300, 500, 1));
    assert_ne!(report.events[0].thread, report.events[1].thread);
}

#[test]
fn a_generation_is_measured_between_tokens() {
    let monitor = PerformanceMonitor::default();
    let recorder: Arc<dyn Recorder> = Arc::new(monitor.clone());
    let mut timer = GenerationTimer::start(&recorder);
    timer.prompt(50, 10, 1);
    for _ in 0..5 {
        thread::sleep(Duration::from_millis(10));
        timer.token();
    }
    drop(timer);
    let report = monitor.report();
    let generation = report.generation.unwrap();
    assert_eq!((generation.new_tokens, generation.inter_token_latency.count), (5, 4));
    assert!(generation.time_to_first_token.min >= 0.01);
    assert!(generation.inter_token_latency.min >= 0.01);
    assert!(generation.tokens_per_second.unwrap() <= 100.0);
    assert_eq!(report.counters["new_tokens"], 5);
}

#[test]
fn the_null_recorder_asks_for_nothing() {
    let recorder: Arc<dyn Recorder> = Arc::new(NullRecorder);
    assert!(!recorder.enabled());
    let mut timer = GenerationTimer::start(&recorder);
    timer.token();
    let span = Span::shared(&recorder, Phase::Load);
    assert_eq!(Arc::strong_count(&recorder), 1, "neither holds on to it");
    drop((timer, span));
}

#[test]
fn json_has_the_original_fields_and_comes_back() {
    let monitor = PerformanceMonitor::default();
    monitor.time("compare", || drop(Span::enter(&monitor, Phase::Load)));
    let report = monitor.report();
    let text = report.to_json();
    assert_eq!(Report::from_json(&text).unwrap(), report);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["schema_version"], 1);
    for field in [
        "name",
        "duration",
        "memory_start",
        "memory_peak",
        "memory_end",
        "cpu_percent",
        "gpu_metrics",
    ] {
        assert!(json["operations"][0].get(field).is_some(), "operations[0].{field}");
    }
    for field in ["total_duration", "peak_memory", "average_cpu"] {
        assert!(json["summary"].get(field).is_some(), "summary.{field}");
    }
    // A report of the first layout, before anything was added.
    let old = r#"{"schema_version":1,"operations":[{"name":"a","duration":1.5,"memory_start":1,"memory_peak":3,
        "memory_end":2,"cpu_percent":99.5,"gpu_metrics":null}],
        "summary":{"total_duration":1.5,"peak_memory":3,"average_cpu":99.5}}"#;
    assert_eq!(Report::from_json(old).unwrap().operations[0].memory_peak, 3);
    assert!(Report::from_json("{}").is_err());
}

#[test]
fn what_is_held_across_awaits_can_move_between_threads() {
    fn movable<T: Send + 'static>() {}
    movable::<perf_monitor::OperationGuard>();
    movable::<Span<'static>>();
    movable::<GenerationTimer>();

    // Spans and operations that interleave without nesting, as tasks on one thread do.
    let monitor = PerformanceMonitor::default();
    let recorder: Arc<dyn Recorder> = Arc::new(monitor.clone());
    let (first, first_span) = (monitor.monitor("first"), Span::shared(&recorder, Phase::Resize));
    let (second, second_span) =
        (monitor.monitor("second"), Span::shared(&recorder, Phase::Patchify));
    drop((first, first_span));
    drop((second, second_span));
    let report = monitor.report();
    assert_eq!(
        report.operations.iter().map(|o| o.name.as_str()).collect::<Vec<_>>(),
        ["first", "second"]
    );
    assert_eq!(report.phases.len(), 2);
    let summary = &report.summary;
    assert!(summary.busy_duration < summary.total_duration, "the overlap counts once: {summary:?}");
}
