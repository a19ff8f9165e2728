//! The memory of this process: how much it holds, how much there is, and who gives some back.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mlx_rs::memory;
use perf_monitor::{MemoryThreshold, MemoryTracker};

use crate::{
    device::Backend,
    engine, ffi,
    guard::{MemoryBounds, MemoryOptions},
};

/// How often the system is asked, at most. A token takes longer on the models worth watching.
const INTERVAL: Duration = Duration::from_millis(500);

/// Whether MLX may be asked: before the library is open its functions cannot be called.
static STARTED: AtomicBool = AtomicBool::new(false);

/// Returns the tracker that every cache of this process registers with.
///
/// The MLX thread calls [`relieve`] between pieces of work, so a cache is asked there and may drop
/// arrays. A cache must not wait for the MLX thread while it is asked.
pub(crate) fn tracker() -> &'static MemoryTracker {
    static TRACKER: OnceLock<MemoryTracker> = OnceLock::new();
    TRACKER.get_or_init(|| {
        MemoryTracker::new(MemoryThreshold::default(), INTERVAL).with_device(sum_of_mlx)
    })
}

/// Tells that MLX has started.
pub(crate) fn started() {
    STARTED.store(true, Ordering::Release);
}

/// Bytes of MLX: in arrays, and kept for reuse.
fn sum_of_mlx() -> u64 {
    mlx(memory::active_memory).saturating_add(pool_bytes())
}

/// Bytes that MLX keeps for reuse.
fn pool_bytes() -> u64 {
    mlx(memory::cache_memory)
}

fn mlx(read: impl Fn() -> mlx_rs::error::Result<usize>) -> u64 {
    match STARTED.load(Ordering::Acquire) {
        true => read().map_or(0, |bytes| bytes as u64),
        false => 0,
    }
}

/// Asks caches for memory if it is scarce, and has MLX give back what it keeps; looks at most once
/// per interval. To be called on the MLX thread.
pub(crate) fn relieve() {
    let relief = tracker().relieve();
    if relief.asked_bytes > 0 {
        let pool = pool_bytes();
        let _ = memory::clear_cache();
        tracing::info!(pressure = ?relief.pressure, relief.freed_bytes, pool, "memory is scarce");
    }
}

/// Has caches free `bytes` and MLX give back what it keeps; returns how many bytes that were.
pub(crate) fn reclaim(bytes: u64) -> u64 {
    let freed = engine::call(move || {
        let freed = tracker().reclaim(bytes).saturating_add(pool_bytes());
        let _ = memory::clear_cache();
        freed
    });
    // Without the thread there is nothing to free.
    freed.unwrap_or(0)
}

/// Holds this process to `bytes`: MLX waits for what it runs before it takes more, and caches give
/// back in time.
pub(crate) fn limit(bytes: u64) {
    tracker().limit_own_use(bytes);
    let set = move || {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        // The smallest of several counts.
        if memory::memory_limit().is_ok_and(|limit| bytes < limit) {
            let _ = memory::set_memory_limit(bytes);
        }
    };
    // A thread that is gone will say so when the model is loaded.
    let _ = engine::call(set);
}

/// Returns the bytes that this process holds where `backend` computes, without what MLX keeps for
/// reuse.
pub(crate) fn held(backend: Backend) -> u64 {
    match backend {
        Backend::Cpu | Backend::Metal => tracker().read_now().used.saturating_sub(pool_bytes()),
        Backend::Cuda => mlx(memory::active_memory),
    }
}

/// Returns what bounds the memory of this process.
pub(crate) fn bounds(backend: Backend, options: MemoryOptions) -> MemoryBounds {
    let reading = tracker().read_now();
    let device = match backend {
        Backend::Cpu => None,
        Backend::Metal => ffi::device_bytes(c"max_recommended_working_set_size"),
        Backend::Cuda => {
            ffi::device_bytes(c"free_memory").map(|free| free.saturating_add(sum_of_mlx()))
        }
    };
    MemoryBounds {
        user: options.limit_bytes,
        device,
        mlx: Some(mlx(memory::memory_limit)).filter(|&bytes| bytes > 0),
        physical: reading.available.saturating_add(reading.used),
        separate: backend == Backend::Cuda,
    }
}
