//! The report as data: what is written to JSON and read back.
//!
//! Durations and times are seconds, memory is bytes, CPU percentages count 100 for one busy core. Times named `start`
//! or `at` count from the creation of the monitor.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{GenerationMetrics, Percentiles};

/// Everything a monitor knows, as of one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Report {
    /// Version of this layout; fields may be added within a version, never renamed or removed.
    pub schema_version: u32,
    /// Finished operations, by their end.
    pub operations: Vec<OperationReport>,
    /// Totals over all finished operations.
    pub summary: Summary,
    /// Totals for each operation name, by name.
    #[serde(default)]
    pub by_name: Vec<NameReport>,
    /// Totals for each engine phase that occurred.
    #[serde(default)]
    pub phases: Vec<PhaseReport>,
    /// Speed of generation, if anything was generated.
    #[serde(default)]
    pub generation: Option<GenerationMetrics>,
    /// Counters that were raised, by name.
    #[serde(default)]
    pub counters: BTreeMap<String, u64>,
    /// Gauges that were set, by name.
    #[serde(default)]
    pub gauges: BTreeMap<String, GaugeReport>,
    /// Samples taken while operations were open.
    #[serde(default)]
    pub samples: Vec<Sample>,
    /// The latest phase events, by start.
    #[serde(default)]
    pub events: Vec<EventReport>,
    /// Threads named in events and operations.
    #[serde(default)]
    pub threads: Vec<ThreadReport>,
    /// The machine and process measured.
    #[serde(default)]
    pub environment: Environment,
}

impl Report {
    /// The layout that this version of the crate writes.
    pub const SCHEMA_VERSION: u32 = 1;

    /// The report as JSON, indented.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a report has string keys only")
    }
}

/// One finished operation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OperationReport {
    /// The name it was opened with.
    pub name: String,
    /// How long it took, in seconds.
    pub duration: f64,
    /// Resident bytes of the process when it began.
    pub memory_start: u64,
    /// Most resident bytes of the process while it ran.
    pub memory_peak: u64,
    /// Resident bytes of the process when it ended.
    pub memory_end: u64,
    /// CPU time of the whole process over the duration, in percent of one core.
    pub cpu_percent: f64,
    /// What the GPUs did, where one could be read.
    pub gpu_metrics: Option<GpuMetrics>,
    /// How `memory_peak` is known.
    #[serde(default)]
    pub memory_peak_source: PeakSource,
    /// When it began, in seconds since the monitor was made.
    #[serde(default)]
    pub start: f64,
    /// CPU time of the whole process while it ran, in seconds.
    #[serde(default)]
    pub cpu_seconds: f64,
    /// Mean CPU use of the whole system while it ran, in percent of one core; absent for operations too short to
    /// sample.
    #[serde(default)]
    pub system_cpu_percent: Option<f64>,
    /// Page faults of the process served without I/O.
    #[serde(default)]
    pub minor_page_faults: u64,
    /// Page faults of the process that waited for I/O.
    #[serde(default)]
    pub major_page_faults: u64,
    /// Physical footprint when it ended, in bytes; told on macOS with the feature `apple`.
    #[serde(default)]
    pub physical_footprint_end: Option<u64>,
    /// Largest physical footprint, in bytes: exact if it was the largest of the process so far, otherwise the larger
    /// of both ends.
    #[serde(default)]
    pub physical_footprint_peak: Option<u64>,
    /// The thread that opened it, as in [`Report::threads`].
    #[serde(default)]
    pub thread: u32,
}

/// How a peak is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PeakSource {
    /// The kernel's high-water mark: exact, however short the spike.
    Kernel,
    /// The highest sample: a spike between two samples may be missing.
    #[default]
    Sampled,
}

/// Totals over all finished operations.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Summary {
    /// Sum of all durations, in seconds; nested and concurrent operations each count in full.
    pub total_duration: f64,
    /// The highest peak of any operation, in bytes.
    pub peak_memory: u64,
    /// CPU time of the process while at least one operation was open over that time, in percent of one core.
    pub average_cpu: f64,
    /// Time during which at least one operation was open, in seconds.
    #[serde(default)]
    pub busy_duration: f64,
    /// How many operations finished.
    #[serde(default)]
    pub operation_count: u64,
    /// How many finished operations are no longer listed one by one.
    #[serde(default)]
    pub operations_omitted: u64,
    /// How many operations were open when the report was made.
    #[serde(default)]
    pub operations_open: u64,
}

