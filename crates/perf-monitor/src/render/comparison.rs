//! A comparison as a table, regressions first.

use std::fmt::Write;

use super::units::{bytes, seconds};
use crate::{Comparison, SeriesComparison, Verdict};

const HEADS: [&str; 7] = ["series", "before", "after", "change", "99 % interval", "p", "verdict"];

impl Comparison {
    /// The comparison as a Markdown table.
    pub fn to_markdown(&self) -> String {
        let mut out = format!("| {} |\n|---|--:|--:|--:|--:|--:|---|\n", HEADS.join(" | "));
        for (series, mut row) in self.rows() {
            row[0] = row[0].replace('|', "\\|");
            if series.verdict == Verdict::Regression {
                row[6] = format!("**{}**", row[6]);
            }
            let _ = writeln!(out, "| {} |", row.join(" | "));
        }
        self.unmatched_to(&mut out);
        out
    }

    /// The comparison as aligned columns for a terminal.
    pub fn to_terminal(&self) -> String {
        let rows: Vec<_> = self.rows().into_iter().map(|(_, row)| row).collect();
        let heads = HEADS.map(str::to_owned);
        let width = |column: usize| {
            let cells = rows.iter().chain([&heads]).map(|row| row[column].chars().count());
            cells.max().unwrap_or(0)
        };
        let widths: [usize; 7] = std::array::from_fn(width);
        let mut out = String::new();
        for row in [&heads].into_iter().chain(&rows) {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
                let _ = match column {
                    0 => write!(line, "{cell:<width$}"),
                    6 => write!(line, "  {cell}"),
                    _ => write!(line, "  {cell:>width$}"),
                };
            }
            let _ = writeln!(out, "{}", line.trim_end());
        }
        self.unmatched_to(&mut out);
        out
    }

    fn rows(&self) -> Vec<(&SeriesComparison, [String; 7])> {
        let mut all: Vec<_> = self.series.iter().collect();
        all.sort_by_key(|series| series.verdict != Verdict::Regression);
        all.into_iter().map(|series| (series, row(series))).collect()
    }

    fn unmatched_to(&self, out: &mut String) {
        if !self.unmatched.is_empty() {
            let names: Vec<_> = self.unmatched.iter().map(|name| plain(name)).collect();
            let _ = writeln!(out, "\nOn one side only: {}.", names.join(", "));
        }
    }
}

fn row(series: &SeriesComparison) -> [String; 7] {
    let value = |value: f64| match series.name.ends_with("bytes") {
        true => bytes(value as u64),
        false => seconds(value),
    };
    let change = |ratio: f64| match ratio {
        ratio if ratio > 100.0 => "over +9900 %".to_owned(),
        ratio => format!("{:+.1} %", (ratio - 1.0) * 100.0),
    };
    let (low, high) = series.ratio_interval;
    let judged = series.verdict != Verdict::TooFew;
    let if_judged = |text: String| if judged { text } else { "–".to_owned() };
    let verdict = match series.verdict {
        Verdict::Same => "same",
        Verdict::Regression => "regression",
        Verdict::Improvement => "improvement",
        Verdict::TooFew => "too few values",
    };
    [
        plain(&series.name),
        value(series.medians.0),
        value(series.medians.1),
        change(series.ratio),
        if_judged(format!("{} to {}", change(low), change(high))),
        if_judged(format!("{:.4}", series.p_value)),
        verdict.to_owned(),
    ]
}

/// Names come from a file: they must not move a cursor or end a row.
fn plain(name: &str) -> String {
    name.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison() -> Comparison {
        let series = |name: &str, ratio: f64, verdict| SeriesComparison {
            name: name.into(),
            counts: (9, 9),
            medians: (0.01, 0.01 * ratio),
            ratio,
            ratio_interval: (ratio - 0.02, ratio + 0.02),
            p_value: 0.003,
            verdict,
        };
        Comparison {
            fail_over: 0.05,
            series: vec![
                series("phase a|b\n\u{1b}[31m seconds", 1.0, Verdict::Same),
                series("operation few seconds", 2.0, Verdict::TooFew),
                series("phase slow seconds", 1.25, Verdict::Regression),
            ],
            unmatched: vec!["phase \u{1b}new seconds".into()],
        }
    }

    #[test]
    fn regressions_come_first_and_names_are_harmless() {
        let markdown = comparison().to_markdown();
        let lines: Vec<_> = markdown.lines().collect();
        assert!(lines[2].starts_with("| phase slow seconds | 10.0 ms | 12.5 ms | +25.0 %"));
        assert!(lines[2].contains("+23.0 % to +27.0 % | 0.0030 | **regression**"), "{markdown}");
        assert!(lines[3].starts_with("| phase a\\|b  [31m seconds |"), "{markdown}");
        assert!(lines[4].contains("| +100.0 % | – | – | too few values |"), "{markdown}");
        assert!(markdown.ends_with("On one side only: phase  new seconds.\n"), "{markdown}");
    }

    #[test]
    fn columns_are_aligned() {
        let text = comparison().to_terminal();
        assert!(!text.contains('\u{1b}'), "{text}");
        let column = |line: &str, what: &str| {
            let at = line.find(what).unwrap_or_else(|| panic!("no {what} in {line}"));
            line[..at].chars().count()
        };
        let lines: Vec<_> = text.lines().collect();
        let verdict = column(lines[0], "verdict");
        assert_eq!(column(lines[1], "regression"), verdict);
        assert_eq!(column(lines[2], "same"), verdict);
        assert_eq!(column(lines[3], "too few"), verdict);
    }
}
