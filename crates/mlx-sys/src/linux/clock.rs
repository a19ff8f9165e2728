//! The clock of the Mach kernel, which mlx-rs reads to seed its random numbers.

use std::time::{SystemTime, UNIX_EPOCH};

/// A time that differs from one run of a program to the next.
///
/// The original counts ticks since the system started. mlx-rs only wants a seed, for which
/// nanoseconds since 1970 serve as well.
#[unsafe(no_mangle)]
extern "C" fn mach_approximate_time() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since_epoch.as_nanos() as u64
}
