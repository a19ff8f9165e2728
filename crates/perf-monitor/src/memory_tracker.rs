//! Watches how close memory is to its limit, and has caches give some back in time.

mod probe;
mod shrink;

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use self::{probe::SystemProbe, shrink::Shrinkers};
pub use self::{
    probe::{MemoryFigures, MemoryProbe},
    shrink::Shrink,
};

/// From where on memory counts as scarce; by default the marks 85 % and 95 %.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum MemoryThreshold {
    /// This part of the limit is in use, by whomever; between 0 and 1. The limit is the machine's memory, or that of
    /// the control group if it is smaller.
    Fraction(f64),
    /// As `Fraction(high)`, with a mark of its own for [`MemoryPressure::Critical`].
    Marks {
        /// The part of the limit from which on pressure is high; between 0 and 1.
        high: f64,
        /// The part of the limit from which on pressure is critical; between `high` and 1.
        critical: f64,
    },
    /// This process uses this many bytes.
    Bytes(u64),
}

impl Default for MemoryThreshold {
    fn default() -> Self {
        Self::Marks { high: 0.85, critical: 0.95 }
    }
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
    /// At the critical mark, or without one more than half of the way from the threshold to the limit: time to refuse
    /// work.
    Critical,
}

/// Memory at one moment, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MemoryReading {
    /// Resident in this process.
    pub resident: u64,
    /// What this process uses: resident, or what its device says if that is more.
    #[serde(default)]
    pub used: u64,
    /// Still to be had, for this process, without pushing anything out.
    pub available: u64,
    /// The most there could be: the machine's memory or the control group's limit.
    pub limit: u64,
    /// What follows from the threshold.
    pub pressure: MemoryPressure,
}

/// What [`MemoryTracker::relieve`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Relief {
    /// How scarce memory was.
    pub pressure: MemoryPressure,
    /// Bytes that caches were asked for; zero where nobody was asked.
    pub asked_bytes: u64,
    /// Bytes that they say they freed.
    pub freed_bytes: u64,
}

/// Tells how scarce memory is, looking at the system at most once per interval.
///
/// ```
/// use std::time::Duration;
/// use perf_monitor::{MemoryPressure, MemoryThreshold, MemoryTracker};
///
/// let tracker = MemoryTracker::new(MemoryThreshold::default(), Duration::from_secs(1));
/// if tracker.check() >= MemoryPressure::High {
///     // drop caches
/// }
/// let reading = tracker.reading();
/// assert!(reading.resident <= reading.limit);
/// ```
///
/// # Caches
///
/// A cache implements [`Shrink`] and is registered once, weakly: dropping the cache is all it takes to leave.
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use perf_monitor::{MemoryThreshold, MemoryTracker, Shrink};
///
/// struct Thumbnails(Mutex<Vec<Arc<[u8]>>>);
///
/// impl Shrink for Thumbnails {
///     fn shrink(&self, target_bytes: u64) -> u64 {
///         let mut freed = 0;
///         self.0.lock().unwrap().retain(|image| {
///             // A second owner is somebody who uses it.
///             let keep = freed >= target_bytes || Arc::strong_count(image) > 1;
///             freed += if keep { 0 } else { image.len() as u64 };
///             keep
///         });
///         freed
///     }
/// }
///
/// let tracker = MemoryTracker::new(MemoryThreshold::default(), Default::default());
/// let cache = Arc::new(Thumbnails(Mutex::default()));
/// tracker.register(&cache);
/// // Between two pieces of work, on the thread that may drop what caches hold:
/// tracker.relieve();
/// ```
///
/// [`relieve`](Self::relieve) is called often and looks at most once per interval. At the high mark it asks the caches
/// in the order in which they were registered, so those that are cheap to fill again come first, until use would be a
/// tenth below the mark; at the critical mark it asks all of them for everything. [`reclaim`](Self::reclaim) asks at
/// once, for somebody who knows how much will be needed.
pub struct MemoryTracker {
    threshold: MemoryThreshold,
    interval: Duration,
    /// The most that this process should use; `u64::MAX` where nobody said.
    own_limit: Mutex<u64>,
    probe: Box<dyn MemoryProbe>,
    /// Bytes that this process uses on its device; more than resident where that has its own memory.
    device: Option<Box<dyn Fn() -> u64 + Send + Sync>>,
    caches: Shrinkers,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    read_at: Option<Instant>,
    reading: MemoryReading,
    /// When caches were asked last.
    relieved_at: Option<Instant>,
}

impl MemoryTracker {
    /// Makes a tracker that looks when first asked, and then at most once per `interval`.
    pub fn new(threshold: MemoryThreshold, interval: Duration) -> Self {
        Self::with_probe(threshold, interval, SystemProbe::new())
    }

    /// As [`new`](Self::new), with memory read by `probe` in place of the operating system.
    pub fn with_probe(
        threshold: MemoryThreshold,
        interval: Duration,
        probe: impl MemoryProbe + 'static,
    ) -> Self {
        Self {
            threshold,
            interval,
            own_limit: Mutex::new(u64::MAX),
            probe: Box::new(probe),
            device: None,
            caches: Shrinkers::default(),
            state: Mutex::default(),
        }
    }

    /// Counts as used what `bytes` returns, if that is more than what is resident: an allocator's own books.
    #[must_use]
    pub fn with_device(mut self, bytes: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        self.device = Some(Box::new(bytes));
        self
    }

