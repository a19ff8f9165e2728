//! Durations gathered into a histogram: percentiles for any number of values in bounded memory.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Percentiles of a set of durations, in seconds.
///
/// Minimum, mean and maximum are exact; percentiles are within the precision of the histogram (0.1 % for phases and
/// tokens, 1 % for operations).
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// How many durations there were.
    pub count: u64,
    /// The shortest.
    pub min: f64,
    /// The arithmetic mean.
    pub mean: f64,
    /// Half of the durations are at most this long.
    pub p50: f64,
    /// Nine in ten are at most this long.
    pub p90: f64,
    /// 99 in a hundred are at most this long.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

/// Thirteen days: longer durations share the last bucket, which bounds the size of a histogram.
const LONGEST_NANOSECONDS: u64 = 1 << 50;

/// A histogram of durations that grows as needed, to about 250 KiB at three digits.
#[derive(Debug, Clone)]
pub(crate) struct Durations {
    histogram: Histogram<u64>,
    total_nanoseconds: u128,
    min_nanoseconds: u64,
    max_nanoseconds: u64,
}

impl Durations {
    /// An empty histogram that keeps `digits` significant decimal digits (1 to 5).
    pub(crate) fn new(digits: u8) -> Self {
        let histogram = Histogram::new(digits).expect("between one and five digits");
        Self { histogram, total_nanoseconds: 0, min_nanoseconds: u64::MAX, max_nanoseconds: 0 }
    }

    /// Adds one duration.
    pub(crate) fn record(&mut self, duration: Duration) {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.histogram
            .record(nanoseconds.min(LONGEST_NANOSECONDS))
            .expect("the histogram grows up to this value");
        self.total_nanoseconds += u128::from(nanoseconds);
        self.min_nanoseconds = self.min_nanoseconds.min(nanoseconds);
        self.max_nanoseconds = self.max_nanoseconds.max(nanoseconds);
    }

    /// How many durations were added.
    pub(crate) fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The sum of all durations, in seconds.
    pub(crate) fn total(&self) -> f64 {
        self.total_nanoseconds as f64 * 1e-9
    }

    /// Summarises what was added.
    pub(crate) fn percentiles(&self) -> Percentiles {
        let count = self.count();
        if count == 0 {
            return Percentiles::default();
        }
        // A bucket's upper end may lie beyond the largest value recorded.
        let quantile = |q| {
            self.histogram.value_at_quantile(q).clamp(self.min_nanoseconds, self.max_nanoseconds)
        };
        Percentiles {
            count,
            min: seconds(self.min_nanoseconds),
            mean: self.total() / count as f64,
            p50: seconds(quantile(0.5)),
            p90: seconds(quantile(0.9)),
            p99: seconds(quantile(0.99)),
            max: seconds(self.max_nanoseconds),
        }
    }

    /// Counts per bucket for drawing: upper bounds in seconds, four buckets for each doubling, empty ones left out.
    pub(crate) fn buckets(&self) -> Vec<(f64, u64)> {
        let mut buckets: Vec<(f64, u64)> = Vec::new();
        for value in self.histogram.iter_recorded() {
            let index = ((value.value_iterated_to().max(1) as f64).log2() * 4.0).ceil();
            let upper = (index / 4.0).exp2() * 1e-9;
            match buckets.last_mut() {
                Some((bound, count)) if *bound == upper => *count += value.count_at_value(),
                _ => buckets.push((upper, value.count_at_value())),
            }
        }
        buckets
    }
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 * 1e-9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_a_known_set() {
        let mut durations = Durations::new(3);
        (1..=1000).for_each(|ms| durations.record(Duration::from_millis(ms)));
        let p = durations.percentiles();
        assert_eq!((p.count, p.min, p.max), (1000, 0.001, 1.0));
        assert!((p.mean - 0.5005).abs() < 1e-12, "{p:?}");
        for (found, expected) in [(p.p50, 0.5), (p.p90, 0.9), (p.p99, 0.99)] {
            assert!((found - expected).abs() <= expected * 0.001, "{found} for {expected}");
        }
        assert!((durations.total() - 500.5).abs() < 1e-9);
    }

    #[test]
    fn extremes_do_not_break_it() {
        let mut durations = Durations::new(3);
        assert_eq!(durations.percentiles(), Percentiles::default());
        durations.record(Duration::ZERO);
        durations.record(Duration::MAX);
        let p = durations.percentiles();
        assert_eq!((p.count, p.min), (2, 0.0));
        assert!(p.max > 1e9);
    }

    #[test]
    fn buckets_hold_every_value_once() {
        let mut durations = Durations::new(3);
        (0..5000u64).for_each(|n| durations.record(Duration::from_micros(n * n % 7919)));
        let buckets = durations.buckets();
        assert_eq!(buckets.iter().map(|&(_, count)| count).sum::<u64>(), 5000);
        assert!(buckets.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
