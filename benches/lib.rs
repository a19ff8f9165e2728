//! Benchmarks of the workspace beside their peers: `preproc/` measures preprocessing, `generate/`
//! generation, `cache/` the second question about a picture.

pub mod python;

/// Returns a field of this process's `/proc/self/status`, such as `VmHWM`, in bytes; `None` where
/// there is no such file.
#[must_use]
pub fn resident_bytes(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(field))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}
