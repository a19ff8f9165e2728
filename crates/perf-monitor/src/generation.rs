//! Speed of generation: time to first token, gaps between tokens, tokens and images per second.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{Counter, Percentiles, Recorder, histogram::Durations};

/// What one generation did, measured at the place where tokens come out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GenerationTrace {
    /// Prompt tokens computed.
    pub prompt_tokens: u64,
    /// Prompt tokens taken over from a cache.
    pub reused_tokens: u64,
    /// Images in the prompt.
    pub images: u64,
    /// Tokens generated.
    pub new_tokens: u64,
    /// From the start to the first token; absent if none came.
    pub time_to_first_token: Option<Duration>,
    /// Gaps between one token and the next; one fewer than tokens.
    pub gaps: Vec<Duration>,
    /// From the start to the end.
    pub total: Duration,
}

/// Watches one generation and reports it when dropped.
///
/// ```
/// use std::sync::Arc;
/// use perf_monitor::{GenerationTimer, PerformanceMonitor, Recorder};
///
/// let monitor = PerformanceMonitor::new(Default::default());
/// let recorder: Arc<dyn Recorder> = Arc::new(monitor.clone());
/// let mut timer = GenerationTimer::start(&recorder);
/// timer.prompt(120, 80, 1);
/// for _ in 0..3 {
///     timer.token();
/// }
/// drop(timer);
/// let generation = monitor.report().generation.unwrap();
/// assert_eq!((generation.new_tokens, generation.reused_tokens), (3, 80));
/// ```
#[derive(Debug)]
#[must_use = "a timer that is not kept reports an empty generation"]
pub struct GenerationTimer {
    /// Absent when the recorder keeps nothing.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    recorder: Arc<dyn Recorder>,
    trace: GenerationTrace,
    start: Instant,
    last: Option<Instant>,
}

impl GenerationTimer {
    /// Starts the clock: call it when the request arrives, before its images are read.
    pub fn start(recorder: &Arc<dyn Recorder>) -> Self {
        let open = recorder.enabled().then(|| Open {
            recorder: Arc::clone(recorder),
            trace: GenerationTrace::default(),
            start: Instant::now(),
            last: None,
        });
        Self { open }
    }

    /// Says what the prompt held: tokens computed, tokens taken over from a cache, and images.
    pub fn prompt(&mut self, new_tokens: u64, reused_tokens: u64, images: u64) {
        if let Some(Open { trace, .. }) = &mut self.open {
            (trace.prompt_tokens, trace.reused_tokens, trace.images) =
                (new_tokens, reused_tokens, images);
        }
    }

    /// Notes that a token was generated just now.
    #[inline]
    pub fn token(&mut self) {
        let Some(open) = &mut self.open else { return };
        let now = Instant::now();
        match open.last {
            None => open.trace.time_to_first_token = Some(now.duration_since(open.start)),
            Some(last) => open.trace.gaps.push(now.duration_since(last)),
        }
        open.last = Some(now);
        open.trace.new_tokens += 1;
    }
}

impl Drop for GenerationTimer {
    fn drop(&mut self) {
        let Some(mut open) = self.open.take() else { return };
        open.trace.total = open.start.elapsed();
        open.recorder.count(Counter::Requests, 1);
        open.recorder.count(Counter::NewTokens, open.trace.new_tokens);
        open.recorder.count(Counter::PromptTokens, open.trace.prompt_tokens);
        open.recorder.count(Counter::ReusedTokens, open.trace.reused_tokens);
        open.recorder.count(Counter::Images, open.trace.images);
        open.recorder.generation(&open.trace);
    }
}

/// Speed over all generations of a run.
///
/// Rates are weighted by work: tokens of all generations over the time all of them took.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GenerationMetrics {
    /// How many generations finished.
    pub generations: u64,
    /// Tokens generated.
    pub new_tokens: u64,
    /// Prompt tokens computed.
    pub prompt_tokens: u64,
    /// Prompt tokens taken over from a cache.
    pub reused_tokens: u64,
    /// Images in prompts.
    pub images: u64,
    /// From request to first token, in seconds.
    pub time_to_first_token: Percentiles,
    /// Between one token and the next of the same generation, in seconds.
    pub inter_token_latency: Percentiles,
    /// New tokens after the first over the time they took; absent before a second token.
    pub tokens_per_second: Option<f64>,
    /// Computed prompt tokens over the time to the first token, image work included.
    pub prompt_tokens_per_second: Option<f64>,
    /// Images over the time to the first token of the generations that had images.
    pub images_per_second: Option<f64>,
    /// Energy of all GPUs during operations over new tokens, in joules; absent where no GPU tells.
    #[serde(default)]
    pub gpu_joules_per_token: Option<f64>,
    /// Counts per bucket of inter-token latency: upper bound in seconds, count.
    #[serde(default)]
    pub inter_token_histogram: Vec<(f64, u64)>,
}

