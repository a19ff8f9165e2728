//! Peak memory per window, from the kernel's one high-water mark per process.
//!
//! The kernel keeps a single mark for the whole process, and restarting it restarts it for everyone. The table of open
//! windows is therefore process-wide, shared by all monitors. The rules:
//!
//! ```text
//! fold:   read the mark; raise the peak of every open window whose floor lies below it
//! open:   if the mark lies above the resident set (an old peak would hide a new one):
//!             fold, restart the mark; every window already open now has floor 0, since whatever the mark shows
//!             from here on happened inside it
//!         floor of the new window = the mark
//! close:  fold; a peak above the floor is the kernel's own and exact
//!         a mark still at the floor says only that nothing higher happened: fall back on samples
//! ```
//!
//! A spike that begins and ends between the fold and the restart (two system calls) is lost to the windows open before.

use std::{
    collections::HashMap,
    sync::{Mutex, OnceLock, PoisonError},
};

use crate::{process, report::PeakSource};

/// Slack when the mark is compared with the resident set: the kernel sums its per-CPU counters in batches, so that the
/// two numbers may differ by this much with nothing having happened.
const SLACK_BYTES: u64 = 256 * 1024;

#[derive(Debug, Default)]
struct Windows {
    next: u64,
    open: HashMap<u64, Window>,
}

#[derive(Debug)]
struct Window {
    /// Memory when the window opened; the peak is never below.
    start: u64,
    /// The mark when the window opened: values up to it may be older than the window.
    floor: u64,
    /// The highest mark seen above the floor.
    raised: u64,
}

/// A window that measures the peak until it is closed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpenWindow {
    id: u64,
    /// Resident bytes at the start.
    pub(crate) start: u64,
}

/// What a window saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peak {
    /// Resident bytes at the end.
    pub(crate) end: u64,
    /// The highest resident bytes known.
    pub(crate) peak: u64,
    /// How the peak is known.
    pub(crate) source: PeakSource,
}

/// Opens a window; `may_reset` allows restarting the kernel's mark.
pub(crate) fn open(may_reset: bool) -> OpenWindow {
    let mut windows = lock();
    let mut memory = process::memory();
    if may_reset && memory.high_water > memory.resident {
        windows.fold(memory.high_water);
        if process::reset_high_water() {
            windows.open.values_mut().for_each(|window| window.floor = 0);
            memory = process::memory();
        }
    }
    windows.next += 1;
    let id = windows.next;
    let window = Window { start: memory.resident, floor: memory.high_water, raised: 0 };
    windows.open.insert(id, window);
    OpenWindow { id, start: memory.resident }
}

/// Closes a window; `sampled` is the highest resident size that a sampler saw in it.
pub(crate) fn close(window: OpenWindow, sampled: u64) -> Peak {
    let mut windows = lock();
    let memory = process::memory();
    windows.fold(memory.high_water);
    let seen = windows.open.remove(&window.id).unwrap_or(Window {
        start: window.start,
        floor: 0,
        raised: 0,
    });
    let lower_bound = seen.start.max(memory.resident).max(sampled);
    let source = if seen.raised > 0 || (seen.floor > 0 && seen.floor <= lower_bound + SLACK_BYTES) {
        PeakSource::Kernel
    } else {
        PeakSource::Sampled
    };
    Peak { end: memory.resident, peak: lower_bound.max(seen.raised), source }
}

/// Forgets a window that will not be reported.
pub(crate) fn discard(window: OpenWindow) {
    lock().open.remove(&window.id);
}

impl Windows {
    fn fold(&mut self, high_water: u64) {
        for window in self.open.values_mut().filter(|window| high_water > window.floor) {
            window.raised = window.raised.max(high_water);
        }
    }
}

fn lock() -> std::sync::MutexGuard<'static, Windows> {
    static WINDOWS: OnceLock<Mutex<Windows>> = OnceLock::new();
    WINDOWS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}
