//! The Prometheus text format: <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::fmt::Write;

use crate::{Percentiles, Report};

pub(super) fn render(report: &Report) -> String {
    let mut out = String::new();
    let rows: Vec<_> =
        report.by_name.iter().map(|n| (n.name.as_str(), n.total_duration, n.durations)).collect();
    let help = "Duration of operations.";
    summary(&mut out, "perf_monitor_operation_duration_seconds", help, "operation", &rows);
    let rows: Vec<_> =
        report.phases.iter().map(|p| (p.phase.as_str(), p.total_duration, p.durations)).collect();
    summary(
        &mut out,
        "perf_monitor_phase_duration_seconds",
        "Duration of engine phases.",
        "phase",
        &rows,
    );

    let rows: Vec<_> = report.by_name.iter().map(|n| (n.name.as_str(), n.cpu_seconds)).collect();
    family(
        &mut out,
        "perf_monitor_operation_cpu_seconds_total",
        "counter",
        "CPU time during operations.",
        "operation",
        &rows,
    );
    let rows: Vec<_> =
        report.by_name.iter().map(|n| (n.name.as_str(), n.peak_memory as f64)).collect();
    let help = "Highest resident memory during operations.";
    family(&mut out, "perf_monitor_operation_peak_memory_bytes", "gauge", help, "operation", &rows);

    let totals = &report.summary;
    let singles = [
        (
            "perf_monitor_busy_seconds_total",
            "counter",
            "Time with an operation open.",
            Some(totals.busy_duration),
        ),
        (
            "perf_monitor_peak_memory_bytes",
            "gauge",
            "Highest resident memory.",
            Some(totals.peak_memory as f64),
        ),
        (
            "perf_monitor_open_operations",
            "gauge",
            "Operations open now.",
            Some(totals.operations_open as f64),
        ),
    ];
    for (name, kind, help, value) in singles {
        single(&mut out, name, kind, help, value);
    }
    if let Some(generation) = &report.generation {
        let total = |p: &Percentiles| p.mean * p.count as f64;
        let first = &generation.time_to_first_token;
        let rows = [("", total(first), *first)];
        summary(
            &mut out,
            "perf_monitor_time_to_first_token_seconds",
            "From request to first token.",
            "",
            &rows,
        );
        let gap = &generation.inter_token_latency;
        let rows = [("", total(gap), *gap)];
        summary(
            &mut out,
            "perf_monitor_inter_token_seconds",
            "Between one token and the next.",
            "",
            &rows,
        );
        let help = "New tokens after the first, per second.";
        single(
            &mut out,
            "perf_monitor_tokens_per_second",
            "gauge",
            help,
            generation.tokens_per_second,
        );
        let help = "GPU energy over new tokens.";
        single(
            &mut out,
            "perf_monitor_gpu_joules_per_token",
            "gauge",
            help,
            generation.gpu_joules_per_token,
        );
    }
    for (name, &value) in &report.counters {
        single(
            &mut out,
            &format!("perf_monitor_{name}_total"),
            "counter",
            "Reported by the engine.",
            Some(value as f64),
        );
    }
    for (name, value) in &report.gauges {
        single(
            &mut out,
            &format!("perf_monitor_{name}"),
            "gauge",
            "Reported by the engine.",
            Some(value.last as f64),
        );
    }
    out
}

fn summary(
    out: &mut String,
    name: &str,
    help: &str,
    label: &str,
    rows: &[(&str, f64, Percentiles)],
) {
    if rows.is_empty() {
        return;
    }
    head(out, name, "summary", help);
    for (value, total, durations) in rows {
        let own =
            if label.is_empty() { String::new() } else { format!("{label}=\"{}\"", escape(value)) };
        let comma = if own.is_empty() { "" } else { "," };
        for (quantile, seconds) in
            [("0.5", durations.p50), ("0.9", durations.p90), ("0.99", durations.p99)]
        {
            let _ = writeln!(out, "{name}{{{own}{comma}quantile=\"{quantile}\"}} {seconds}");
        }
        let own = if own.is_empty() { own } else { format!("{{{own}}}") };
        let _ = writeln!(out, "{name}_sum{own} {total}");
        let _ = writeln!(out, "{name}_count{own} {}", durations.count);
    }
}

fn family(out: &mut String, name: &str, kind: &str, help: &str, label: &str, rows: &[(&str, f64)]) {
    if rows.is_empty() {
        return;
    }
    head(out, name, kind, help);
    for (text, value) in rows {
        let _ = writeln!(out, "{name}{{{label}=\"{}\"}} {value}", escape(text));
    }
}

fn single(out: &mut String, name: &str, kind: &str, help: &str, value: Option<f64>) {
    if let Some(value) = value {
        head(out, name, kind, help);
        let _ = writeln!(out, "{name} {value}");
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_declared_once_and_labels_escaped() {
        let mut report = super::super::testing::sample();
        report.by_name[0].name = "a\"b\\c\nd".into();
        let text = render(&report);
        let mut declared = std::collections::HashSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                assert!(declared.insert(rest.split(' ').next().unwrap().to_owned()), "{line}");
            } else if !line.starts_with('#') {
                let (series, value) = line.rsplit_once(' ').unwrap();
                value.parse::<f64>().unwrap();
                let name = series.split('{').next().unwrap();
                let base = name.trim_end_matches("_sum").trim_end_matches("_count");
                assert!(declared.contains(base) || declared.contains(name), "{line}");
            }
        }
        assert!(
            text.contains(
                r#"perf_monitor_operation_duration_seconds_count{operation="a\"b\\c\nd"} 3"#
            ),
            "{text}"
        );
        assert!(text.contains("perf_monitor_new_tokens_total 3\n"));
    }
}
