//! Coefficients to samples: dequantisation and the inverse DCT.
//!
//! It is libjpeg's `jpeg_idct_islow`: two passes of Loeffler, Ligtenberg and Moschytz's algorithm (ICASSP 1989) in
//! fixed point with 13 bits, columns first, each rounding once. All of it is integer arithmetic without overflow, so
//! that the sums may be written as any other sums that are equal; the vector kernels use that. What does not fit their
//! 16-bit inputs goes through `scalar`.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
mod scalar;

use super::Level;
#[cfg(target_arch = "x86_64")]
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
                let from = &coefficients[job.from as usize..];
                let from = from.first_chunk().expect("asserted above");
                let samples = portable::block(from, quant);
                write(&samples.unwrap_or_else(|| scalar::block(from, quant)), *job, plane, stride);
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
    write(&scalar::block(from, quant), job, plane, stride);
}

fn write(samples: &[u8; 64], job: Job, plane: &mut [u8], stride: usize) {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Noise of all sizes: from blocks that photographs have up to such as no encoder makes, which saturate.
    #[test]
    fn every_level_equals_the_specification() {
        let mut state = 1_u64;
        let mut random = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as i32
        };
        for round in 0..400 {
            let steps: [i16; 64] = std::array::from_fn(|_| (1 + random() % 255) as i16);
            let count = 1 + round % 9;
            let mut coefficients = vec![0; count * 64];
            for coefficient in &mut coefficients {
                // All products fit into 16 bits, as is promised.
                let size = random() % [1, 4, 20, 128][round % 4];
                *coefficient = if random() % 3 == 0 { size as i16 } else { -size as i16 };
            }
            let stride = 8 * count + 3;
            let job = |at: usize| Job { from: 64 * at as u32, to: 8 * at as u32 };
            let jobs: Vec<Job> = (0..count).rev().map(job).collect();
            let mut expected = vec![7; 8 * stride];
            for job in &jobs {
                block(&coefficients, &steps, *job, &mut expected, stride);
            }
            for level in Level::available() {
                let mut found = vec![7; 8 * stride];
                blocks(level, &coefficients, &steps, &jobs, &mut found, stride);
                assert!(found == expected, "round {round}, {level:?}");
            }
        }
    }

    #[test]
    fn a_flat_block_is_a_block_with_dc_only() {
        for dc in -2048..2048 {
            let mut coefficients = [0; 64];
            coefficients[0] = dc;
            let job = Job { from: 0, to: 0 };
            let (mut expected, mut found) = ([0; 64], [0; 64]);
            block(&coefficients, &[3; 64], job, &mut expected, 8);
            flat(i32::from(dc) * 3, job, &mut found, 8);
            assert_eq!(found, expected, "{dc}");
        }
    }
}
