//! The sampling thread: looks at the process while an operation is open, and sleeps otherwise.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sysinfo::{CpuRefreshKind, System};

use crate::{Gauge, operations::Look, process, shared::Shared};

/// Starts the thread; without one, operations still have what is read at both ends.
pub(crate) fn spawn(
    shared: Arc<Shared>,
    interval: Duration,
) -> Option<std::thread::JoinHandle<()>> {
    let builder = std::thread::Builder::new().name("perf-monitor".to_owned());
    builder.spawn(move || run(&shared, interval)).ok()
}

fn run(shared: &Shared, interval: Duration) {
    let mut system_cpu = SystemCpu::new();
    while shared.wait_for_work() {
        system_cpu.refresh();
        while shared.sleep_while_busy(interval) {
            let resident = process::memory().resident;
            let look = Look {
                at: Instant::now(),
                resident,
                cpu: process::usage().cpu,
                system_cpu_percent: system_cpu.refresh(),
                mlx_active: shared.gauge(Gauge::MlxActiveBytes).map(|gauge| gauge.last),
                gpu: shared.read_gpu(),
            };
            shared.operations().look(&look);
        }
    }
}

/// CPU use of the whole machine since the refresh before.
struct SystemCpu {
    /// Absent on systems that sysinfo does not know.
    system: Option<System>,
    refreshed: Option<Instant>,
}

impl SystemCpu {
    fn new() -> Self {
        Self { system: System::new().ok(), refreshed: None }
    }

    /// Percent of one core; absent when the last refresh is too recent for a new number, or long past.
    fn refresh(&mut self) -> Option<f64> {
        let now = Instant::now();
        let since = self.refreshed.map(|then| now.duration_since(then));
        if since.is_some_and(|span| span < sysinfo::MINIMUM_CPU_UPDATE_INTERVAL) {
            return None;
        }
        let system = self.system.as_mut()?;
        system.refresh_cpu_specifics(CpuRefreshKind::nothing().with_usage());
        self.refreshed = Some(now);
        let cores = system.cpus().len() as f64;
        since.filter(|_| cores > 0.0).map(|_| f64::from(system.global_cpu_usage()) * cores)
    }
}
