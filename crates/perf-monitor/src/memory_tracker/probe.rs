//! Where the numbers of a tracker come from.

use std::sync::Mutex;

use sysinfo::{MemoryRefreshKind, Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use crate::process;

/// What a probe found, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryFigures {
    /// Charged to this process: resident, or on Apple systems the physical footprint where that is known.
    pub resident: u64,
    /// Still to be had, for this process, without pushing anything out.
    pub available: u64,
    /// The most there could be: the machine's memory, or the limit of the control group if that is smaller.
    pub limit: u64,
}

impl MemoryFigures {
    /// Returns the figures `resident`, `available` and `limit`, for a probe of one's own.
    #[must_use]
    pub fn new(resident: u64, available: u64, limit: u64) -> Self {
        Self { resident, available, limit }
    }
}

/// Reads memory for a [`MemoryTracker`](crate::MemoryTracker); any closure that returns figures is one.
pub trait MemoryProbe: Send + Sync {
    /// Reads the figures of this moment; zeros where the system does not tell.
    fn read(&self) -> MemoryFigures;
}

impl<F: Fn() -> MemoryFigures + Send + Sync> MemoryProbe for F {
    fn read(&self) -> MemoryFigures {
        self()
    }
}

/// The operating system, with the limits of control groups of either version, those of parents included, and of the
/// address space.
#[derive(Debug)]
pub(crate) struct SystemProbe {
    /// Absent on systems that sysinfo does not know.
    system: Mutex<Option<System>>,
}

impl SystemProbe {
    pub(crate) fn new() -> Self {
        Self { system: Mutex::new(System::new().ok()) }
    }
}

impl MemoryProbe for SystemProbe {
    fn read(&self) -> MemoryFigures {
        let mut system = super::lock(&self.system);
        system.as_mut().map_or_else(MemoryFigures::default, read)
    }
}

fn read(system: &mut System) -> MemoryFigures {
    let pid = Pid::from_u32(std::process::id());
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    let kind = ProcessRefreshKind::nothing().with_memory().without_tasks();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, kind);
    // The footprint counts buffers of the GPU too, which the resident set does not.
    let resident = process::memory().resident.max(process::footprint().map_or(0, |f| f.now));
    let (mut available, mut limit) = (system.available_memory(), system.total_memory());
    let group = system.process(pid).and_then(sysinfo::Process::cgroup_limits);
    if let Some(group) = group.filter(|group| group.total_memory > 0) {
        limit = limit.min(group.total_memory);
        // Not the group's free memory: that counts file pages as used, and mapped weights are file pages, which the
        // kernel drops when it has to.
        available = available.min(group.total_memory.saturating_sub(group.rss));
    }
    // Where this ends, allocations fail, which few libraries expect.
    if let Some(left) = process::address_space_left() {
        available = available.min(left);
    }
    MemoryFigures { resident, available, limit }
}
