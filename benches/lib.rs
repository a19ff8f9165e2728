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

/// Returns the median of `values`; of none it is no number.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}
