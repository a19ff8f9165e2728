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
mod reduced;
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

/// Transforms the blocks in `jobs` to `side` by `side` samples (8, 4, 2 or 1) in `plane`, whose rows are `stride` apart.
///
/// Every coefficient times its step must fit into 16 bits.
pub(crate) fn blocks(
    level: Level,
    side: usize,
    coefficients: &[i16],
    quant: &[i16; 64],
    jobs: &[Job],
    plane: &mut [u8],
    stride: usize,
) {
    for job in jobs {
        assert!(
            job.from as usize + 64 <= coefficients.len()
                && job.to as usize + (side - 1) * stride + side <= plane.len(),
            "{job:?} of {} coefficients and {} samples",
            coefficients.len(),
            plane.len()
        );
    }
    if side < 8 {
        return reduced::blocks(level, side, coefficients, quant, jobs, plane, stride);
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
                let samples = samples.unwrap_or_else(|| scalar::block(from, quant));
                write(samples.as_chunks::<8>().0, *job, plane, stride);
            }
        }
    }
}

/// Transforms one block, whatever its coefficients are.
pub(crate) fn block(
    side: usize,
    coefficients: &[i16],
    quant: &[i16; 64],
    job: Job,
    plane: &mut [u8],
    stride: usize,
) {
    if side < 8 {
        return reduced::block(side, coefficients, quant, job, plane, stride);
    }
    let from = coefficients[job.from as usize..].first_chunk().expect("64 coefficients");
    write(scalar::block(from, quant).as_chunks::<8>().0, job, plane, stride);
}

fn write<const N: usize>(samples: &[[u8; N]], job: Job, plane: &mut [u8], stride: usize) {
    for (row, samples) in samples.iter().enumerate() {
        let at = job.to as usize + row * stride;
        plane[at..at + N].copy_from_slice(samples);
    }
}

/// Transforms a block whose only coefficient is `dc`, dequantised: all samples are equal.
pub(crate) fn flat(side: usize, dc: i32, job: Job, plane: &mut [u8], stride: usize) {
    let sample = scalar::flat(dc);
    // The common side is known to the compiler.
    if side == 8 {
        fill::<8>(sample, job, plane, stride)
    } else {
        for row in 0..side {
            let at = job.to as usize + row * stride;
            plane[at..at + side].fill(sample);
        }
    }
}

fn fill<const N: usize>(sample: u8, job: Job, plane: &mut [u8], stride: usize) {
    for row in 0..N {
        let at = job.to as usize + row * stride;
        plane[at..at + N].fill(sample);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::STEP;

    const SIDES: [usize; 4] = [8, 4, 2, 1];

    /// Noise of all sizes: from blocks that photographs have up to such as no encoder makes, which saturate.
    #[test]
    fn every_level_equals_the_specification() {
        let mut state = 1_u64;
        let mut random = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as i32
        };
        for round in (0..400).step_by(STEP) {
            let steps: [i16; 64] = std::array::from_fn(|_| (1 + random() % 255) as i16);
            let count = 1 + round % 9;
            let mut coefficients = vec![0; count * 64];
            for coefficient in &mut coefficients {
                // All products fit into 16 bits, as is promised.
                let size = random() % [1, 4, 20, 128][round % 4];
                *coefficient = if random() % 3 == 0 { size as i16 } else { -size as i16 };
            }
            for side in SIDES {
                let stride = side * count + 3;
                let job = |at: usize| Job { from: 64 * at as u32, to: (side * at) as u32 };
                let jobs: Vec<Job> = (0..count).rev().map(job).collect();
                let mut expected = vec![7; side * stride];
                for job in &jobs {
                    block(side, &coefficients, &steps, *job, &mut expected, stride);
                }
                for level in Level::available() {
                    let mut found = vec![7; side * stride];
                    blocks(level, side, &coefficients, &steps, &jobs, &mut found, stride);
                    assert!(found == expected, "round {round}, side {side}, {level:?}");
                }
            }
        }
    }

    #[test]
    fn a_flat_block_is_a_block_with_dc_only() {
        for dc in (-2048..2048).step_by(STEP) {
            let mut coefficients = [0; 64];
            coefficients[0] = dc;
            let job = Job { from: 0, to: 0 };
            for side in SIDES {
                let (mut expected, mut found) = ([0; 64], [0; 64]);
                block(side, &coefficients, &[3; 64], job, &mut expected, 8);
                flat(side, i32::from(dc) * 3, job, &mut found, 8);
                assert_eq!(found, expected, "{dc}, side {side}");
            }
        }
    }
}
