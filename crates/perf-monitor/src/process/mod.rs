//! What the operating system knows about this process.

use std::time::Duration;

#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "portable.rs")]
mod platform;

pub(crate) use platform::{memory, reset_high_water};

/// Resident memory of this process, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Now.
    pub(crate) resident: u64,
    /// The most there ever was, or the most since the last reset; zero where the platform keeps no such mark.
    pub(crate) high_water: u64,
}

/// What this process has used since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// CPU time in user and system mode, over all threads.
    pub(crate) cpu: Duration,
    /// Page faults served without I/O.
    pub(crate) minor_faults: u64,
    /// Page faults that had to wait for I/O.
    pub(crate) major_faults: u64,
}

/// Reads CPU time and page faults.
#[cfg(unix)]
pub(crate) fn usage() -> Usage {
    use nix::sys::resource::{UsageWho, getrusage};
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Usage::default() };
    let time = |value: nix::sys::time::TimeVal| {
        Duration::from_micros(value.tv_sec() as u64 * 1_000_000 + value.tv_usec() as u64)
    };
    Usage {
        cpu: time(usage.user_time()) + time(usage.system_time()),
        minor_faults: usage.minor_page_faults() as u64,
        major_faults: usage.major_page_faults() as u64,
    }
}

/// Reads CPU time; page faults are not offered here.
#[cfg(not(unix))]
pub(crate) fn usage() -> Usage {
    let milliseconds = portable::with_own_process(|process| process.accumulated_cpu_time());
    Usage { cpu: Duration::from_millis(milliseconds.unwrap_or(0)), ..Usage::default() }
}

#[cfg(not(unix))]
use platform as portable;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_grows_with_work() {
        let before = usage();
        let start = std::time::Instant::now();
        let mut sum = 0u64;
        while start.elapsed() < Duration::from_millis(50) {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(1));
        }
        let touched = vec![1u8; 8 << 20];
        std::hint::black_box(&touched);
        let after = usage();
        assert!(after.cpu > before.cpu, "{before:?} {after:?}");
        #[cfg(unix)]
        assert!(after.minor_faults > before.minor_faults, "{before:?} {after:?}");
    }
}
