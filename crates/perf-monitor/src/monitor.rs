//! The monitor itself: opens operations, receives phases, makes reports.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, OnceLock},
    thread::JoinHandle,
    time::Instant,
};

use crate::{
    Counter, Gauge, GenerationTrace, MonitorOptions, OperationReport, PhaseEvent, Recorder, Report,
    high_water,
    operations::{Ending, OpenOperation},
    phase_log, process,
    report::{Environment, EventReport, ThreadReport},
    sampler,
    shared::Shared,
};

/// Measures operations and gathers what libraries record.
///
/// Cloning it is cheap, and all clones share one set of books. It is itself a [`Recorder`]; the usual form is
/// `Arc::new(monitor.clone()) as Arc<dyn Recorder>`.
#[derive(Debug, Clone)]
pub struct PerformanceMonitor {
    handle: Arc<Handle>,
}

/// An operation that is being measured; dropping it ends the operation.
///
/// It is `Send`: an operation may begin on one thread and end on another, or span awaits.
#[derive(Debug)]
#[must_use = "an operation that is not kept ends at once"]
pub struct OperationGuard {
    handle: Arc<Handle>,
    /// Absent once the operation has ended.
    id: Option<u64>,
}

/// Owns the sampling thread: the last clone or guard to go stops it.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    thread: OnceLock<Mutex<Option<JoinHandle<()>>>>,
}

impl PerformanceMonitor {
    /// Makes a monitor; its sampling thread starts with the first operation.
    pub fn new(options: MonitorOptions) -> Self {
        Self {
            handle: Arc::new(Handle {
                shared: Arc::new(Shared::new(options)),
                thread: OnceLock::new(),
            }),
        }
    }

    /// Begins the operation `name`, which lasts until the guard is dropped.
    ///
    /// Memory, CPU time and page faults are those of the whole process, so operations that overlap each see what all
    /// of them did.
    pub fn monitor(&self, name: impl Into<String>) -> OperationGuard {
        let shared = &self.handle.shared;
        self.handle.start_sampling();
        let gpu = shared.read_gpu();
        let window = high_water::open(shared.options.reset_high_water);
        let thread = phase_log::thread_number();
        let usage = process::usage();
        // The clock is read last here and first at the end: the readings are not part of the duration.
        let operation = OpenOperation::new(name.into(), Instant::now(), usage, window, thread);
        let id = shared.begin(operation, gpu);
        OperationGuard { handle: Arc::clone(&self.handle), id: Some(id) }
    }

    /// Runs `work` as the operation `name` and returns what it returns.
    pub fn time<T>(&self, name: impl Into<String>, work: impl FnOnce() -> T) -> T {
        let _operation = self.monitor(name);
        work()
    }

    /// Reports all that finished so far; operations still open are only counted.
    pub fn report(&self) -> Report {
        let shared = &self.handle.shared;
        let usage = process::usage();
        let now = Instant::now();
        let operations = shared.operations();
        let gpu_joules = operations.gpu_joules();
        let (listed, events) = (operations.finished(), shared.phases.events());
        Report {
            schema_version: Report::SCHEMA_VERSION,
            threads: threads(&listed, &events),
            operations: listed,
            summary: operations.summary(now, usage),
            by_name: operations.by_name(),
            samples: operations.samples(),
            phases: shared.phases.phases(),
            events,
            generation: shared.generations().metrics(gpu_joules),
            counters: shared.counters(),
            gauges: shared.gauges(),
            environment: Environment {
                os: std::env::consts::OS.to_owned(),
                arch: std::env::consts::ARCH.to_owned(),
                cpus: std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64),
                memory_total: memory_total(),
                monitor_version: env!("CARGO_PKG_VERSION").to_owned(),
                started_at: shared.started_at,
                elapsed: now.duration_since(shared.epoch).as_secs_f64(),
            },
        }
    }
}

impl Default for PerformanceMonitor {
    fn default() -> Self {
        Self::new(MonitorOptions::default())
    }
}

impl Recorder for PerformanceMonitor {
    fn enabled(&self) -> bool {
        true
    }

    fn phase(&self, event: PhaseEvent) {
        self.handle.shared.phases.record(event);
    }

    fn count(&self, counter: Counter, amount: u64) {
        self.handle.shared.count(counter, amount);
    }

    fn gauge(&self, gauge: Gauge, value: u64) {
        self.handle.shared.set_gauge(gauge, value);
    }

    fn generation(&self, trace: &GenerationTrace) {
        self.handle.shared.generations().add(trace);
    }
}

impl OperationGuard {
    /// Ends the operation and returns its report.
    pub fn finish(mut self) -> OperationReport {
        self.end().unwrap_or_default()
    }

    /// Ends the operation without reporting it.
    pub fn discard(mut self) {
        let shared = &self.handle.shared;
        if let Some(operation) = self.id.take().and_then(|id| shared.operations().take(id)) {
            high_water::discard(operation.window().0);
            shared.operations().forget(Instant::now(), process::usage());
        }
    }

    fn end(&mut self) -> Option<OperationReport> {
        let id = self.id.take()?;
        let at = Instant::now();
        let usage = process::usage();
        let footprint = process::footprint();
        let shared = &self.handle.shared;
        let gpu = shared.read_gpu();
        let operation = shared.operations().take(id)?;
        let (window, sampled_peak) = operation.window();
        let ending =
            Ending { at, usage, peak: high_water::close(window, sampled_peak), footprint, gpu };
        Some(shared.operations().book(operation, &ending, shared.gpu_name()))
    }
}

impl Drop for OperationGuard {
    fn drop(&mut self) {
        self.end();
    }
}

impl Handle {
    fn start_sampling(&self) {
        let interval = self.shared.options.sample_interval;
        if !interval.is_zero() {
            self.thread
                .get_or_init(|| Mutex::new(sampler::spawn(Arc::clone(&self.shared), interval)));
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.stop();
        let thread = self.thread.take().and_then(|slot| slot.into_inner().ok().flatten());
        if let Some(thread) = thread {
            // The thread only ever panics if reading the system does, and then there is nothing left to do.
            let _ = thread.join();
        }
    }
}

/// Physical memory of the machine in bytes; zero where sysinfo does not know the system.
fn memory_total() -> u64 {
    let Ok(mut system) = sysinfo::System::new() else { return 0 };
    system.refresh_memory_specifics(sysinfo::MemoryRefreshKind::nothing().with_ram());
    system.total_memory()
}

/// Names of the threads that the report mentions.
fn threads(operations: &[OperationReport], events: &[EventReport]) -> Vec<ThreadReport> {
    let ids = operations
        .iter()
        .map(|operation| operation.thread)
        .chain(events.iter().map(|event| event.thread));
    let mentioned: BTreeSet<u32> = ids.collect();
    let names = phase_log::thread_names().into_iter().filter(|(id, _)| mentioned.contains(id));
    names.map(|(id, name)| ThreadReport { id, name }).collect()
}
