//! What a monitor, its guards and its sampling thread share.

use std::{
    collections::BTreeMap,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{
    Counter, Gauge, MonitorOptions,
    generation::GenerationTotals,
    gpu::{self, GpuReading, Probe},
    operations::{OpenOperation, Operations},
    phase_log::PhaseLog,
    process,
    report::GaugeReport,
};

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: MonitorOptions,
    pub(crate) epoch: Instant,
    /// Seconds since 1970 at the epoch.
    pub(crate) started_at: f64,
    pub(crate) phases: PhaseLog,
    gpu_name: String,
    gpu: Option<Mutex<GpuCell>>,
    operations: Mutex<Operations>,
    generations: Mutex<GenerationTotals>,
    counters: Vec<AtomicU64>,
    gauges: Vec<GaugeCell>,
    /// Wakes the sampling thread; goes with `operations`.
    wake: Condvar,
    stopping: AtomicBool,
    /// Whether the sampling thread waits for an operation to begin; changed only under the lock of `operations`.
    parked: AtomicBool,
}

/// NVML takes milliseconds for a full look, so that looks are rationed: a younger reading is used again.
const GPU_INTERVAL: Duration = Duration::from_millis(200);

#[derive(Debug)]
struct GpuCell {
    probe: Box<dyn Probe>,
    last: Option<(Instant, GpuReading)>,
}

#[derive(Debug, Default)]
struct GaugeCell {
    set: AtomicBool,
    last: AtomicU64,
    max: AtomicU64,
}

impl Shared {
    pub(crate) fn new(options: MonitorOptions) -> Self {
        let epoch = Instant::now();
        let probe = gpu::detect(&options);
        Self {
            epoch,
            started_at: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0.0, |since| since.as_secs_f64()),
            phases: PhaseLog::new(epoch, options.max_events_per_phase),
            gpu_name: probe.as_ref().map_or_else(String::new, |probe| probe.name().to_owned()),
            gpu: probe.map(|probe| Mutex::new(GpuCell { probe, last: None })),
            operations: Mutex::new(Operations::new(epoch, process::usage(), &options)),
            generations: Mutex::default(),
            counters: Counter::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            gauges: Gauge::ALL.iter().map(|_| GaugeCell::default()).collect(),
            wake: Condvar::new(),
            stopping: AtomicBool::new(false),
            parked: AtomicBool::new(false),
            options,
        }
    }

    /// Enters an operation into the books, waking the sampling thread if need be.
    pub(crate) fn begin(&self, operation: OpenOperation, gpu: Option<GpuReading>) -> u64 {
        let mut operations = self.operations();
        let id = operations.begin(operation, gpu);
        if self.parked.swap(false, Ordering::Relaxed) {
            self.wake.notify_one();
        }
        id
    }

    /// Tells the sampling thread to end.
    pub(crate) fn stop(&self) {
        let _operations = self.operations();
        self.stopping.store(true, Ordering::Relaxed);
        self.wake.notify_all();
    }

    /// Blocks until an operation is open; false when the monitor goes away.
    pub(crate) fn wait_for_work(&self) -> bool {
        let mut operations = self.operations();
        while !operations.is_busy() && !self.stopping.load(Ordering::Relaxed) {
            self.parked.store(true, Ordering::Relaxed);
            operations = self.wake.wait(operations).unwrap_or_else(PoisonError::into_inner);
        }
        self.parked.store(false, Ordering::Relaxed);
        !self.stopping.load(Ordering::Relaxed)
    }

    /// Blocks for `interval`; false when no operation is open any more or the monitor goes away.
    ///
    /// The end of an operation does not wake the thread: one needless look costs less than a wake-up per operation.
    pub(crate) fn sleep_while_busy(&self, interval: Duration) -> bool {
        let stopping = |_: &mut Operations| !self.stopping.load(Ordering::Relaxed);
        let waited = self.wake.wait_timeout_while(self.operations(), interval, stopping);
        let (operations, _) = waited.unwrap_or_else(PoisonError::into_inner);
        operations.is_busy() && !self.stopping.load(Ordering::Relaxed)
    }

    pub(crate) fn operations(&self) -> MutexGuard<'_, Operations> {
        lock(&self.operations)
    }

    pub(crate) fn generations(&self) -> MutexGuard<'_, GenerationTotals> {
        lock(&self.generations)
    }

    /// Names of the GPUs that are read, joined by commas; empty without any.
    pub(crate) fn gpu_name(&self) -> &str {
        &self.gpu_name
    }

    /// Reads the GPUs, if there are any to read; within [`GPU_INTERVAL`], the reading made last.
    pub(crate) fn read_gpu(&self) -> Option<GpuReading> {
        let mut cell = lock(self.gpu.as_ref()?);
        if let Some((at, reading)) = cell.last
            && at.elapsed() < GPU_INTERVAL
        {
            return Some(reading);
        }
        let reading = cell.probe.read();
        cell.last = Some((Instant::now(), reading));
        Some(reading)
    }

    pub(crate) fn count(&self, counter: Counter, amount: u64) {
        self.counters[counter as usize].fetch_add(amount, Ordering::Relaxed);
    }

    pub(crate) fn set_gauge(&self, gauge: Gauge, value: u64) {
        let cell = &self.gauges[gauge as usize];
        cell.last.store(value, Ordering::Relaxed);
        cell.max.fetch_max(value, Ordering::Relaxed);
        cell.set.store(true, Ordering::Release);
    }

    /// Counters above zero, by name.
    pub(crate) fn counters(&self) -> BTreeMap<String, u64> {
        let values = Counter::ALL
            .iter()
            .zip(&self.counters)
            .map(|(counter, cell)| (counter, cell.load(Ordering::Relaxed)));
        values
            .filter(|&(_, value)| value > 0)
            .map(|(counter, value)| (counter.name().to_owned(), value))
            .collect()
    }

    /// Gauges that were set, by name.
    pub(crate) fn gauges(&self) -> BTreeMap<String, GaugeReport> {
        let set = Gauge::ALL
            .iter()
            .filter_map(|&gauge| Some((gauge.name().to_owned(), self.gauge(gauge)?)));
        set.collect()
    }

    /// A gauge, if it was set.
    pub(crate) fn gauge(&self, gauge: Gauge) -> Option<GaugeReport> {
        let cell = &self.gauges[gauge as usize];
        cell.set.load(Ordering::Acquire).then(|| GaugeReport {
            last: cell.last.load(Ordering::Relaxed),
            max: cell.max.load(Ordering::Relaxed),
        })
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere must not stop the measuring; every update leaves the books usable.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
