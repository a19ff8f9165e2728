//! Blocks at a half, a quarter or an eighth of their side: the inverse DCT of the lowest 4 by 4, 2 by 2 or 1
//! coefficients.
//!
//! That is the image without the frequencies that the smaller one cannot hold. libjpeg-turbo takes the mean of the
//! samples instead, which also damps the frequencies that stay: on photographs at half their size this is 3 to 6 dB
//! nearer to what the whole image becomes.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod scalar;

use super::{Job, Level, write};
#[cfg(target_arch = "x86_64")]
use crate::kernels::level::Kind;

/// As [`blocks`](super::blocks), for blocks that become `side` by `side` samples: 4, 2 or 1.
pub(super) fn blocks(
    level: Level,
    side: usize,
    coefficients: &[i16],
    quant: &[i16; 64],
    jobs: &[Job],
    plane: &mut [u8],
    stride: usize,
) {
    match level.0 {
        // SAFETY: the level says that the instructions are there; those of AVX-512 include them.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 | Kind::Avx512 if side == 4 => unsafe {
            avx2::fours(coefficients, quant, jobs, plane, stride);
        },
        // A loop for each side, so that the compiler knows it.
        _ if side == 2 => {
            for &job in jobs {
                block(2, coefficients, quant, job, plane, stride);
            }
        }
        _ => {
            for &job in jobs {
                block(side, coefficients, quant, job, plane, stride);
            }
        }
    }
}

/// One block, whatever its coefficients are.
#[inline]
pub(super) fn block(
    side: usize,
    coefficients: &[i16],
    quant: &[i16; 64],
    job: Job,
    plane: &mut [u8],
    stride: usize,
) {
    let from = coefficients[job.from as usize..].first_chunk().expect("64 coefficients");
    match side {
        4 => write(&scalar::four(from, quant), job, plane, stride),
        2 => write(&scalar::two(from, quant), job, plane, stride),
        _ => super::flat(side, i32::from(from[0]) * i32::from(quant[0]), job, plane, stride),
    }
}

#[cfg(test)]
mod tests {
    use std::f64::consts::PI;

    use super::*;
    use crate::kernels::tests::STEP;

    /// The definition in f64: the orthonormal inverse DCT of `side` points, divided by what `side` is less than 8.
    fn definition(side: usize, coefficients: &[i16; 64], quant: &[i16; 64]) -> Vec<u8> {
        let basis = |n: usize, k: usize| {
            let size = side as f64;
            let scale = if k == 0 { (1.0 / size).sqrt() } else { (2.0 / size).sqrt() };
            scale * ((2 * n + 1) as f64 * k as f64 * PI / (2.0 * size)).cos()
        };
        let mut samples = Vec::new();
        for (y, x) in (0..side).flat_map(|y| (0..side).map(move |x| (y, x))) {
            let mut sum = 0.0;
            for (v, u) in (0..side).flat_map(|v| (0..side).map(move |u| (v, u))) {
                let value = f64::from(coefficients[v * 8 + u]) * f64::from(quant[v * 8 + u]);
                sum += value * basis(y, v) * basis(x, u);
            }
            samples.push((sum * side as f64 / 8.0 + 128.0).round().clamp(0.0, 255.0) as u8);
        }
        samples
    }

    #[test]
    fn blocks_are_within_one_level_of_the_definition() {
        let mut state = 1_u64;
        let mut random = move |below: i32| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as i32 % below
        };
        for round in (0..300).step_by(STEP) {
            let quant: [i16; 64] = std::array::from_fn(|_| 1 + random(3) as i16);
            // Sums stay where ten bits hold the sample.
            let coefficients: [i16; 64] =
                std::array::from_fn(|at| (random(41) - 20) as i16 * if at == 0 { 12 } else { 1 });
            for side in [4, 2, 1] {
                let mut found = vec![0; side * side];
                let job = Job { from: 0, to: 0 };
                block(side, &coefficients, &quant, job, &mut found, side);
                let expected = definition(side, &coefficients, &quant);
                let near = found.iter().zip(&expected).all(|(a, b)| a.abs_diff(*b) <= 1);
                assert!(near, "round {round}, side {side}: {found:?} for {expected:?}");
            }
        }
    }
}
