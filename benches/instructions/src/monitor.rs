//! What measuring costs, a thousand events at a time.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use perf_monitor::{
    Counter, Gauge, GenerationTrace, NullRecorder, PerformanceMonitor, Phase, PhaseEvent, Recorder,
    Report, Span, compare,
};

use crate::Case;

const EVENTS: usize = 1000;

pub(crate) const CASES: &[Case] = &[
    ("monitor/1000 spans, null", || spans(Arc::new(NullRecorder))),
    ("monitor/1000 phases, active", || phases(PerformanceMonitor::default())),
    ("monitor/1000 counts and gauges, active", || levels(Arc::new(PerformanceMonitor::default()))),
    ("monitor/generation of 1000 tokens, active", || tokens(PerformanceMonitor::default())),
    ("monitor/report from JSON", || {
        let json = report().to_json();
        Box::new(move || drop(black_box(Report::from_json(&json).expect("a report"))))
    }),
    ("monitor/compare reports", || {
        let report = report();
        Box::new(move || drop(black_box(compare(&report, &report, 0.05))))
    }),
];

fn spans(recorder: Arc<dyn Recorder>) -> Box<dyn FnMut()> {
    Box::new(move || {
        for _ in 0..EVENTS {
            Span::enter(&*recorder, black_box(Phase::DecodeStep)).units(1);
        }
    })
}

fn levels(recorder: Arc<dyn Recorder>) -> Box<dyn FnMut()> {
    Box::new(move || {
        for bytes in 0..EVENTS as u64 {
            recorder.count(black_box(Counter::NewTokens), 1);
            recorder.gauge(black_box(Gauge::MlxActiveBytes), bytes);
        }
    })
}

/// Of a known length: a histogram takes other instructions, and may grow, for what a clock says.
fn phases(monitor: PerformanceMonitor) -> Box<dyn FnMut()> {
    let start = Instant::now();
    let event = PhaseEvent::new(Phase::DecodeStep, start, start + Duration::from_millis(3), 1);
    Box::new(move || (0..EVENTS).for_each(|_| monitor.phase(black_box(event))))
}

fn tokens(monitor: PerformanceMonitor) -> Box<dyn FnMut()> {
    let mut trace = GenerationTrace::default();
    trace.new_tokens = EVENTS as u64;
    trace.gaps = vec![Duration::from_millis(3); EVENTS - 1];
    Box::new(move || monitor.generation(black_box(&trace)))
}

/// A report of two hundred operations, the same every time.
fn report() -> Report {
    let operations: Vec<String> = (0..200)
        .map(|n| {
            let duration = 1.0 + f64::from(n * 7919 % 997) / 1e4;
            format!(
                r#"{{"name": "work", "duration": {duration}, "memory_start": 1, "memory_peak": {},
                "memory_end": 1, "cpu_percent": 100.0, "gpu_metrics": null}}"#,
                (1 << 20) + n
            )
        })
        .collect();
    let json = format!(
        r#"{{"schema_version": 1, "operations": [{}],
        "summary": {{"total_duration": 1.0, "peak_memory": 1, "average_cpu": 100.0}}}}"#,
        operations.join(",")
    );
    Report::from_json(&json).expect("a report")
}
