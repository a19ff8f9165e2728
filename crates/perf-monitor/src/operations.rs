//! The books of a monitor: operations that are open, those that finished, and totals.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::{Duration, Instant},
};

use crate::{
    MonitorOptions,
    gpu::{GpuReading, GpuTotals, Mean},
    high_water::{OpenWindow, Peak},
    histogram::Durations,
    process::{self, Footprint, Usage},
    report::{NameReport, OperationReport, Sample, Summary},
    timeline::Timeline,
};

/// Operations beyond this many names are gathered under one, since a histogram is kept for each.
const MAX_NAMES: usize = 256;
const OTHER_NAMES: &str = "(other)";

/// Two readings of CPU time closer than this, in seconds, say nothing about a percentage.
const LEAST_CPU_SPAN: f64 = 0.01;

/// All of a monitor's state that operations and samples touch, behind one lock.
#[derive(Debug)]
pub(crate) struct Operations {
    epoch: Instant,
    max_operations: usize,
    next_id: u64,
    open: HashMap<u64, OpenOperation>,
    finished: VecDeque<OperationReport>,
    names: BTreeMap<String, NameTotals>,
    timeline: Timeline,
    /// Operations begun and neither booked nor forgotten.
    active: u64,
    /// When the first of the active operations began, and the CPU time then.
    busy_since: Option<(Instant, Duration)>,
    busy_seconds: f64,
    busy_cpu_seconds: f64,
    busy_gpu: GpuTotals,
    gpu_joules: Option<f64>,
    total_seconds: f64,
    peak_memory: u64,
    count: u64,
    /// The latest reading of CPU time that a percentage was made from, and that percentage.
    last_cpu: (Instant, Duration),
    last_cpu_percent: f64,
}

/// An operation that has not finished.
#[derive(Debug)]
pub(crate) struct OpenOperation {
    name: String,
    start: Instant,
    usage: Usage,
    memory_start: u64,
    footprint: Option<Footprint>,
    window: OpenWindow,
    thread: u32,
    sampled_peak: u64,
    gpu: GpuTotals,
    system_cpu: Mean,
}

/// The readings at the end of an operation.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) at: Instant,
    pub(crate) usage: Usage,
    pub(crate) peak: Peak,
    pub(crate) footprint: Option<Footprint>,
    pub(crate) gpu: Option<GpuReading>,
}

/// One look at the process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    pub(crate) at: Instant,
    pub(crate) resident: u64,
    pub(crate) cpu: Duration,
    pub(crate) system_cpu_percent: Option<f64>,
    pub(crate) mlx_active: Option<u64>,
    pub(crate) gpu: Option<GpuReading>,
}

#[derive(Debug)]
struct NameTotals {
    durations: Durations,
    peak_memory: u64,
    cpu_seconds: f64,
}

impl OpenOperation {
    pub(crate) fn new(
        name: String,
        start: Instant,
        usage: Usage,
        window: OpenWindow,
        thread: u32,
    ) -> Self {
        Self {
            name,
            start,
            usage,
            memory_start: window.start,
            footprint: process::footprint(),
            window,
            thread,
            sampled_peak: 0,
            gpu: GpuTotals::default(),
            system_cpu: Mean::default(),
        }
    }

    /// The window of the peak, and the highest resident size that samples saw in it.
    pub(crate) fn window(&self) -> (OpenWindow, u64) {
        (self.window, self.sampled_peak)
    }
}

impl Operations {
    pub(crate) fn new(epoch: Instant, usage: Usage, options: &MonitorOptions) -> Self {
        // Beginnings and ends are samples too, so that short operations show; a fifth of the interval apart at least.
        let spacing = options.sample_interval.as_secs_f64() / 5.0;
        Self {
            epoch,
            max_operations: options.max_operations,
            next_id: 0,
            open: HashMap::new(),
            finished: VecDeque::new(),
            names: BTreeMap::new(),
            timeline: Timeline::new(options.max_samples, spacing),
            active: 0,
            busy_since: None,
            busy_seconds: 0.0,
            busy_cpu_seconds: 0.0,
            busy_gpu: GpuTotals::default(),
            gpu_joules: None,
            total_seconds: 0.0,
            peak_memory: 0,
            count: 0,
            last_cpu: (epoch, usage.cpu),
            last_cpu_percent: 0.0,
        }
    }

