//! Runs a monitor at a high rate and checks that nothing is lost and that its memory stays flat.
//!
//! `cargo run --release -p perf-monitor --example soak -- [seconds] [threads]`; exits with 1 on failure.

#![allow(clippy::print_stdout, reason = "a program that reports to a terminal")]

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use perf_monitor::{
    Counter, GenerationTimer, MemoryThreshold, MemoryTracker, MonitorOptions, PerformanceMonitor,
    Phase, Recorder, Span,
};

/// Resident memory may grow by this much after the first fifth of the run.
const ALLOWED_GROWTH_BYTES: u64 = 4 << 20;

fn main() -> ExitCode {
    let mut arguments =
        std::env::args().skip(1).map(|text| text.parse::<u64>().expect("a whole number"));
    let seconds = arguments.next().unwrap_or(60);
    let threads = arguments.next().unwrap_or(4);

    let options =
        MonitorOptions { sample_interval: Duration::from_millis(5), ..MonitorOptions::default() };
    let monitor = PerformanceMonitor::new(options);
    let stop = Arc::new(AtomicBool::new(false));
    let operations = Arc::new(AtomicU64::new(0));
    let workers: Vec<_> = (0..threads)
        .map(|n| {
            let (monitor, stop, operations) =
                (monitor.clone(), Arc::clone(&stop), Arc::clone(&operations));
            thread::spawn(move || {
                let recorder: Arc<dyn Recorder> = Arc::new(monitor.clone());
                let mut round = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    round += 1;
                    // More names than the monitor keeps apart, as a careless caller would make them.
                    let _operation =
                        monitor.monitor(format!("request {}", (round * threads + n) % 1000));
                    let mut timer = GenerationTimer::start(&recorder);
                    for phase in Phase::ALL {
                        Span::enter(&*recorder, *phase).units(1);
                    }
                    (0..20).for_each(|_| timer.token());
                    recorder.count(Counter::BytesRead, 1);
                    operations.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();

    let tracker = MemoryTracker::new(MemoryThreshold::Fraction(0.9), Duration::ZERO);
    let start = Instant::now();
    let mut settled = 0;
    let mut highest = 0;
    for step in 1..=20u64 {
        thread::sleep(
            (Duration::from_secs(seconds) * step as u32 / 20).saturating_sub(start.elapsed()),
        );
        let resident = tracker.reading().resident;
        match step {
            ..4 => {}
            4 => settled = resident,
            _ => highest = highest.max(resident),
        }
        let done = operations.load(Ordering::Relaxed);
        println!(
            "{:6.1} s  {done:>12} operations  {:>8} KiB resident",
            start.elapsed().as_secs_f64(),
            resident / 1024
        );
    }
    stop.store(true, Ordering::Relaxed);
    workers.into_iter().for_each(|worker| worker.join().expect("a worker"));

    let report = monitor.report();
    let done = operations.load(Ordering::Relaxed);
    let growth = highest.saturating_sub(settled);
    let phases = report.phases.iter().map(|phase| phase.durations.count).sum::<u64>();
    println!(
        "{done} operations, {phases} phases; memory grew by {} KiB after settling",
        growth / 1024
    );
    let complete = report.summary.operation_count == done
        && report.by_name.iter().map(|name| name.durations.count).sum::<u64>() == done
        && phases == done * Phase::ALL.len() as u64
        && report.counters["bytes_read"] == done
        && report.counters["new_tokens"] == done * 20;
    if !complete {
        println!("FAILED: something was lost: {:?} {:?}", report.summary, report.counters);
    }
    if growth > ALLOWED_GROWTH_BYTES {
        println!("FAILED: memory grew");
    }
    if complete && growth <= ALLOWED_GROWTH_BYTES { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
