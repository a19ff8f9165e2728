//! Whether one report is slower than another, beyond noise.

use std::{collections::BTreeMap, slice};

use serde::{Deserialize, Serialize};

use crate::{Report, stats};

/// Chance of calling a difference real when there is none, for each series. It is strict because a comparison looks at
/// some twenty series at once.
const SIGNIFICANCE: f64 = 0.01;

/// Fewer values than this on either side cannot reach [`SIGNIFICANCE`], whatever they are.
const LEAST_VALUES: usize = 5;

/// Values used of each series; the latest are taken.
const MAX_VALUES: usize = 2000;

/// What a comparison found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Comparison {
    /// The change of a median from which on a regression fails, as a fraction: 0.05 is five per cent.
    pub fail_over: f64,
    /// One entry for each series that both reports have.
    pub series: Vec<SeriesComparison>,
    /// Series that only one of the reports has.
    pub unmatched: Vec<String>,
}

/// One quantity in both reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SeriesComparison {
    /// What is compared: `operation NAME seconds`, `operation NAME peak bytes` or `phase NAME seconds`.
    pub name: String,
    /// Number of values before and after.
    pub counts: (usize, usize),
    /// Median before and after, in seconds or bytes.
    pub medians: (f64, f64),
    /// Median after over median before; above 1 is worse.
    pub ratio: f64,
    /// The 99 % interval of the ratio.
    pub ratio_interval: (f64, f64),
    /// Two-sided p-value of Mann–Whitney's test.
    pub p_value: f64,
    /// What follows.
    pub verdict: Verdict,
}

/// What a series says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Verdict {
    /// The difference is within noise or within the allowance.
    Same,
    /// Worse by more than the allowance, and not by chance.
    Regression,
    /// Better by more than the allowance, and not by chance.
    Improvement,
    /// Too few values to tell.
    TooFew,
}

/// Compares `after` with `before`.
///
/// A series regresses if all three hold: its median grew by more than `fail_over` (a fraction), Mann–Whitney's test
/// gives less than 0.01, and the whole 99 % bootstrap interval of the ratio of medians lies above 1. Series with fewer
/// than five values on either side are never judged. Values within one run share its conditions, so a difference
/// between two machines or two moments is a real difference here: measure both sides alternately on a quiet machine.
pub fn compare(before: &Report, after: &Report, fail_over: f64) -> Comparison {
    compare_runs(slice::from_ref(before), slice::from_ref(after), fail_over)
}

/// Compares several runs `after` a change with several `before` it, as [`compare`] does with one.
///
/// With at least five reports on both sides each run counts as one value, its median: values of one run are not
/// independent, and this way a moment in which the machine was busy is one value among others and not hundreds.
/// With fewer the values of all runs of a side are taken together.
pub fn compare_runs(before: &[Report], after: &[Report], fail_over: f64) -> Comparison {
    let by_run = before.len().min(after.len()) >= LEAST_VALUES;
    let (before, mut after) = (all_series(before, by_run), all_series(after, by_run));
    let mut comparison = Comparison { fail_over, ..Comparison::default() };
    for (name, a) in before {
        match after.remove(&name) {
            Some(b) => comparison.series.push(judge(name, &a, &b, fail_over)),
            None => comparison.unmatched.push(name),
        }
    }
    comparison.unmatched.extend(after.into_keys());
    comparison
}

impl Comparison {
    /// Whether any series regressed.
    pub fn regressed(&self) -> bool {
        self.series.iter().any(|series| series.verdict == Verdict::Regression)
    }

    /// How many series had enough values on both sides to be judged.
    pub fn judged(&self) -> usize {
        self.series.iter().filter(|series| series.verdict != Verdict::TooFew).count()
    }
}

fn judge(name: String, a: &[f64], b: &[f64], fail_over: f64) -> SeriesComparison {
    let medians = (stats::median(a), stats::median(b));
    // Zero cannot be put in proportion: equal is equal, anything above is very much more, and no interval is drawn.
    let ratio = if medians.0 == medians.1 { 1.0 } else { (medians.1 / medians.0).min(f64::MAX) };
    let proportional = a.iter().chain(b).all(|&value| value > 0.0);
    let few = a.len().min(b.len()) < LEAST_VALUES;
    let p_value = if few { 1.0 } else { stats::mann_whitney(a, b) };
    let interval =
        if few || !proportional { (ratio, ratio) } else { stats::median_ratio_interval(a, b) };
    let real = p_value < SIGNIFICANCE;
    let verdict = if few {
        Verdict::TooFew
    } else if real && ratio > 1.0 + fail_over && interval.0 > 1.0 {
        Verdict::Regression
    } else if real && ratio < 1.0 / (1.0 + fail_over) && interval.1 < 1.0 {
        Verdict::Improvement
    } else {
        Verdict::Same
    };
    SeriesComparison {
        name,
        counts: (a.len(), b.len()),
        medians,
        ratio,
        ratio_interval: interval,
        p_value,
        verdict,
    }
}

