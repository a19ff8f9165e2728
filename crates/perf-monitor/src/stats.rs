//! Two samples and the question whether they differ: Mann–Whitney U and a bootstrap of medians.
//!
//! Durations are skewed and have outliers, so neither means nor a t-test will do. Mann–Whitney asks whether a value of
//! one sample tends to be larger than a value of the other, by ranks alone; the bootstrap says by how much the medians
//! differ. For two small samples without ties the distribution of U is counted exactly, otherwise the normal
//! approximation with tie and continuity correction is used (Mann and Whitney, 1947; Lehmann, Nonparametrics, 1975).

/// Largest sample for which U is counted exactly.
const EXACT_LIMIT: usize = 20;

/// The middle value, or the mean of the two middle ones; `NaN` without values.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    median_of_sorted(&sorted)
}

fn median_of_sorted(sorted: &[f64]) -> f64 {
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// Two-sided p-value for the hypothesis that values of `a` and `b` are equally often the larger; 1 if either is empty.
pub(crate) fn mann_whitney(a: &[f64], b: &[f64]) -> f64 {
    let (n, m) = (a.len(), b.len());
    if n == 0 || m == 0 {
        return 1.0;
    }
    let mut all: Vec<(f64, bool)> =
        a.iter().map(|&v| (v, true)).chain(b.iter().map(|&v| (v, false))).collect();
    all.sort_by(|x, y| x.0.total_cmp(&y.0));
    let mut rank_sum = 0.0;
    let mut ties = 0.0;
    let mut start = 0;
    for group in all.chunk_by(|x, y| x.0 == y.0) {
        let size = group.len() as f64;
        let rank = start as f64 + (size + 1.0) / 2.0;
        rank_sum += rank * group.iter().filter(|(_, from_a)| *from_a).count() as f64;
        ties += size.powi(3) - size;
        start += group.len();
    }
    let (nf, mf) = (n as f64, m as f64);
    let u = rank_sum - nf * (nf + 1.0) / 2.0;
    let smaller = u.min(nf * mf - u);
    if ties == 0.0 && n.max(m) <= EXACT_LIMIT {
        return (2.0 * exact_tail(n, m, smaller as usize)).min(1.0);
    }
    let total = nf + mf;
    let variance = nf * mf / 12.0 * ((total + 1.0) - ties / (total * (total - 1.0)));
    if variance <= 0.0 {
        return 1.0;
    }
    let z = (nf * mf / 2.0 - smaller - 0.5).max(0.0) / variance.sqrt();
    erfc(z / std::f64::consts::SQRT_2).min(1.0)
}

/// The part of all arrangements of `n` and `m` values in which U is at most `u`.
fn exact_tail(n: usize, m: usize, u: usize) -> f64 {
    // counts[i][k]: arrangements of i values of a among the values of b met so far, with U = k. Taking one more value
    // of b either leaves U as it is or, for each a above it, adds one: the usual recurrence over (i, j).
    let cells = n * m + 1;
    let mut counts = vec![vec![0.0f64; cells]; n + 1];
    counts.iter_mut().for_each(|row| row[0] = 1.0);
    for j in 1..=m {
        for i in 1..=n {
            // With j values of b and i of a, the largest is either from a (adds j) or from b (adds nothing).
            let from_a: Vec<f64> =
                (0..cells).map(|k| if k >= j { counts[i - 1][k - j] } else { 0.0 }).collect();
            counts[i].iter_mut().zip(from_a).for_each(|(cell, more)| *cell += more);
        }
    }
    let total: f64 = counts[n].iter().sum();
    counts[n][..=u.min(cells - 1)].iter().sum::<f64>() / total
}

/// The complementary error function, to about 1e-7 (Numerical Recipes, section 6.2, `erfcc`), for `x` of at least 0.
fn erfc(x: f64) -> f64 {
    const COEFFICIENTS: [f64; 10] = [
        -1.26551223,
        1.00002368,
        0.37409196,
        0.09678418,
        -0.18628806,
        0.27886807,
        -1.13520398,
        1.48851587,
        -0.82215223,
        0.17087277,
    ];
    let t = 1.0 / (1.0 + 0.5 * x);
    let polynomial = COEFFICIENTS.iter().rev().fold(0.0, |sum, coefficient| sum * t + coefficient);
    t * (-x * x + polynomial).exp()
}

/// The interval that holds the ratio of the medians of `b` and `a` with 99 % confidence, by the percentile bootstrap.
///
/// The random numbers are always the same, so that two runs over the same reports agree.
pub(crate) fn median_ratio_interval(a: &[f64], b: &[f64]) -> (f64, f64) {
    const RESAMPLES: usize = 2000;
    let mut random = SplitMix(0x5EED);
    let mut buffer = Vec::new();
    let mut resampled_median = |values: &[f64], random: &mut SplitMix| {
        buffer.clear();
        buffer.extend((0..values.len()).map(|_| values[random.below(values.len())]));
        let middle = buffer.len() / 2;
        let (below, &mut upper, _) = buffer.select_nth_unstable_by(middle, f64::total_cmp);
        let even = values.len().is_multiple_of(2);
        if even { (below.iter().copied().fold(f64::MIN, f64::max) + upper) / 2.0 } else { upper }
    };
    if a.is_empty() || b.is_empty() {
        return (f64::NAN, f64::NAN);
    }
    let mut ratios: Vec<f64> = (0..RESAMPLES)
        .map(|_| resampled_median(b, &mut random) / resampled_median(a, &mut random))
        .collect();
    ratios.sort_by(f64::total_cmp);
    (ratios[RESAMPLES / 200], ratios[RESAMPLES - 1 - RESAMPLES / 200])
}

/// The `SplitMix64` generator: enough for resampling, and the same everywhere.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.next()) * limit as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64, tolerance: f64) {
        assert!((found - expected).abs() <= tolerance, "{found} for {expected}");
    }

    #[test]
    fn p_values_equal_those_of_scipy() {
        // scipy 1.17.1: mannwhitneyu(a, b), with method="exact" for the first three and "asymptotic" for the others.
        close(mann_whitney(&[1.0, 2.0, 3.0, 4.0], &[5.0, 6.0, 7.0, 8.0]), 2.0 / 70.0, 1e-12);
        close(
            mann_whitney(&[1.0, 2.0, 3.0, 4.0, 5.0], &[6.0, 7.0, 8.0, 9.0, 10.0]),
            2.0 / 252.0,
            1e-12,
        );
        close(
            mann_whitney(&[1.1, 3.2, 5.3, 7.4, 9.5, 2.6], &[2.1, 4.2, 6.3, 8.4, 10.5]),
            0.5367965367965368,
            1e-12,
        );
        close(
            mann_whitney(
                &[1.0, 2.0, 2.0, 3.0, 3.0, 3.0, 4.0],
                &[2.0, 3.0, 4.0, 4.0, 5.0, 5.0, 6.0],
            ),
            0.043051432728945134,
            1e-6,
        );
        let (a, b): (Vec<f64>, Vec<f64>) =
            (0..50).map(|n| (f64::from(n * 37 % 101), f64::from(n * 53 % 103) + 9.5)).unzip();
        close(mann_whitney(&a, &b), 0.3983940097879023, 1e-6);
    }

    #[test]
    fn equal_samples_do_not_differ() {
        let same: Vec<f64> = (0..30).map(f64::from).collect();
        assert!(mann_whitney(&same, &same) > 0.95);
        assert_eq!(mann_whitney(&[1.0; 10], &[1.0; 10]), 1.0);
        assert_eq!(mann_whitney(&[], &[1.0]), 1.0);
    }

    #[test]
    fn the_interval_holds_the_ratio() {
        let a: Vec<f64> = (0..200).map(|n| 1.0 + f64::from(n % 17) / 100.0).collect();
        let b: Vec<f64> = a.iter().map(|value| value * 1.5).collect();
        let (low, high) = median_ratio_interval(&a, &b);
        assert!(low <= 1.5 && 1.5 <= high && low > 1.4 && high < 1.6, "{low} {high}");
    }

    #[test]
    fn medians() {
        assert_eq!((median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0, 2.0, 3.0])), (2.0, 2.5));
        assert!(median(&[]).is_nan());
    }
}