    /// Whether any operation is open.
    pub(crate) fn is_busy(&self) -> bool {
        self.active > 0
    }

    /// Enters an operation and returns its number.
    pub(crate) fn begin(&mut self, operation: OpenOperation, gpu: Option<GpuReading>) -> u64 {
        let OpenOperation { start, usage, memory_start, .. } = operation;
        self.next_id += 1;
        self.active += 1;
        self.open.insert(self.next_id, operation);
        if self.busy_since.is_none() {
            self.busy_since = Some((start, usage.cpu));
        }
        let look = Look {
            at: start,
            resident: memory_start,
            cpu: usage.cpu,
            system_cpu_percent: None,
            mlx_active: None,
            gpu,
        };
        self.look(&look);
        self.next_id
    }

    /// Takes an operation out of the open ones, to be given to [`Self::book`] or [`Self::forget`].
    pub(crate) fn take(&mut self, id: u64) -> Option<OpenOperation> {
        self.open.remove(&id)
    }

    /// Enters a finished operation into the books and returns its report.
    pub(crate) fn book(
        &mut self,
        mut operation: OpenOperation,
        ending: &Ending,
        gpu_name: &str,
    ) -> OperationReport {
        let Ending { at, usage, peak, footprint, gpu } = *ending;
        let duration = at.saturating_duration_since(operation.start);
        let seconds = duration.as_secs_f64();
        if let Some(reading) = &gpu {
            operation.gpu.add(reading);
        }
        let look = Look {
            at,
            resident: peak.end,
            cpu: usage.cpu,
            system_cpu_percent: None,
            mlx_active: None,
            gpu,
        };
        self.look(&look);
        let cpu_seconds = usage.cpu.saturating_sub(operation.usage.cpu).as_secs_f64();
        let report = OperationReport {
            name: operation.name,
            duration: seconds,
            memory_start: operation.memory_start,
            memory_peak: peak.peak,
            memory_end: peak.end,
            cpu_percent: percent(cpu_seconds, seconds),
            gpu_metrics: operation.gpu.metrics(gpu_name, seconds),
            memory_peak_source: peak.source,
            start: operation.start.saturating_duration_since(self.epoch).as_secs_f64(),
            cpu_seconds,
            system_cpu_percent: operation.system_cpu.value(),
            minor_page_faults: usage.minor_faults.saturating_sub(operation.usage.minor_faults),
            major_page_faults: usage.major_faults.saturating_sub(operation.usage.major_faults),
            physical_footprint_end: footprint.map(|end| end.now),
            physical_footprint_peak: operation
                .footprint
                .zip(footprint)
                .map(|(start, end)| start.peak_until(end)),
            thread: operation.thread,
        };
        self.add_to_totals(&report, duration);
        if self.max_operations > 0 {
            if self.finished.len() == self.max_operations {
                self.finished.pop_front();
            }
            self.finished.push_back(report.clone());
        }
        self.leave(at, usage.cpu);
        report
    }

    /// Drops an operation that was taken and is not to be reported.
    pub(crate) fn forget(&mut self, at: Instant, usage: Usage) {
        self.leave(at, usage.cpu);
    }

    /// Adds one look at the process to the timeline and to every open operation.
    pub(crate) fn look(&mut self, look: &Look) {
        for operation in self.open.values_mut() {
            operation.sampled_peak = operation.sampled_peak.max(look.resident);
            operation.system_cpu.add(look.system_cpu_percent);
            if let Some(reading) = &look.gpu {
                operation.gpu.add(reading);
            }
        }
        if let Some(reading) = &look.gpu {
            self.busy_gpu.add(reading);
        }
        let span = look.at.saturating_duration_since(self.last_cpu.0).as_secs_f64();
        if span >= LEAST_CPU_SPAN {
            self.last_cpu_percent =
                percent(look.cpu.saturating_sub(self.last_cpu.1).as_secs_f64(), span);
            self.last_cpu = (look.at, look.cpu);
        }
        self.timeline.push(Sample {
            at: look.at.saturating_duration_since(self.epoch).as_secs_f64(),
            resident: look.resident,
            cpu_percent: self.last_cpu_percent,
            system_cpu_percent: look.system_cpu_percent,
            mlx_active: look.mlx_active,
            gpu_memory: look.gpu.and_then(|reading| reading.memory),
            gpu_percent: look.gpu.and_then(|reading| reading.utilization_percent),
            gpu_watts: look.gpu.and_then(|reading| reading.watts),
        });
    }

