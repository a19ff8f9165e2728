//! One HTML page: numbers, timeline of phases, memory and CPU over time, histograms of latency, tables.
//!
//! There is no script and nothing is loaded: the page opens from a file, offline, and prints.

use std::{collections::BTreeMap, fmt::Write};

use super::{
    svg,
    units::{amount, bytes, percent, seconds},
};
use crate::{Percentiles, Phase, Report};

const STYLE: &str = include_str!("report.css");

/// Operation names that get a row in the timeline; further ones are in the table.
const MAX_TIMELINE_NAMES: usize = 12;
const MAX_OPERATIONS: usize = 200;

pub(super) fn render(report: &Report) -> String {
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>Performance report</title><link rel=\"icon\" href=\"data:,\"><style>{STYLE}</style></head>\n\
         <body><h1>Performance report</h1>\n"
    );
    let environment = &report.environment;
    let _ = writeln!(
        out,
        "<p class=\"note\">{} · {} · {} CPUs · {} of memory · {} recorded</p>",
        escape(&environment.os),
        escape(&environment.arch),
        environment.cpus,
        bytes(environment.memory_total),
        seconds(environment.elapsed),
    );
    numbers(&mut out, report);
    timeline(&mut out, report);
    levels(&mut out, report);
    histograms(&mut out, report);
    tables(&mut out, report);
    out.push_str("</body></html>\n");
    out
}

fn numbers(out: &mut String, report: &Report) {
    let summary = &report.summary;
    let mut cards = vec![
        ("operations", summary.operation_count.to_string()),
        ("busy", seconds(summary.busy_duration)),
        ("peak memory", bytes(summary.peak_memory)),
        ("average CPU", percent(summary.average_cpu)),
    ];
    if let Some(generation) = &report.generation {
        cards.push(("new tokens", generation.new_tokens.to_string()));
        cards.push(("first token after", seconds(generation.time_to_first_token.p50)));
        let optional = [
            ("new tokens per second", generation.tokens_per_second),
            ("prompt tokens per second", generation.prompt_tokens_per_second),
            ("images per second", generation.images_per_second),
            ("GPU joules per token", generation.gpu_joules_per_token),
        ];
        cards.extend(optional.into_iter().filter_map(|(name, value)| Some((name, amount(value?)))));
    }
    out.push_str("<div class=\"cards\">");
    for (name, value) in cards {
        let _ = write!(out, "<div><b>{value}</b><span>{name}</span></div>");
    }
    out.push_str("</div>\n");
}

fn timeline(out: &mut String, report: &Report) {
    let mut rows: BTreeMap<(usize, &str), Vec<(f64, f64)>> = BTreeMap::new();
    for operation in &report.operations {
        rows.entry((0, &operation.name))
            .or_default()
            .push((operation.start, operation.start + operation.duration));
    }
    // The least total goes first when there are too many names.
    while rows.len() > MAX_TIMELINE_NAMES {
        let total = |stretches: &[(f64, f64)]| {
            stretches.iter().map(|(start, end)| end - start).sum::<f64>()
        };
        let least =
            rows.iter().min_by(|a, b| total(a.1).total_cmp(&total(b.1))).map(|(&key, _)| key);
        least.and_then(|key| rows.remove(&key));
    }
    for event in &report.events {
        let order = Phase::from_name(&event.name).map_or(usize::MAX, |phase| 1 + phase as usize);
        rows.entry((order, &event.name))
            .or_default()
            .push((event.start, event.start + event.duration));
    }
    let ends = rows.values().flatten();
    let (first, last) =
        ends.fold((f64::MAX, 0.0f64), |(lo, hi), &(start, end)| (lo.min(start), hi.max(end)));
    if last <= first {
        return;
    }
    out.push_str("<h2>Timeline</h2><div class=\"timeline\">");
    for ((order, name), mut stretches) in rows {
        stretches.sort_by(|a, b| a.0.total_cmp(&b.0));
        let scaled: Vec<_> = stretches
            .iter()
            .map(|(start, end)| ((start - first) / (last - first), (end - first) / (last - first)))
            .collect();
        let kind = if order == 0 { "operation" } else { "phase" };
        let _ = writeln!(
            out,
            "<span>{}</span><div class=\"{kind}\">{}</div>",
            escape(name),
            svg::strip(&scaled, 10.0)
        );
    }
    out.push_str("</div>");
    axis(out, &seconds(first), &seconds(last));
}

