//! Coefficients to samples: dequantisation and the inverse DCT.
//!
//! It is libjpeg's `jpeg_idct_islow`: two passes of Loeffler, Ligtenberg and Moschytz's algorithm (ICASSP 1989) in fixed
//! point with 13 bits, columns first, each rounding once. All of it is integer arithmetic without overflow, so the sums
//! may be written as any other sums that are equal; the vector kernels use that. What does not fit their 16-bit
//! inputs goes through `scalar`.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

use super::Level;
use super::level::Kind;

/// A block to be transformed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    /// Its first coefficient.
    pub(crate) from: u32,
    /// Its first sample.
    pub(crate) to: u32,
}

/// Transforms the blocks in `jobs` to samples in `plane`, whose rows are `stride` apart.
///
/// Every coefficient times its step must fit into 16 bits.
pub(crate) fn blocks(
    level: Level,
    coefficients: &[i16],
    quant: &[i16; 64],
    jobs: &[Job],
    plane: &mut [u8],
    stride: usize,
) {
    for job in jobs {
        assert!(
            job.from as usize + 64 <= coefficients.len()
                && job.to as usize + 7 * stride + 8 <= plane.len(),
            "{job:?} of {} coefficients and {} samples",
            coefficients.len(),
            plane.len()
        );
    }
    match level.0 {
        // SAFETY: the level says that the instructions are there.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => unsafe { avx512::blocks(coefficients, quant, jobs, plane, stride) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { avx2::blocks(coefficients, quant, jobs, plane, stride) },
        _ => {
            for job in jobs {
                block(coefficients, quant, *job, plane, stride);
            }
        }
    }
}

/// Transforms one block, whatever its coefficients are.
pub(crate) fn block(
    coefficients: &[i16],
    quant: &[i16; 64],
    job: Job,
    plane: &mut [u8],
    stride: usize,
) {
    let from = coefficients[job.from as usize..].first_chunk().expect("64 coefficients");
    let samples = scalar::block(from, quant);
    for (row, samples) in samples.as_chunks::<8>().0.iter().enumerate() {
        let at = job.to as usize + row * stride;
        plane[at..at + 8].copy_from_slice(samples);
    }
}

/// Transforms a block whose only coefficient is `dc`, dequantised: all samples are equal.
pub(crate) fn flat(dc: i32, job: Job, plane: &mut [u8], stride: usize) {
    let sample = scalar::flat(dc);
    for row in 0..8 {
        let at = job.to as usize + row * stride;
        plane[at..at + 8].fill(sample);
    }
}
