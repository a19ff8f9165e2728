//! The monitor against truth from outside. Spikes run in a child process, since memory is measured process-wide.

#![cfg(target_os = "linux")]
#![allow(clippy::print_stdout, reason = "a child hands its report over on standard output")]

use std::{
    hint::black_box,
    process::{Command, Output},
    thread,
    time::{Duration, Instant, SystemTime},
};

use nix::sys::resource::{UsageWho, getrusage};
use perf_monitor::{MonitorOptions, OperationReport, PeakSource, PerformanceMonitor, Report};

/// No sample ever falls into an operation of these tests, so that only the kernel can know a peak.
const NEVER: Duration = Duration::from_secs(3600);

fn options() -> MonitorOptions {
    MonitorOptions { sample_interval: NEVER, ..MonitorOptions::default() }
}

fn spike(mebibytes: usize) {
    drop(black_box(vec![1u8; mebibytes << 20]));
}

/// One operation with a spike of 256 MiB; the parent compares with what the system says of this process.
#[test]
#[ignore = "run as a child by peak_memory_equals_what_time_says"]
fn child_spike() {
    let monitor = PerformanceMonitor::new(options());
    monitor.time("spike", || spike(256));
    println!("REPORT{}", monitor.report().to_json().replace('\n', ""));
}

/// A large early peak, then operations with smaller ones, nested and one after another.
#[test]
#[ignore = "run as a child by earlier_and_nested_peaks_are_told_apart"]
fn child_nested() {
    spike(400);
    let monitor = PerformanceMonitor::new(options());
    let other = PerformanceMonitor::new(options());
    let outer = monitor.monitor("outer");
    spike(200);
    other.time("inner", || spike(100));
    spike(50);
    monitor.time("quiet", || spike(40));
    outer.finish();
    let mut report = monitor.report();
    report.operations.extend(other.report().operations);
    println!("REPORT{}", report.to_json().replace('\n', ""));
}

/// The same without permission to restart the mark: the early peak hides the operation's own.
#[test]
#[ignore = "run as a child by without_a_reset_the_report_says_so"]
fn child_without_reset() {
    spike(300);
    let monitor = PerformanceMonitor::new(MonitorOptions { reset_high_water: false, ..options() });
    monitor.time("hidden", || spike(100));
    monitor.time("above", || spike(500));
    println!("REPORT{}", monitor.report().to_json().replace('\n', ""));
}

#[test]
fn peak_memory_equals_what_time_says() {
    let mut command = Command::new("/usr/bin/time");
    command.arg("-v").arg(std::env::current_exe().unwrap());
    let Ok(output) = command.args(["--ignored", "--exact", "child_spike", "--nocapture"]).output()
    else {
        // GNU time is not everywhere; the kernel's number for a child that was waited for is the same number.
        let (report, truth) =
            (run("child_spike"), getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss());
        return assert_within_one_percent(&report.operations[0], truth as u64 * 1024);
    };
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find(|line| line.contains("Maximum resident set size")).unwrap();
    let kibibytes: u64 = line.rsplit(' ').next().unwrap().parse().unwrap();
    assert_within_one_percent(&report(&output).operations[0], kibibytes * 1024);
}

#[test]
fn earlier_and_nested_peaks_are_told_apart() {
    let report = run("child_nested");
    let operation =
        |name: &str| report.operations.iter().find(|operation| operation.name == name).unwrap();
    for (name, mebibytes) in [("outer", 200), ("inner", 100), ("quiet", 40)] {
        let operation = operation(name);
        assert_eq!(operation.memory_peak_source, PeakSource::Kernel, "{operation:?}");
        assert_within_one_percent(operation, operation.memory_start + (mebibytes << 20));
    }
}

#[test]
fn without_a_reset_the_report_says_so() {
    let report = run("child_without_reset");
    let [hidden, above] = &report.operations[..] else { panic!("{:?}", report.operations) };
    assert_eq!(hidden.memory_peak_source, PeakSource::Sampled);
    assert!(hidden.memory_peak < hidden.memory_start + (50 << 20), "{hidden:?}");
    assert_eq!(above.memory_peak_source, PeakSource::Kernel);
    assert_within_one_percent(above, above.memory_start + (500 << 20));
}

#[test]
fn durations_equal_those_of_another_clock() {
    let monitor = PerformanceMonitor::default();
    for milliseconds in [10, 100, 1000, 5000] {
        // The clocks are read one after the other: when the scheduler steps in between, the attempt says nothing.
        let errors = (0..5).map(|_| {
            let guard = monitor.monitor("sleep");
            let start = SystemTime::now();
            thread::sleep(Duration::from_millis(milliseconds));
            let truth = start.elapsed().unwrap().as_secs_f64();
            (guard.finish().duration / truth - 1.0).abs()
        });
        let errors: Vec<f64> = errors.take_while_inclusive_until(|error| *error < 0.01);
        assert!(errors.last().unwrap() < &0.01, "{milliseconds} ms: {errors:?}");
    }
}

#[test]
fn cpu_percent_equals_getrusage() {
    let cpu = || {
        let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
        let seconds =
            |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 * 1e-6;
        seconds(usage.user_time()) + seconds(usage.system_time())
    };
    let monitor = PerformanceMonitor::default();
    for busy in [0, 1, 2] {
        let guard = monitor.monitor("spin");
        let (start, cpu_start) = (Instant::now(), cpu());
        let spinners: Vec<_> = (0..busy)
            .map(|_| thread::spawn(move || while start.elapsed().as_millis() < 400 {}))
            .collect();
        thread::sleep(Duration::from_millis(400));
        spinners.into_iter().for_each(|spinner| spinner.join().unwrap());
        let truth = 100.0 * (cpu() - cpu_start) / start.elapsed().as_secs_f64();
        let found = guard.finish().cpu_percent;
        assert!((found - truth).abs() < 3.0, "{busy} threads: {found} for {truth}");
    }
}

trait UntilGood: Iterator<Item = f64> + Sized {
    /// The values up to and including the first that `good` accepts.
    fn take_while_inclusive_until(self, good: impl Fn(&f64) -> bool) -> Vec<f64> {
        let mut taken = Vec::new();
        for value in self {
            taken.push(value);
            if good(&value) {
                break;
            }
        }
        taken
    }
}

impl<I: Iterator<Item = f64>> UntilGood for I {}

fn run(test: &str) -> Report {
    let mut command = Command::new(std::env::current_exe().unwrap());
    report(&command.args(["--ignored", "--exact", test, "--nocapture"]).output().unwrap())
}

fn report(output: &Output) -> Report {
    let text = String::from_utf8_lossy(&output.stdout);
    let json =
        text.lines().find_map(|line| line.split_once("REPORT")).expect("the child reports").1;
    Report::from_json(json).unwrap()
}

fn assert_within_one_percent(operation: &OperationReport, truth: u64) {
    let error = operation.memory_peak as f64 / truth as f64 - 1.0;
    assert!(
        error.abs() < 0.01,
        "{} of {truth}: {:.3} %; {operation:?}",
        operation.memory_peak,
        error * 100.0
    );
}
