//! What a monitor keeps and how often it looks.

use std::time::Duration;

/// Settings of a [`PerformanceMonitor`](crate::PerformanceMonitor); all have defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MonitorOptions {
    /// Time between two samples of memory, CPU and GPU while an operation is open; 50 ms by default. Zero means that
    /// no sampling thread is started: duration, CPU and peak memory are then still read at both ends.
    pub sample_interval: Duration,
    /// Whether the kernel's high-water mark of resident memory may be reset when an operation begins; yes by default.
    ///
    /// With the reset the peak of every operation is the kernel's own. The mark belongs to the process: a parent that
    /// reads this process's maximum resident set afterwards (as `/usr/bin/time` does) sees the largest since the last
    /// reset. Without it an operation that stays below an earlier peak only has a sampled peak.
    pub reset_high_water: bool,
    /// Whether GPUs are sampled where the enabled features can reach one, at most every 200 ms; yes by default.
    pub gpu: bool,
    /// How many operations are kept one by one; 10,000 by default. Older ones remain in totals and percentiles.
    pub max_operations: usize,
    /// How many phase events are kept one by one for each phase, for traces and timelines; 4,096 by default. Older
    /// ones remain in totals and percentiles.
    pub max_events_per_phase: usize,
    /// How many samples the timeline holds; 2,048 by default. When it is full, neighbours are merged, so that the
    /// timeline always covers the whole run.
    pub max_samples: usize,
}

impl Default for MonitorOptions {
    fn default() -> Self {
        Self {
            sample_interval: Duration::from_millis(50),
            reset_high_water: true,
            gpu: true,
            max_operations: 10_000,
            max_events_per_phase: 4_096,
            max_samples: 2_048,
        }
    }
}
