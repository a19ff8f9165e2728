//! Reports in the forms people and tools read. Each form is made from a [`Report`] alone, so that one read back from
//! JSON renders the same.

mod comparison;
mod html;
mod markdown;
mod prometheus;
mod svg;
mod terminal;
mod trace;
mod units;

use crate::Report;

impl Report {
    /// The report as Markdown tables.
    pub fn to_markdown(&self) -> String {
        markdown::render(self)
    }

    /// The report as a table with small bars, for a terminal `width` columns wide.
    pub fn to_terminal(&self, width: usize) -> String {
        terminal::render(self, width)
    }

    /// The report in the Prometheus text format, version 0.0.4.
    pub fn to_prometheus(&self) -> String {
        prometheus::render(self)
    }

    /// The report as a Chrome trace (JSON), which Perfetto opens too.
    pub fn to_trace(&self) -> String {
        trace::render(self)
    }

    /// The report as one HTML page with charts, which needs neither network nor scripts.
    pub fn to_html(&self) -> String {
        html::render(self)
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use crate::{Percentiles, Report, report::*};

    /// A report with something in every part, and names that need escaping everywhere.
    pub(crate) fn sample() -> Report {
        let durations =
            Percentiles { count: 3, min: 0.1, mean: 0.2, p50: 0.2, p90: 0.3, p99: 0.3, max: 0.3 };
        Report {
            schema_version: 1,
            operations: vec![
                operation("a|b <i>\"x\"\\\n\u{1b}[31m", 0.0, 0.5),
                operation("plain", 0.25, 0.5),
            ],
            summary: Summary {
                total_duration: 1.0,
                peak_memory: 300 << 20,
                average_cpu: 150.0,
                busy_duration: 0.75,
                operation_count: 2,
                ..Summary::default()
            },
            by_name: vec![NameReport {
                name: "plain".into(),
                total_duration: 0.6,
                durations,
                histogram: vec![(0.125, 1), (0.25, 1), (0.5, 1)],
                peak_memory: 300 << 20,
                cpu_seconds: 0.75,
            }],
            phases: vec![PhaseReport {
                phase: "decode_step".into(),
                unit: "tokens".into(),
                units: 3,
                units_per_second: Some(5.0),
                total_duration: 0.6,
                durations,
                histogram: vec![(0.125, 1), (0.25, 2)],
                events_omitted: 0,
            }],
            counters: [("new_tokens".to_owned(), 3)].into(),
            gauges: [("mlx_active_bytes".to_owned(), GaugeReport { last: 5, max: 9 })].into(),
            samples: vec![sample_at(0.0, 100 << 20), sample_at(0.5, 300 << 20)],
            events: vec![event(0.1, 0.1, 1), event(0.15, 0.1, 1), event(0.3, 0.2, 2)],
            threads: vec![
                ThreadReport { id: 1, name: "main".into() },
                ThreadReport { id: 2, name: "model".into() },
            ],
            ..Report::default()
        }
    }

    fn operation(name: &str, start: f64, duration: f64) -> OperationReport {
        let (memory_start, memory_peak, memory_end) = (100 << 20, 300 << 20, 200 << 20);
        let cpu_percent = 150.0;
        OperationReport {
            name: name.into(),
            start,
            duration,
            memory_start,
            memory_peak,
            memory_end,
            cpu_percent,
            thread: 1,
            ..OperationReport::default()
        }
    }

    fn event(start: f64, duration: f64, thread: u32) -> EventReport {
        EventReport { name: "decode_step".into(), start, duration, units: 1, thread }
    }

    fn sample_at(at: f64, resident: u64) -> Sample {
        Sample { at, resident, cpu_percent: 150.0, ..Sample::default() }
    }
}
