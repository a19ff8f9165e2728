//! Systems other than Linux: sysinfo for the resident set, `ru_maxrss` for its high-water mark on Unix.

use std::sync::{Mutex, PoisonError};

use sysinfo::{Pid, Process, ProcessRefreshKind, ProcessesToUpdate, System};

use super::Memory;

static SYSTEM: Mutex<Option<System>> = Mutex::new(None);

/// Refreshes this process in sysinfo and hands it to `read`.
pub(super) fn with_own_process<T>(read: impl FnOnce(&Process) -> T) -> Option<T> {
    let mut slot = SYSTEM.lock().unwrap_or_else(PoisonError::into_inner);
    if slot.is_none() {
        *slot = System::new().ok();
    }
    let system = slot.as_mut()?;
    let pid = Pid::from_u32(std::process::id());
    let kind = ProcessRefreshKind::nothing().with_memory().with_cpu();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, kind);
    system.process(pid).map(read)
}

/// Reads the resident set and its high-water mark.
pub(crate) fn memory() -> Memory {
    let resident = with_own_process(Process::memory).unwrap_or(0);
    Memory { resident, high_water: high_water().max(resident) }
}

/// No system other than Linux lets a process restart its mark.
pub(crate) fn reset_high_water() -> bool {
    false
}

#[cfg(unix)]
fn high_water() -> u64 {
    use nix::sys::resource::{UsageWho, getrusage};
    // Apple counts bytes, the BSDs kilobytes.
    let unit = if cfg!(target_vendor = "apple") { 1 } else { 1024 };
    getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| usage.max_rss() as u64 * unit)
}

#[cfg(not(unix))]
fn high_water() -> u64 {
    0
}
