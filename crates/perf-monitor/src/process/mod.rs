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

/// Memory that Apple systems charge to this process, GPU buffers included, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Footprint {
    /// Now.
    pub(crate) now: u64,
    /// The most since the process started.
    pub(crate) lifetime_max: u64,
}

/// Reads the physical footprint; absent on other systems and without the feature.
#[cfg(all(feature = "apple", target_os = "macos"))]
pub(crate) fn footprint() -> Option<Footprint> {
    use libproc::libproc::pid_rusage::{RUsageInfoV4, pidrusage};
    let usage: RUsageInfoV4 = pidrusage(i32::try_from(std::process::id()).ok()?).ok()?;
    Some(Footprint {
        now: usage.ri_phys_footprint,
        lifetime_max: usage.ri_lifetime_max_phys_footprint,
    })
}

/// Reads the physical footprint; absent on other systems and without the feature.
#[cfg(not(all(feature = "apple", target_os = "macos")))]
pub(crate) fn footprint() -> Option<Footprint> {
    None
}

#[cfg(target_os = "linux")]
pub(crate) use platform::address_space_left;

/// Returns `None`: other systems do not hold a process to such a limit, or do not tell.
#[cfg(not(target_os = "linux"))]
pub(crate) fn address_space_left() -> Option<u64> {
    None
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

impl Footprint {
    /// The most between `self` and a later `end`: exact if the lifetime's maximum rose, a lower bound otherwise.
    pub(crate) fn peak_until(self, end: Self) -> u64 {
        if end.lifetime_max > self.lifetime_max { end.lifetime_max } else { self.now.max(end.now) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_footprint_peak_is_the_new_maximum_or_the_higher_end() {
        let start = Footprint { now: 50, lifetime_max: 90 };
        assert_eq!(start.peak_until(Footprint { now: 60, lifetime_max: 120 }), 120);
        assert_eq!(start.peak_until(Footprint { now: 60, lifetime_max: 90 }), 60);
        assert_eq!(start.peak_until(Footprint { now: 40, lifetime_max: 90 }), 50);
    }

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
