//! Samples over time in bounded memory.

use crate::report::Sample;

/// Keeps at most `capacity` samples that always cover the whole run.
///
/// When full, neighbours are merged two by two and the least spacing doubles; a sample closer than that to the last
/// one is merged into it.
#[derive(Debug)]
pub(crate) struct Timeline {
    samples: Vec<Sample>,
    capacity: usize,
    /// In seconds.
    spacing: f64,
}

impl Timeline {
    /// An empty timeline; samples closer than `spacing` seconds are merged.
    pub(crate) fn new(capacity: usize, spacing: f64) -> Self {
        Self { samples: Vec::new(), capacity: capacity.max(2), spacing }
    }

    pub(crate) fn push(&mut self, sample: Sample) {
        if let Some(last) = self.samples.last_mut()
            && sample.at - last.at < self.spacing
        {
            merge(last, &sample);
            return;
        }
        if self.samples.len() == self.capacity {
            self.halve();
        }
        self.samples.push(sample);
    }

    pub(crate) fn samples(&self) -> &[Sample] {
        &self.samples
    }

    fn halve(&mut self) {
        let merged = self.samples.chunks(2).map(|pair| {
            let mut first = pair[0].clone();
            if let Some(second) = pair.get(1) {
                merge(&mut first, second);
            }
            first
        });
        self.samples = merged.collect();
        let span = self.samples.last().map_or(0.0, |last| last.at - self.samples[0].at);
        self.spacing = (self.spacing * 2.0).max(span / self.capacity as f64);
    }
}

/// Takes the larger of each level, and keeps the earlier time.
fn merge(into: &mut Sample, other: &Sample) {
    into.resident = into.resident.max(other.resident);
    into.cpu_percent = into.cpu_percent.max(other.cpu_percent);
    into.system_cpu_percent = larger(into.system_cpu_percent, other.system_cpu_percent);
    into.mlx_active = into.mlx_active.max(other.mlx_active);
    into.gpu_memory = into.gpu_memory.max(other.gpu_memory);
    into.gpu_percent = larger(into.gpu_percent, other.gpu_percent);
    into.gpu_watts = larger(into.gpu_watts, other.gpu_watts);
}

fn larger(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_keeps_its_ends_and_its_peak() {
        let mut timeline = Timeline::new(64, 0.01);
        for n in 0..100_000u64 {
            let resident = if n == 4_321 { 9_999 } else { n % 100 };
            timeline.push(Sample { at: n as f64 * 0.05, resident, ..Sample::default() });
        }
        let samples = timeline.samples();
        assert!((32..=64).contains(&samples.len()), "{}", samples.len());
        assert_eq!(samples[0].at, 0.0);
        assert!(samples.last().unwrap().at > 4_800.0, "{:?}", samples.last());
        assert_eq!(samples.iter().map(|s| s.resident).max(), Some(9_999));
        assert!(samples.windows(2).all(|pair| pair[0].at < pair[1].at));
    }

    #[test]
    fn close_samples_become_one() {
        let mut timeline = Timeline::new(10, 0.01);
        timeline.push(Sample { at: 1.0, resident: 5, gpu_watts: Some(3.0), ..Sample::default() });
        timeline.push(Sample { at: 1.005, resident: 7, ..Sample::default() });
        assert_eq!(timeline.samples().len(), 1);
        assert_eq!(
            (timeline.samples()[0].resident, timeline.samples()[0].gpu_watts),
            (7, Some(3.0))
        );
    }
}