/// Totals over all finished operations of one name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NameReport {
    /// The name; `(other)` gathers the names beyond the first 256.
    pub name: String,
    /// Sum of durations, in seconds.
    pub total_duration: f64,
    /// Percentiles of the durations.
    pub durations: Percentiles,
    /// Counts per bucket of duration: upper bound in seconds, count.
    pub histogram: Vec<(f64, u64)>,
    /// The highest peak, in bytes.
    pub peak_memory: u64,
    /// Sum of CPU time, in seconds.
    pub cpu_seconds: f64,
}

/// Totals of one engine phase.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PhaseReport {
    /// Name of the phase.
    pub phase: String,
    /// What `units` counts.
    pub unit: String,
    /// Work items covered.
    pub units: u64,
    /// Work items over the total duration; absent if either is zero.
    pub units_per_second: Option<f64>,
    /// Sum of durations, in seconds.
    pub total_duration: f64,
    /// Percentiles of the durations.
    pub durations: Percentiles,
    /// Counts per bucket of duration: upper bound in seconds, count.
    pub histogram: Vec<(f64, u64)>,
    /// How many occurrences are no longer in [`Report::events`].
    pub events_omitted: u64,
}

/// One occurrence of a phase.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EventReport {
    /// Name of the phase.
    pub name: String,
    /// When it began, in seconds since the monitor was made.
    pub start: f64,
    /// How long it took, in seconds.
    pub duration: f64,
    /// Work items covered.
    pub units: u64,
    /// The thread that reported it, as in [`Report::threads`].
    pub thread: u32,
}

/// A thread that reported something.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ThreadReport {
    /// Its number in this report.
    pub id: u32,
    /// Its name.
    pub name: String,
}

/// The last and the largest value of a gauge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GaugeReport {
    /// The value set last.
    pub last: u64,
    /// The largest value set.
    pub max: u64,
}

/// One look of the sampling thread.
///
/// In a long run neighbouring samples are merged: levels and percentages then hold the larger of the two.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Sample {
    /// When, in seconds since the monitor was made.
    pub at: f64,
    /// Resident bytes of the process.
    pub resident: u64,
    /// CPU use of the process since the sample before, in percent of one core.
    pub cpu_percent: f64,
    /// CPU use of the whole system, in percent of one core; absent until the system has been watched long enough.
    pub system_cpu_percent: Option<f64>,
    /// Bytes in live MLX arrays, if the backend reports them.
    pub mlx_active: Option<u64>,
    /// GPU memory in use, in bytes.
    pub gpu_memory: Option<u64>,
    /// GPU use in percent of all GPUs' time.
    pub gpu_percent: Option<f64>,
    /// Power drawn by the GPUs, in watts.
    pub gpu_watts: Option<f64>,
}

/// What the GPUs did during an operation.
///
/// With several GPUs, memory, power and energy are sums and utilisation is the mean.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GpuMetrics {
    /// Names of the GPUs, joined by commas.
    pub name: String,
    /// How many samples the numbers below rest on.
    pub samples: u64,
    /// Mean utilisation in percent of the GPUs' time.
    pub utilization_percent: Option<f64>,
    /// Most memory in use on the GPUs by all processes, in bytes.
    pub memory_peak: Option<u64>,
    /// Most memory in use on the GPUs by this process, in bytes; not told inside most containers.
    pub process_memory_peak: Option<u64>,
    /// Mean power, in watts.
    pub power_watts: Option<f64>,
    /// Energy used, in joules: the GPU's own meter where it has one, otherwise mean power times duration.
    pub energy_joules: Option<f64>,
}

/// The machine and process measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Environment {
    /// Operating system, such as `linux`.
    pub os: String,
    /// Processor architecture, such as `x86_64`.
    pub arch: String,
    /// Logical CPUs available to the process.
    pub cpus: u64,
    /// Physical memory of the machine, in bytes.
    pub memory_total: u64,
    /// Version of this crate.
    pub monitor_version: String,
    /// When the monitor was made, in seconds since 1970-01-01 UTC.
    pub started_at: f64,
    /// Seconds from then to the report.
    pub elapsed: f64,
}
