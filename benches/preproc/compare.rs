//! How far an output is from the reference.

use std::path::Path;

use crate::Result;
use crate::job::Job;

/// Agreement of one output with the reference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Agreement {
    /// Every bit.
    Equal,
    /// After rounding to the levels 0 to 255: the share that is equal, the largest difference, and the peak
    /// signal-to-noise ratio in dB.
    Levels { equal: f64, largest: f64, psnr: f64 },
}

/// Compares files of little-endian f32.
pub(crate) fn files(job: Job, reference: &Path, found: &Path) -> Result<Agreement> {
    let (reference, found) = (std::fs::read(reference)?, std::fs::read(found)?);
    if reference.len() != found.len() {
        return Err(format!("expected {} bytes, found {}", reference.len(), found.len()).into());
    }
    if reference == found {
        return Ok(Agreement::Equal);
    }
    let (mut equal, mut largest, mut squares) = (0_usize, 0.0_f64, 0.0_f64);
    let values = |bytes: &[u8; 4]| f32::from_le_bytes(*bytes);
    let pairs = reference.as_chunks::<4>().0.iter().zip(found.as_chunks::<4>().0);
    for (at, (reference, found)) in pairs.enumerate() {
        let level = |bytes| f64::from(job.level(at, values(bytes))).round();
        let difference = (level(reference) - level(found)).abs();
        equal += usize::from(difference == 0.0);
        largest = largest.max(difference);
        squares += difference * difference;
    }
    let count = (reference.len() / 4) as f64;
    let psnr = 10.0 * (255.0 * 255.0 / (squares / count)).log10();
    Ok(Agreement::Levels { equal: equal as f64 / count, largest, psnr })
}