/// All series of some runs, by name; one value for each run if `by_run`.
fn all_series(runs: &[Report], by_run: bool) -> BTreeMap<String, Vec<f64>> {
    let mut all: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (name, values) in runs.iter().flat_map(series) {
        let of_all = all.entry(name).or_default();
        match by_run {
            true => of_all.push(stats::median(&values)),
            false => of_all.extend(values),
        }
    }
    for values in all.values_mut() {
        let surplus = values.len().saturating_sub(MAX_VALUES);
        values.drain(..surplus);
    }
    all
}

/// All series of a report, by name.
fn series(report: &Report) -> BTreeMap<String, Vec<f64>> {
    let mut all: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for operation in &report.operations {
        let name = &operation.name;
        all.entry(format!("operation {name} seconds")).or_default().push(operation.duration);
        all.entry(format!("operation {name} peak bytes"))
            .or_default()
            .push(operation.memory_peak as f64);
    }
    for event in &report.events {
        all.entry(format!("phase {} seconds", event.name)).or_default().push(event.duration);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::OperationReport;

    /// Durations around `center` with a spread of a tenth, different for each seed.
    fn report(count: u64, center: f64, seed: u64) -> Report {
        let operations = (0..count).map(|n| {
            let noise =
                ((n + seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f64 / (1u64 << 24) as f64;
            OperationReport {
                name: "work".into(),
                duration: center * (0.95 + 0.1 * noise),
                ..OperationReport::default()
            }
        });
        Report { operations: operations.collect(), ..Report::default() }
    }

    fn verdict(before: &Report, after: &Report) -> Verdict {
        let comparison = compare(before, after, 0.05);
        let found = comparison
            .series
            .iter()
            .find(|series| series.name == "operation work seconds")
            .unwrap();
        assert_eq!(comparison.regressed(), found.verdict == Verdict::Regression);
        found.verdict
    }

    #[test]
    fn noise_is_not_a_regression_and_a_slowdown_is() {
        let before = report(40, 1.0, 1);
        assert_eq!(verdict(&before, &report(40, 1.0, 777)), Verdict::Same);
        assert_eq!(verdict(&before, &report(40, 1.03, 777)), Verdict::Same, "within the allowance");
        assert_eq!(verdict(&before, &report(40, 1.10, 777)), Verdict::Regression);
        assert_eq!(verdict(&before, &report(40, 0.85, 777)), Verdict::Improvement);
        assert_eq!(verdict(&report(4, 1.0, 1), &report(4, 2.0, 9)), Verdict::TooFew);
        assert_eq!(verdict(&report(5, 1.0, 1), &report(5, 2.0, 9)), Verdict::Regression);
    }

    #[test]
    fn repeated_runs_without_a_change_hardly_ever_fail() {
        let failures = (0..100).filter(|&n| {
            verdict(&report(20, 1.0, n * 1000), &report(20, 1.0, n * 1000 + 500)) != Verdict::Same
        });
        assert_eq!(failures.count(), 0, "a change above 5 % by chance at 1 %");
    }

    #[test]
    fn series_of_one_side_are_named() {
        let mut after = report(5, 1.0, 3);
        after.operations.iter_mut().for_each(|operation| operation.name = "ot|her".into());
        let comparison = compare(&report(5, 1.0, 3), &after, 0.05);
        assert!(comparison.series.is_empty() && !comparison.regressed());
        assert_eq!(comparison.unmatched.len(), 4);
    }

    #[test]
    fn a_busy_moment_is_one_value_among_runs() {
        let runs = |seed: u64, busy: bool| -> Vec<Report> {
            let center = |n| if busy && n == 0 { 3.0 } else { 1.0 };
            (0..6).map(|n| report(40, center(n), seed + 100 * n)).collect()
        };
        let verdict = |before: &[Report], after: &[Report]| {
            let comparison = compare_runs(before, after, 0.05);
            let all = comparison.series.iter();
            all.map(|s| (s.counts, s.verdict)).next_back().expect("one name has two series")
        };
        assert_eq!(verdict(&runs(1, false), &runs(7, true)), ((6, 6), Verdict::Same));
        let slow: Vec<Report> = (0..6).map(|n| report(40, 1.1, n * 100 + 9)).collect();
        assert_eq!(verdict(&runs(1, false), &slow), ((6, 6), Verdict::Regression));
        // Four runs are too few to stand for themselves, so their values are taken together.
        assert_eq!(verdict(&runs(1, false)[..4], &slow[..4]), ((160, 160), Verdict::Regression));
    }
}
