//! Watches how close memory is to its limit.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use sysinfo::{MemoryRefreshKind, Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// From where on memory counts as scarce.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum MemoryThreshold {
    /// This part of the limit is in use, by whomever; between 0 and 1. The limit is the machine's memory, or that of
    /// the control group if it is smaller.
    Fraction(f64),
    /// This process has this many bytes resident.
    Bytes(u64),
}

/// How scarce memory is.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum MemoryPressure {
    /// Below the threshold.
    #[default]
    Normal,
    /// At the threshold or above: time to drop caches.
    High,
    /// More than half of the way from the threshold to the limit: time to refuse work.
    Critical,
}

/// Memory at one moment, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MemoryReading {
    /// Resident in this process.
    pub resident: u64,
    /// Still to be had, for this process, without pushing anything out.
    pub available: u64,
    /// The most there could be: the machine's memory or the control group's limit.
    pub limit: u64,
    /// What follows from the threshold.
    pub pressure: MemoryPressure,
}

/// Tells how scarce memory is, looking at the system at most once per interval.
///
/// ```
/// use std::time::Duration;
/// use perf_monitor::{MemoryPressure, MemoryThreshold, MemoryTracker};
///
/// let tracker = MemoryTracker::new(MemoryThreshold::Fraction(0.9), Duration::from_secs(1));
/// if tracker.check() >= MemoryPressure::High {
///     // drop caches
/// }
/// let reading = tracker.reading();
/// assert!(reading.resident <= reading.limit);
/// ```
#[derive(Debug)]
pub struct MemoryTracker {
    threshold: MemoryThreshold,
    interval: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Absent on systems that sysinfo does not know.
    system: Option<System>,
    read_at: Option<Instant>,
    reading: MemoryReading,
}

impl MemoryTracker {
    /// Makes a tracker that looks when first asked, and then at most once per `interval`.
    pub fn new(threshold: MemoryThreshold, interval: Duration) -> Self {
        let state =
            State { system: System::new().ok(), read_at: None, reading: MemoryReading::default() };
        Self { threshold, interval, state: Mutex::new(state) }
    }

    /// How scarce memory is; within the interval, the answer given last.
    pub fn check(&self) -> MemoryPressure {
        self.reading().pressure
    }

    /// The numbers behind [`MemoryTracker::check`].
    pub fn reading(&self) -> MemoryReading {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.read_at.is_none_or(|then| then.elapsed() >= self.interval) {
            let (resident, available, limit) = state.system.as_mut().map_or((0, 0, 0), read);
            let pressure = self.threshold.pressure(resident, available, limit);
            state.reading = MemoryReading { resident, available, limit, pressure };
            state.read_at = Some(Instant::now());
        }
        state.reading
    }
}

impl MemoryThreshold {
    fn pressure(self, resident: u64, available: u64, limit: u64) -> MemoryPressure {
        let (used, threshold) = match self {
            Self::Fraction(fraction) => {
                (limit.saturating_sub(available), (limit as f64 * fraction.clamp(0.0, 1.0)) as u64)
            }
            Self::Bytes(bytes) => (resident, bytes),
        };
        if used < threshold {
            MemoryPressure::Normal
        } else if used - threshold <= limit.saturating_sub(threshold) / 2 {
            MemoryPressure::High
        } else {
            MemoryPressure::Critical
        }
    }
}

/// Resident, available and limit.
fn read(system: &mut System) -> (u64, u64, u64) {
    let pid = Pid::from_u32(std::process::id());
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    let kind = ProcessRefreshKind::nothing().with_memory().without_tasks();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, kind);
    let resident = crate::process::memory().resident;
    let (mut available, mut limit) = (system.available_memory(), system.total_memory());
    let group = system.process(pid).and_then(sysinfo::Process::cgroup_limits);
    if let Some(group) = group.filter(|group| group.total_memory > 0) {
        limit = limit.min(group.total_memory);
        // Not the group's free memory: that counts file pages as used, and mapped weights are file pages, which the
        // kernel drops when it has to.
        available = available.min(group.total_memory.saturating_sub(group.rss));
    }
    (resident, available, limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_rises_with_use() {
        use MemoryPressure::{Critical, High, Normal};
        let fraction = MemoryThreshold::Fraction(0.8);
        for (available, expected) in
            [(100, Normal), (21, Normal), (20, High), (10, High), (9, Critical), (0, Critical)]
        {
            assert_eq!(fraction.pressure(0, available, 100), expected, "{available} available");
        }
        let bytes = MemoryThreshold::Bytes(40);
        for (resident, expected) in
            [(39, Normal), (40, High), (70, High), (71, Critical), (200, Critical)]
        {
            assert_eq!(bytes.pressure(resident, 100, 100), expected, "{resident} resident");
        }
        assert_eq!(
            MemoryThreshold::Bytes(200).pressure(150, 0, 100),
            Normal,
            "a threshold beyond the limit"
        );
    }
}