/// Adds generations up.
#[derive(Debug)]
pub(crate) struct GenerationTotals {
    sums: GenerationMetrics,
    first_token: Durations,
    gaps: Durations,
    image_seconds: f64,
}

impl Default for GenerationTotals {
    fn default() -> Self {
        Self {
            sums: GenerationMetrics::default(),
            first_token: Durations::new(3),
            gaps: Durations::new(3),
            image_seconds: 0.0,
        }
    }
}

impl GenerationTotals {
    pub(crate) fn add(&mut self, trace: &GenerationTrace) {
        self.sums.generations += 1;
        self.sums.new_tokens += trace.new_tokens;
        self.sums.prompt_tokens += trace.prompt_tokens;
        self.sums.reused_tokens += trace.reused_tokens;
        self.sums.images += trace.images;
        if let Some(duration) = trace.time_to_first_token {
            self.first_token.record(duration);
            if trace.images > 0 {
                self.image_seconds += duration.as_secs_f64();
            }
        }
        trace.gaps.iter().for_each(|&gap| self.gaps.record(gap));
    }

    /// The totals so far; absent before the first generation.
    pub(crate) fn metrics(&self, gpu_joules: Option<f64>) -> Option<GenerationMetrics> {
        let rate = |amount: u64, seconds: f64| {
            (amount > 0 && seconds > 0.0).then(|| amount as f64 / seconds)
        };
        (self.sums.generations > 0).then(|| GenerationMetrics {
            time_to_first_token: self.first_token.percentiles(),
            inter_token_latency: self.gaps.percentiles(),
            tokens_per_second: rate(self.gaps.count(), self.gaps.total()),
            prompt_tokens_per_second: rate(self.sums.prompt_tokens, self.first_token.total()),
            images_per_second: rate(self.sums.images, self.image_seconds),
            gpu_joules_per_token: gpu_joules
                .filter(|_| self.sums.new_tokens > 0)
                .map(|joules| joules / self.sums.new_tokens as f64),
            inter_token_histogram: self.gaps.buckets(),
            ..self.sums.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_follow_from_the_trace() {
        let mut totals = GenerationTotals::default();
        assert_eq!(totals.metrics(None), None);
        let trace = GenerationTrace {
            prompt_tokens: 300,
            reused_tokens: 700,
            images: 2,
            new_tokens: 11,
            time_to_first_token: Some(Duration::from_millis(500)),
            gaps: vec![Duration::from_millis(20); 10],
            total: Duration::from_millis(700),
        };
        totals.add(&trace);
        totals.add(&GenerationTrace { images: 0, ..trace });
        let metrics = totals.metrics(Some(11.0)).unwrap();
        assert_eq!(
            (metrics.generations, metrics.new_tokens, metrics.inter_token_latency.count),
            (2, 22, 20)
        );
        let close =
            |found: Option<f64>, expected: f64| (found.unwrap() - expected).abs() < expected * 1e-9;
        assert!(close(metrics.tokens_per_second, 50.0), "{metrics:?}");
        assert!(
            close(metrics.prompt_tokens_per_second, 600.0),
            "reused tokens do not count: {metrics:?}"
        );
        assert!(
            close(metrics.images_per_second, 4.0),
            "only generations with images count: {metrics:?}"
        );
        assert!(close(metrics.gpu_joules_per_token, 0.5), "{metrics:?}");
    }

    #[test]
    fn a_generation_without_tokens_has_no_rates() {
        let mut totals = GenerationTotals::default();
        totals.add(&GenerationTrace { prompt_tokens: 5, ..GenerationTrace::default() });
        let metrics = totals.metrics(Some(3.0)).unwrap();
        assert_eq!((metrics.tokens_per_second, metrics.prompt_tokens_per_second), (None, None));
        assert_eq!(metrics.gpu_joules_per_token, None);
    }
}
