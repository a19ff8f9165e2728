//! Any text as a report of what was measured: what is accepted is the same once written, and can be shown.
#![no_main]

use libfuzzer_sys::fuzz_target;
use perf_monitor::Report;

fuzz_target!(|text: &str| {
    let Ok(report) = Report::from_json(text) else { return };
    let shown = [
        report.to_markdown(),
        report.to_terminal(80),
        report.to_prometheus(),
        report.to_trace(),
        report.to_html(),
        perf_monitor::compare(&report, &report, 0.1).to_markdown(),
    ];
    assert!(shown.iter().all(|text| !text.is_empty()));
    let written = report.to_json();
    let again = Report::from_json(&written).expect("what was written is read");
    assert_eq!(again.to_json(), written);
});