fn levels(out: &mut String, report: &Report) {
    let samples = &report.samples;
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else { return };
    let span = last.at - first.at;
    if span <= 0.0 {
        return;
    }
    let mut chart =
        |title: &str, values: Vec<(f64, f64)>, unit: &dyn Fn(f64) -> String, class: &str| {
            let top = values.iter().map(|value| value.1).fold(0.0, f64::max);
            if top <= 0.0 {
                return;
            }
            let points: Vec<_> =
                values.iter().map(|&(at, value)| ((at - first.at) / span, value / top)).collect();
            let _ = writeln!(out, "<h2>{title}</h2><p class=\"note\">up to {}</p>", unit(top));
            let _ =
                writeln!(out, "<div class=\"chart\">{}</div>", svg::area(&points, 200.0, class));
            axis(out, &seconds(first.at), &seconds(last.at));
        };
    let as_bytes = |value: f64| bytes(value as u64);
    let resident = samples.iter().map(|sample| (sample.at, sample.resident as f64)).collect();
    chart("Resident memory", resident, &as_bytes, "memory");
    let mlx =
        samples.iter().filter_map(|sample| Some((sample.at, sample.mlx_active? as f64))).collect();
    chart("MLX arrays", mlx, &as_bytes, "memory");
    let cpu = samples.iter().map(|sample| (sample.at, sample.cpu_percent)).collect();
    chart("CPU of this process (100 % is one core)", cpu, &percent, "cpu");
    let gpu = samples.iter().filter_map(|sample| Some((sample.at, sample.gpu_percent?))).collect();
    chart("GPU", gpu, &percent, "gpu");
    let watts = samples.iter().filter_map(|sample| Some((sample.at, sample.gpu_watts?))).collect();
    chart("GPU power", watts, &|value| format!("{value:.0} W"), "gpu");
}

/// A name, counts per bucket, and percentiles.
type Distribution<'a> = (&'a str, &'a [(f64, u64)], &'a Percentiles);

fn histograms(out: &mut String, report: &Report) {
    let mut all: Vec<Distribution<'_>> = Vec::new();
    if let Some(generation) = &report.generation {
        all.push((
            "between tokens",
            &generation.inter_token_histogram,
            &generation.inter_token_latency,
        ));
    }
    all.extend(
        report.phases.iter().map(|p| (p.phase.as_str(), p.histogram.as_slice(), &p.durations)),
    );
    all.extend(
        report.by_name.iter().map(|n| (n.name.as_str(), n.histogram.as_slice(), &n.durations)),
    );
    // One value makes no distribution.
    all.retain(|(_, _, durations)| durations.count > 1);
    if all.is_empty() {
        return;
    }
    out.push_str("<h2>Latency</h2><div class=\"histograms\">");
    for (name, buckets, durations) in all {
        let heights = dense(buckets);
        let _ = write!(
            out,
            "<figure><figcaption>{}</figcaption>{}",
            escape(name),
            svg::bars(&heights, 200.0)
        );
        axis(out, &seconds(durations.min), &seconds(durations.max));
        let _ = writeln!(
            out,
            "<p class=\"note\">{} · p50 {} · p90 {} · p99 {}</p></figure>",
            amount(durations.count as f64),
            seconds(durations.p50),
            seconds(durations.p90),
            seconds(durations.p99),
        );
    }
    out.push_str("</div>\n");
}

/// Fills the gaps between buckets, which are a quarter of a doubling apart, and scales the highest to 1.
fn dense(buckets: &[(f64, u64)]) -> Vec<f64> {
    let index = |upper: f64| (upper.log2() * 4.0).round() as i64;
    let Some(&(first, _)) = buckets.first() else { return Vec::new() };
    let last = buckets.last().map_or(first, |bucket| bucket.0);
    // Bounds come from files too: no more columns than a chart could show.
    let columns = (index(last).saturating_sub(index(first))).clamp(0, 400) as usize + 1;
    let mut heights = vec![0.0; columns];
    for &(upper, count) in buckets {
        let column = index(upper).saturating_sub(index(first)).clamp(0, columns as i64 - 1);
        heights[column as usize] += count as f64;
    }
    let top = heights.iter().copied().fold(0.0, f64::max);
    heights.iter().map(|height| if top > 0.0 { height / top } else { 0.0 }).collect()
}