    /// Finished operations, the latest last.
    pub(crate) fn finished(&self) -> Vec<OperationReport> {
        self.finished.iter().cloned().collect()
    }

    /// The samples so far.
    pub(crate) fn samples(&self) -> Vec<Sample> {
        self.timeline.samples().to_vec()
    }

    /// Energy that the GPUs used while operations were open, in joules, counted when the last of them ends.
    pub(crate) fn gpu_joules(&self) -> Option<f64> {
        self.gpu_joules
    }

    /// Totals over all finished operations; `now` and `usage` extend the busy time to the present.
    pub(crate) fn summary(&self, now: Instant, usage: Usage) -> Summary {
        let (open_seconds, open_cpu) = self.busy_since.map_or((0.0, 0.0), |(since, cpu)| {
            (
                now.saturating_duration_since(since).as_secs_f64(),
                usage.cpu.saturating_sub(cpu).as_secs_f64(),
            )
        });
        let busy_duration = self.busy_seconds + open_seconds;
        Summary {
            total_duration: self.total_seconds,
            peak_memory: self.peak_memory,
            average_cpu: percent(self.busy_cpu_seconds + open_cpu, busy_duration),
            busy_duration,
            operation_count: self.count,
            operations_omitted: self.count - self.finished.len() as u64,
            operations_open: self.active,
        }
    }

    /// Totals for each name, by name.
    pub(crate) fn by_name(&self) -> Vec<NameReport> {
        let reports = self.names.iter().map(|(name, totals)| NameReport {
            name: name.clone(),
            total_duration: totals.durations.total(),
            durations: totals.durations.percentiles(),
            histogram: totals.durations.buckets(),
            peak_memory: totals.peak_memory,
            cpu_seconds: totals.cpu_seconds,
        });
        reports.collect()
    }

    fn add_to_totals(&mut self, report: &OperationReport, duration: Duration) {
        self.count += 1;
        self.total_seconds += report.duration;
        self.peak_memory = self.peak_memory.max(report.memory_peak);
        let known = self.names.len() < MAX_NAMES || self.names.contains_key(&report.name);
        let name = if known { &report.name } else { OTHER_NAMES };
        if !self.names.contains_key(name) {
            let totals =
                NameTotals { durations: Durations::new(2), peak_memory: 0, cpu_seconds: 0.0 };
            self.names.insert(name.to_owned(), totals);
        }
        let totals = self.names.get_mut(name).expect("inserted above");
        totals.durations.record(duration);
        totals.peak_memory = totals.peak_memory.max(report.memory_peak);
        totals.cpu_seconds += report.cpu_seconds;
    }

    /// Counts an operation out; the last one closes the busy stretch.
    fn leave(&mut self, at: Instant, cpu: Duration) {
        self.active -= 1;
        if self.active > 0 {
            return;
        }
        if let Some((since, cpu_since)) = self.busy_since.take() {
            let seconds = at.saturating_duration_since(since).as_secs_f64();
            self.busy_seconds += seconds;
            self.busy_cpu_seconds += cpu.saturating_sub(cpu_since).as_secs_f64();
            let gpu = std::mem::take(&mut self.busy_gpu);
            if let Some(joules) = gpu.metrics("", seconds).and_then(|metrics| metrics.energy_joules)
            {
                *self.gpu_joules.get_or_insert(0.0) += joules;
            }
        }
    }
}

fn percent(cpu_seconds: f64, seconds: f64) -> f64 {
    if seconds > 0.0 { 100.0 * cpu_seconds / seconds } else { 0.0 }
}
