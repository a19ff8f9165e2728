//! Markdown: one table per part of the report.

use std::fmt::Write;

use super::units::{amount, bytes, percent, seconds};
use crate::Report;

/// Operations listed one by one; the table by name has them all.
const MAX_OPERATIONS: usize = 50;

pub(super) fn render(report: &Report) -> String {
    let mut out = String::from("# Performance report\n\n");
    let summary = &report.summary;
    table(
        &mut out,
        &["operations", "total", "busy", "peak memory", "average CPU"],
        [vec![
            summary.operation_count.to_string(),
            seconds(summary.total_duration),
            seconds(summary.busy_duration),
            bytes(summary.peak_memory),
            percent(summary.average_cpu),
        ]],
    );

    if let Some(generation) = &report.generation {
        let rate = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), amount);
        out.push_str("## Generation\n\n");
        table(
            &mut out,
            &["", "value"],
            [
                ["generations".into(), generation.generations.to_string()],
                ["new tokens".into(), generation.new_tokens.to_string()],
                ["new tokens per second".into(), rate(generation.tokens_per_second)],
                ["prompt tokens per second".into(), rate(generation.prompt_tokens_per_second)],
                ["images per second".into(), rate(generation.images_per_second)],
                ["time to first token, median".into(), seconds(generation.time_to_first_token.p50)],
                ["between tokens, median".into(), seconds(generation.inter_token_latency.p50)],
                ["between tokens, p99".into(), seconds(generation.inter_token_latency.p99)],
                ["GPU joules per token".into(), rate(generation.gpu_joules_per_token)],
            ]
            .map(|row: [String; 2]| row.to_vec()),
        );
    }

    if !report.phases.is_empty() {
        out.push_str("## Phases\n\n");
        let rows = report.phases.iter().map(|phase| {
            let durations = &phase.durations;
            let rate = phase
                .units_per_second
                .map_or_else(|| "–".to_owned(), |r| format!("{} {}/s", amount(r), phase.unit));
            vec![
                phase.phase.clone(),
                durations.count.to_string(),
                seconds(phase.total_duration),
                seconds(durations.p50),
                seconds(durations.p90),
                seconds(durations.p99),
                seconds(durations.max),
                rate,
            ]
        });
        table(&mut out, &["phase", "count", "total", "p50", "p90", "p99", "max", "rate"], rows);
    }

    if !report.by_name.is_empty() {
        out.push_str("## Operations by name\n\n");
        let rows = report.by_name.iter().map(|name| {
            let durations = &name.durations;
            vec![
                escape(&name.name),
                durations.count.to_string(),
                seconds(name.total_duration),
                seconds(durations.p50),
                seconds(durations.p99),
                bytes(name.peak_memory),
            ]
        });
        table(&mut out, &["name", "count", "total", "p50", "p99", "peak memory"], rows);
    }

    let skipped = report.operations.len().saturating_sub(MAX_OPERATIONS);
    if !report.operations.is_empty() {
        out.push_str("## Operations\n\n");
        if skipped > 0 {
            let _ = writeln!(
                out,
                "The latest {MAX_OPERATIONS}; {skipped} earlier ones are not shown.\n"
            );
        }
        let rows = report.operations[skipped..].iter().map(|operation| {
            vec![
                escape(&operation.name),
                seconds(operation.duration),
                bytes(operation.memory_start),
                bytes(operation.memory_peak),
                bytes(operation.memory_end),
                percent(operation.cpu_percent),
            ]
        });
        table(&mut out, &["name", "duration", "memory start", "peak", "end", "CPU"], rows);
    }

    if !report.counters.is_empty() {
        out.push_str("## Counters\n\n");
        table(
            &mut out,
            &["counter", "value"],
            report.counters.iter().map(|(k, v)| vec![k.clone(), v.to_string()]),
        );
    }
    if !report.gauges.is_empty() {
        out.push_str("## Gauges\n\n");
        let rows = report
            .gauges
            .iter()
            .map(|(k, v)| vec![k.clone(), v.last.to_string(), v.max.to_string()]);
        table(&mut out, &["gauge", "last", "largest"], rows);
    }
    out
}

/// The first column is text and the others are numbers, set to the right.
fn table(out: &mut String, head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    let _ = writeln!(out, "| {} |", head.join(" | "));
    let _ = writeln!(out, "|---|{}", "--:|".repeat(head.len() - 1));
    for row in rows {
        let _ = writeln!(out, "| {} |", row.join(" | "));
    }
    out.push('\n');
}

/// Makes any text safe inside a table cell.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '|' | '\\' | '`' | '*' | '_' | '[' | ']' | '#' => out.extend(['\\', c]),
            '<' => out.push_str("&lt;"),
            '&' => out.push_str("&amp;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_the_columns_of_its_head() {
        let text = render(&super::super::testing::sample());
        let mut columns = 0;
        for line in text.lines() {
            // Escaped bars are not separators.
            let bars = line.replace("\\|", "").matches('|').count();
            if bars == 0 {
                columns = 0;
            } else if columns == 0 {
                columns = bars;
            } else {
                assert_eq!(bars, columns, "{line}");
            }
        }
        assert!(text.contains("a\\|b &lt;i>"), "{text}");
        assert!(text.contains("| decode_step | 3 | 600 ms | 200 ms |"), "{text}");
    }
}