    /// Holds this process to `bytes`, if that is less than what it was held to before; what others use does not count
    /// towards it.
    pub fn limit_own_use(&self, bytes: u64) {
        let mut limit = lock(&self.own_limit);
        *limit = bytes.min(*limit);
        lock(&self.state).read_at = None;
    }

    /// Registers `cache` to be asked for memory; see [the type](Self#caches).
    pub fn register<S: Shrink + 'static>(&self, cache: &std::sync::Arc<S>) {
        // Two statements, since the conversion to a trait object needs the sized type first.
        let weak: Weak<S> = std::sync::Arc::downgrade(cache);
        self.caches.push(weak);
    }

    /// How scarce memory is; within the interval, the answer given last.
    pub fn check(&self) -> MemoryPressure {
        self.reading().pressure
    }

    /// The numbers behind [`MemoryTracker::check`].
    pub fn reading(&self) -> MemoryReading {
        let mut state = lock(&self.state);
        if state.read_at.is_none_or(|then| then.elapsed() >= self.interval) {
            state.reading = self.read();
            state.read_at = Some(Instant::now());
        }
        state.reading
    }

    /// As [`reading`](Self::reading), looking now, whatever the interval.
    pub fn read_now(&self) -> MemoryReading {
        lock(&self.state).read_at = None;
        self.reading()
    }

    /// Asks caches for memory if it is scarce, at most once per interval.
    pub fn relieve(&self) -> Relief {
        let reading = self.reading();
        let mut relief = Relief { pressure: reading.pressure, ..Relief::default() };
        if reading.pressure == MemoryPressure::Normal || !self.may_relieve() {
            return relief;
        }
        relief.asked_bytes = match reading.pressure {
            MemoryPressure::Critical => u64::MAX,
            _ => self.excess(&reading),
        };
        relief.freed_bytes = self.reclaim(relief.asked_bytes);
        relief
    }

    /// Asks caches for `target_bytes` now and returns how many bytes they say they freed.
    pub fn reclaim(&self, target_bytes: u64) -> u64 {
        let freed = self.caches.shrink(target_bytes);
        // What was read before no longer holds.
        lock(&self.state).read_at = None;
        freed
    }

    fn may_relieve(&self) -> bool {
        let mut state = lock(&self.state);
        let due = state.relieved_at.is_none_or(|then| then.elapsed() >= self.interval);
        if due {
            state.relieved_at = Some(Instant::now());
        }
        due
    }

    fn read(&self) -> MemoryReading {
        let MemoryFigures { resident, available, limit } = self.probe.read();
        let used = resident.max(self.device.as_ref().map_or(0, |bytes| bytes()));
        let mut reading = MemoryReading { resident, used, available, limit, ..Default::default() };
        let pressures = self.views(&reading).map(|view| self.threshold.pressure(view));
        reading.pressure = pressures.into_iter().max().unwrap_or_default();
        reading
    }

    /// The two ways in which memory can be short: that of the machine, and the part that this process may use.
    fn views(&self, reading: &MemoryReading) -> [View; 2] {
        let MemoryReading { used: own, available, limit, .. } = *reading;
        let own_limit = limit.min(*lock(&self.own_limit));
        let everybody = limit.saturating_sub(available);
        [View { used: everybody, own, limit }, View { used: own, own, limit: own_limit }]
    }

    /// Bytes to free until use is a tenth below the high mark, so that the mark is not met again at once.
    fn excess(&self, reading: &MemoryReading) -> u64 {
        let excess = |view: View| {
            let (used, mark) = (self.threshold.used(view), self.threshold.high(view.limit));
            if used < mark { 0 } else { used - mark / 10 * 9 }
        };
        self.views(reading).map(excess).into_iter().max().unwrap_or(0)
    }
}

/// Use against a limit, in bytes.
#[derive(Debug, Clone, Copy)]
struct View {
    used: u64,
    /// What this process uses.
    own: u64,
    limit: u64,
}

impl MemoryThreshold {
    fn pressure(self, view: View) -> MemoryPressure {
        let (used, high) = (self.used(view), self.high(view.limit));
        let critical = match self {
            Self::Marks { critical, .. } => used >= part(view.limit, critical),
            Self::Fraction(_) | Self::Bytes(_) => {
                used.saturating_sub(high) > view.limit.saturating_sub(high) / 2
            }
        };
        match used < high {
            true => MemoryPressure::Normal,
            false if critical => MemoryPressure::Critical,
            false => MemoryPressure::High,
        }
    }

    fn used(self, view: View) -> u64 {
        match self {
            Self::Fraction(_) | Self::Marks { .. } => view.used,
            Self::Bytes(_) => view.own,
        }
    }

    fn high(self, limit: u64) -> u64 {
        match self {
            Self::Fraction(high) | Self::Marks { high, .. } => part(limit, high),
            Self::Bytes(bytes) => bytes,
        }
    }
}

fn part(limit: u64, fraction: f64) -> u64 {
    (limit as f64 * fraction.clamp(0.0, 1.0)) as u64
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for MemoryTracker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryTracker")
            .field("threshold", &self.threshold)
            .field("interval", &self.interval)
            .field("own_limit", &self.own_limit)
            .field("caches", &self.caches)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
