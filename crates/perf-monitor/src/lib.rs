//! Measures operations: duration, memory, CPU and GPU, with reports.
//!
//! Two levels of detail share one [`PerformanceMonitor`]:
//!
//! - An *operation* is something a user would name ("compare two images"). Opening and closing one reads the kernel's
//!   counters (tens of microseconds), so its report holds peak memory and CPU time as well as duration.
//! - A *phase* is a step of the engine ([`Phase`]). Libraries report phases through the [`Recorder`] trait and never
//!   learn who listens; with [`NullRecorder`] a phase costs a virtual call.
//!
//! ```
//! use perf_monitor::{MonitorOptions, PerformanceMonitor, Phase, Recorder, Span};
//!
//! // A library takes any recorder.
//! fn shrink(recorder: &dyn Recorder, pixels: &[u8]) -> Vec<u8> {
//!     let mut span = Span::enter(recorder, Phase::Resize);
//!     span.units(pixels.len() as u64);
//!     pixels.iter().step_by(2).copied().collect()
//! }
//!
//! let monitor = PerformanceMonitor::new(MonitorOptions::default());
//! {
//!     let _operation = monitor.monitor("shrink an image");
//!     shrink(&monitor, &[0; 4096]);
//! }
//! let report = monitor.report();
//! assert_eq!(report.operations[0].name, "shrink an image");
//! println!("{}", report.to_json());
//! ```
//!
//! Units, everywhere: durations are seconds (`f64`), memory is bytes (`u64`), and CPU is a percentage where 100 is one
//! core kept busy. Measuring never fails: what the platform cannot tell is `None`, and nothing here returns an error
//! because of it.
//!
//! # Features
//!
//! - `nvidia`: utilisation, memory, power and energy of NVIDIA GPUs through NVML, loaded when a monitor is made.
//! - `apple`: utilisation of Apple GPUs and the physical footprint; no effect elsewhere.
//! - `apple-power`: power and energy of Apple GPUs as well, through a framework that Apple has not published.
//! - `tracing`: spans are `tracing` spans too, and `MonitorLayer` feeds a monitor from spans.

#![forbid(unsafe_code)]

mod compare;
mod generation;
mod gpu;
mod high_water;
mod histogram;
#[cfg(feature = "tracing")]
mod layer;
mod memory_tracker;
mod monitor;
mod names;
mod operations;
mod options;
mod phase;
mod phase_log;
mod process;
mod read;
mod recorder;
mod render;
mod report;
mod sampler;
mod shared;
mod span;
mod stats;
mod timeline;
mod traced;

pub use compare::{Comparison, SeriesComparison, Verdict, compare, compare_runs};
pub use generation::{GenerationMetrics, GenerationTimer, GenerationTrace};
pub use histogram::Percentiles;
#[cfg(feature = "tracing")]
pub use layer::MonitorLayer;
pub use memory_tracker::{
    MemoryFigures, MemoryPressure, MemoryProbe, MemoryReading, MemoryThreshold, MemoryTracker,
    Relief, Shrink,
};
pub use monitor::{OperationGuard, PerformanceMonitor};
pub use options::MonitorOptions;
pub use phase::{Counter, Gauge, Phase};
pub use read::ReadError;
pub use recorder::{NullRecorder, PhaseEvent, Recorder};
pub use report::{
    Environment, EventReport, GaugeReport, GpuMetrics, NameReport, OperationReport, PeakSource,
    PhaseReport, Report, Sample, Summary, ThreadReport,
};
pub use span::Span;
