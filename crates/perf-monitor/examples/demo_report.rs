//! Measures a make-believe engine and writes the report in every form.
//!
//! `cargo run -p perf-monitor --example demo_report -- DIRECTORY`

use std::{error::Error, fs, hint::black_box, path::PathBuf, sync::Arc, thread, time::Duration};

use perf_monitor::{Gauge, GenerationTimer, PerformanceMonitor, Phase, Recorder, Span};

fn main() -> Result<(), Box<dyn Error>> {
    let directory = PathBuf::from(std::env::args().nth(1).ok_or("name a directory to write to")?);
    let monitor = PerformanceMonitor::default();
    let recorder: Arc<dyn Recorder> = Arc::new(monitor.clone());

    let weights = monitor.time("load the model", || {
        let mut span = Span::enter(&*recorder, Phase::Load);
        span.units(96 << 20);
        work(120);
        vec![1u8; 96 << 20]
    });
    recorder.gauge(Gauge::MlxActiveBytes, weights.len() as u64);
    for request in 0..4u64 {
        let _operation =
            monitor.monitor(if request == 3 { "compare images" } else { "describe an image" });
        let mut timer = GenerationTimer::start(&recorder);
        phase(&*recorder, Phase::Fetch, 900_000, 3);
        let image = vec![1u8; (24 + 8 * request as usize) << 20];
        phase(&*recorder, Phase::DecodeImage, 8_000_000, 30);
        phase(&*recorder, Phase::Resize, 800_000, 12);
        phase(&*recorder, Phase::Patchify, 4_096, 4);
        drop(black_box(image));
        phase(&*recorder, Phase::VisionTower, 4_096, 90);
        phase(&*recorder, Phase::PrefillNew, 1_050, 60);
        timer.prompt(1_050, 0, 1);
        for token in 0..40 {
            phase(&*recorder, Phase::DecodeStep, 1, 5 + (token * 7 + request) % 4);
            phase(&*recorder, Phase::Detokenise, 1, 0);
            timer.token();
        }
        drop(timer);
        thread::sleep(Duration::from_millis(40));
    }
    drop(black_box(weights));

    let report = monitor.report();
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("report.json"), report.to_json())?;
    fs::write(directory.join("report.md"), report.to_markdown())?;
    fs::write(directory.join("report.txt"), report.to_terminal(80))?;
    fs::write(directory.join("report.prom"), report.to_prometheus())?;
    fs::write(directory.join("report.trace.json"), report.to_trace())?;
    fs::write(directory.join("report.html"), report.to_html())?;
    Ok(())
}

fn phase(recorder: &dyn Recorder, phase: Phase, units: u64, milliseconds: u64) {
    let mut span = Span::enter(recorder, phase);
    span.units(units);
    work(milliseconds);
}

/// Keeps one core busy.
fn work(milliseconds: u64) {
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_millis(milliseconds) {
        black_box((0..1000u64).sum::<u64>());
    }
}