fn tables(out: &mut String, report: &Report) {
    let phases = report.phases.iter().map(|phase| {
        let rate = phase
            .units_per_second
            .map_or_else(|| "–".to_owned(), |r| format!("{} {}", amount(r), phase.unit));
        vec![
            phase.phase.clone(),
            amount(phase.durations.count as f64),
            seconds(phase.total_duration),
            seconds(phase.durations.p50),
            seconds(phase.durations.p99),
            rate,
        ]
    });
    table(
        out,
        "Phases",
        &["phase", "count", "total", "p50", "p99", "per second"],
        phases.collect(),
    );
    let skipped = report.operations.len().saturating_sub(MAX_OPERATIONS);
    let operations = report.operations[skipped..].iter().map(|operation| {
        vec![
            operation.name.clone(),
            seconds(operation.duration),
            bytes(operation.memory_start),
            bytes(operation.memory_peak),
            bytes(operation.memory_end),
            percent(operation.cpu_percent),
        ]
    });
    let title = if skipped > 0 {
        format!("Operations (the latest {MAX_OPERATIONS})")
    } else {
        "Operations".to_owned()
    };
    table(out, &title, &["name", "duration", "start", "peak", "end", "CPU"], operations.collect());
    let counters =
        report.counters.iter().map(|(name, value)| vec![name.clone(), value.to_string()]);
    table(out, "Counters", &["counter", "value"], counters.collect());
    let gauges = report.gauges.iter().map(|(name, gauge)| {
        let text = |value| if name.ends_with("_bytes") { bytes(value) } else { value.to_string() };
        vec![name.clone(), text(gauge.last), text(gauge.max)]
    });
    table(out, "Gauges", &["gauge", "last", "largest"], gauges.collect());
}

fn table(out: &mut String, title: &str, head: &[&str], rows: Vec<Vec<String>>) {
    if rows.is_empty() {
        return;
    }
    let _ = write!(out, "<h2>{title}</h2><div class=\"scroll\"><table><tr>");
    head.iter().for_each(|cell| out.push_str(&format!("<th>{cell}</th>")));
    out.push_str("</tr>\n");
    for row in rows {
        out.push_str("<tr>");
        row.iter().for_each(|cell| out.push_str(&format!("<td>{}</td>", escape(cell))));
        out.push_str("</tr>\n");
    }
    out.push_str("</table></div>\n");
}

fn axis(out: &mut String, left: &str, right: &str) {
    let _ = writeln!(out, "<div class=\"axis\"><span>{left}</span><span>{right}</span></div>");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_stands_alone_and_names_cannot_break_it() {
        let page = render(&super::super::testing::sample());
        for absent in ["<i>", "<script", "http://", "https://", "NaN", "inf"] {
            assert!(!page.contains(absent), "{absent} in the page");
        }
        assert!(page.contains("a|b &lt;i&gt;&quot;x&quot;"));
        for tag in ["div", "table", "tr", "td", "svg", "figure", "span", "p"] {
            let opened = page.matches(&format!("<{tag}>")).count()
                + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "<{tag}>");
        }
        assert!(
            ["Timeline", "Resident memory", "Latency", "Phases", "Counters"]
                .iter()
                .all(|part| page.contains(part))
        );
    }

    #[test]
    fn an_empty_report_makes_a_page() {
        assert!(render(&Report::default()).ends_with("</body></html>\n"));
    }

    #[test]
    fn missing_buckets_are_gaps() {
        assert_eq!(dense(&[(0.25, 2), (0.5, 4)]), [0.5, 0.0, 0.0, 0.0, 1.0]);
        assert_eq!(dense(&[]), Vec::<f64>::new());
        assert!(dense(&[(1e-9, 1), (f64::INFINITY, 1)]).len() <= 401);
    }
}
