//! Exponentials, and what is made of them, as plain code that compilers make vectors of.

/// Sums that do not wait for one another.
pub(super) const LANES: usize = 32;

/// `e^x` to 2e-7 of it; outside of -87 to 88 that of the nearer end. Source: the range reduction and polynomial of Cephes, `expf`.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Added to a float, this rounds it, and leaves the integer in its lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let series = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5];
    let series = series.iter().fold(0.0, |sum, term| sum * r + term);
    let power = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    (series * r * r + r + 1.0) * f32::from_bits(power)
}

/// Replaces scores by `e^(score - most)`, with the largest of them, and returns the sum.
#[inline(always)]
pub(super) fn exponentials(scores: &mut [f32]) -> f32 {
    let mut most = [f32::NEG_INFINITY; LANES];
    for scores in scores.chunks(LANES) {
        most.iter_mut().zip(scores).for_each(|(most, &score)| *most = most.max(score));
    }
    let most = most.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0.0; LANES];
    for scores in scores.chunks_mut(LANES) {
        for (score, sum) in scores.iter_mut().zip(&mut sums) {
            *score = exp(*score - most);
            *sum += *score;
        }
    }
    sums.iter().sum()
}

/// `x / (1 + e^-x)`. Source: arXiv:1702.03118.
#[inline(always)]
pub(super) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_that_of_f64() {
        for i in -880_000..870_000 {
            let x = -(i as f32) * 1e-4;
            let (found, exact) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((found / exact - 1.0).abs() < 2e-7, "e^{x}: {found}, {exact}");
        }
        assert!(exp(f32::NEG_INFINITY) < 1e-37 && exp(f32::INFINITY) > 1e38);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn silu_is_that_of_f64() {
        for i in -2000..2000 {
            let x = i as f32 * 0.05;
            let exact = f64::from(x) / (1.0 + (-f64::from(x)).exp());
            assert!((f64::from(silu(x)) - exact).abs() < 1e-6 * exact.abs().max(1e-3), "{x}");
        }
    }
}
