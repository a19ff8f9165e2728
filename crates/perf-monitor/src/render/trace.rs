//! The Chrome trace event format, as JSON: complete events for phases and operations, counters for samples.
//!
//! Events on one track must nest. Phases of one thread usually do, but tasks that share a thread, and operations in
//! general, may overlap; what does not nest goes to a further lane, which is a track of its own.

use serde_json::{Value, json};

use crate::Report;

/// Lanes per thread that get a track of their own; further overlaps share the last.
const MAX_LANES: u64 = 64;

pub(super) fn render(report: &Report) -> String {
    let mut events = vec![
        json!({"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "args": {"name": "abstractllm"}}),
    ];
    let mut tracks = Tracks::default();

    let mut operations: Vec<_> = report.operations.iter().collect();
    operations.sort_by(|a, b| a.start.total_cmp(&b.start).then(b.duration.total_cmp(&a.duration)));
    for operation in operations {
        let tid = tracks.place(0, operation.start, operation.start + operation.duration);
        events.push(json!({
            "ph": "X", "cat": "operation", "name": operation.name, "pid": 1, "tid": tid,
            "ts": operation.start * 1e6, "dur": operation.duration * 1e6,
            "args": {
                "memory_peak": operation.memory_peak,
                "cpu_percent": operation.cpu_percent,
            },
        }));
    }
    let mut phases: Vec<_> = report.events.iter().collect();
    phases.sort_by(|a, b| a.start.total_cmp(&b.start).then(b.duration.total_cmp(&a.duration)));
    for phase in phases {
        let tid = tracks.place(u64::from(phase.thread), phase.start, phase.start + phase.duration);
        events.push(json!({
            "ph": "X", "cat": "phase", "name": phase.name, "pid": 1, "tid": tid,
            "ts": phase.start * 1e6, "dur": phase.duration * 1e6, "args": {"units": phase.units},
        }));
    }
    for (thread, lane) in tracks.used() {
        let name = match report.threads.iter().find(|known| u64::from(known.id) == thread) {
            _ if thread == 0 => "operations".to_owned(),
            Some(known) => known.name.clone(),
            None => format!("thread {thread}"),
        };
        let name = if lane == 0 { name } else { format!("{name} ({})", lane + 1) };
        let tid = thread * MAX_LANES + lane;
        events.push(
            json!({"ph": "M", "name": "thread_name", "pid": 1, "tid": tid, "args": {"name": name}}),
        );
        events.push(json!({"ph": "M", "name": "thread_sort_index", "pid": 1, "tid": tid, "args": {"sort_index": tid}}));
    }
    for sample in &report.samples {
        let mut counter = |name: &str, value: Value| {
            events.push(json!({"ph": "C", "name": name, "pid": 1, "tid": 0, "ts": sample.at * 1e6, "args": {"value": value}}));
        };
        counter("resident bytes", sample.resident.into());
        counter("CPU percent", sample.cpu_percent.into());
        sample.mlx_active.into_iter().for_each(|bytes| counter("MLX active bytes", bytes.into()));
        sample.gpu_percent.into_iter().for_each(|percent| counter("GPU percent", percent.into()));
        sample.gpu_watts.into_iter().for_each(|watts| counter("GPU watts", watts.into()));
    }
    json!({"traceEvents": events, "displayTimeUnit": "ms"}).to_string()
}

/// The ends of the events open on each lane of each thread, innermost last.
#[derive(Default)]
struct Tracks(std::collections::BTreeMap<u64, Vec<Vec<f64>>>);

impl Tracks {
    /// Finds a lane where the event nests, and returns its track number. Events come in order of their start.
    fn place(&mut self, thread: u64, start: f64, end: f64) -> u64 {
        let lanes = self.0.entry(thread).or_default();
        for (lane, open) in lanes.iter_mut().enumerate() {
            while open.last().is_some_and(|&last| last <= start) {
                open.pop();
            }
            if open.last().is_none_or(|&last| end <= last) {
                open.push(end);
                return thread * MAX_LANES + lane as u64;
            }
        }
        if (lanes.len() as u64) < MAX_LANES {
            lanes.push(vec![end]);
        }
        thread * MAX_LANES + lanes.len() as u64 - 1
    }

    fn used(&self) -> Vec<(u64, u64)> {
        self.0
            .iter()
            .flat_map(|(&thread, lanes)| (0..lanes.len() as u64).map(move |lane| (thread, lane)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_get_tracks_of_their_own() {
        let trace: Value = serde_json::from_str(&render(&super::super::testing::sample())).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        let tids = |category: &str| -> Vec<u64> {
            let chosen = events.iter().filter(|event| event["cat"] == category);
            chosen.map(|event| event["tid"].as_u64().unwrap()).collect()
        };
        assert_eq!(tids("operation"), [0, 1], "0.0..0.5 and 0.25..0.75 overlap");
        assert_eq!(tids("phase"), [64, 65, 128], "two overlap on thread 1, one is on thread 2");
        let named: Vec<_> = events.iter().filter(|event| event["name"] == "thread_name").collect();
        assert_eq!(named.len(), 5);
        assert_eq!(events.iter().filter(|event| event["ph"] == "C").count(), 4);
    }

    #[test]
    fn nested_events_share_a_track() {
        let mut tracks = Tracks::default();
        let placed = [(0.0, 10.0), (1.0, 5.0), (2.0, 3.0), (5.0, 10.0), (11.0, 12.0)]
            .map(|(s, e)| tracks.place(3, s, e));
        assert_eq!(placed, [192; 5]);
    }
}
