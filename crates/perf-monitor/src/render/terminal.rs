//! The terminal: aligned columns and a bar for the share of the largest.

use std::fmt::Write;

use super::units::{amount, bytes, percent, seconds};
use crate::Report;

const LEAST_WIDTH: usize = 40;
const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];

pub(super) fn render(report: &Report, width: usize) -> String {
    let width = width.max(LEAST_WIDTH);
    let summary = &report.summary;
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{} operations · {} busy · peak {} · CPU {}",
        summary.operation_count,
        seconds(summary.busy_duration),
        bytes(summary.peak_memory),
        percent(summary.average_cpu),
    );
    if let Some(generation) = &report.generation {
        let rate = generation.tokens_per_second.map_or_else(|| "–".to_owned(), amount);
        let _ = writeln!(
            out,
            "{} new tokens · {rate} tokens/s · first after {}",
            generation.new_tokens,
            seconds(generation.time_to_first_token.p50),
        );
    }
    let phases = report.phases.iter().map(|p| (p.phase.as_str(), p.total_duration, p.durations));
    section(&mut out, "phase", phases.collect(), width);
    let names = report.by_name.iter().map(|n| (n.name.as_str(), n.total_duration, n.durations));
    section(&mut out, "operation", names.collect(), width);
    out
}

fn section(
    out: &mut String,
    title: &str,
    rows: Vec<(&str, f64, crate::Percentiles)>,
    width: usize,
) {
    if rows.is_empty() {
        return;
    }
    let largest = rows.iter().map(|&(_, total, _)| total).fold(0.0, f64::max);
    // count, total, p50 and p99 take 9 columns each in all; name and bar share the rest.
    let rest = width.saturating_sub(4 * 9);
    let longest = rows.iter().map(|(name, ..)| name.chars().count()).max().unwrap_or(0);
    let name_width = longest.max(title.len()).min((rest * 3 / 5).max(8));
    let bar_width = rest.saturating_sub(name_width + 1);
    let _ =
        writeln!(out, "\n{title:<name_width$}{:>9}{:>9}{:>9}{:>9}", "count", "total", "p50", "p99");
    for (name, total, durations) in rows {
        let name = clip(name, name_width);
        let (total_text, p50, p99) =
            (seconds(total), seconds(durations.p50), seconds(durations.p99));
        let row = format!(
            "{name:<name_width$}{:>9}{total_text:>9}{p50:>9}{p99:>9} ",
            amount(durations.count as f64)
        );
        let bar = bar(if largest > 0.0 { total / largest } else { 0.0 }, bar_width);
        let _ = writeln!(out, "{}", format!("{row}{bar}").trim_end());
    }
}

/// A bar `share` of `width` columns long, drawn in eighths of a column.
fn bar(share: f64, width: usize) -> String {
    let eighths = (share.clamp(0.0, 1.0) * (width * 8) as f64).round() as usize;
    let mut bar = "█".repeat(eighths / 8);
    if !eighths.is_multiple_of(8) {
        bar.push(EIGHTHS[eighths % 8]);
    }
    bar
}

/// Shortens to `width` characters; control characters, which could steer the terminal, become spaces.
fn clip(text: &str, width: usize) -> String {
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    if text.chars().count() <= width {
        clean.collect()
    } else {
        clean.take(width - 1).chain(['…']).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_is_wider_than_the_terminal_and_none_steers_it() {
        let mut report = super::super::testing::sample();
        report.by_name[0].name = format!("{}\u{1b}[31m", "long name ".repeat(20));
        for width in [60, 80, 120] {
            let text = render(&report, width);
            assert!(!text.contains('\u{1b}'));
            let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= width, "{widest} in {width}:\n{text}");
        }
    }

    #[test]
    fn a_bar_shows_its_share() {
        assert_eq!(bar(1.0, 4), "████");
        assert_eq!(bar(0.5, 3), "█▌");
        assert_eq!(bar(0.0, 3), "");
    }
}
