//! Power of Apple GPUs through macmon, which reads the counters of IOReport; no privileges are needed.
//!
//! A look lasts as long as the time it measures, so a thread looks all the time and keeps what it saw. It ends soon
//! after the meter is dropped.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    thread,
    time::Instant,
};

/// How long a look lasts: no longer than the time between two readings of the monitor.
const LOOK_MILLISECONDS: u32 = 200;

/// What the thread has seen so far.
#[derive(Debug, Default)]
pub(super) struct PowerMeter {
    seen: Arc<Mutex<Power>>,
}

/// Absent before the first look, and where there are no counters.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Power {
    /// Mean of the last look.
    pub(super) watts: Option<f64>,
    /// Since the meter was started.
    pub(super) joules: Option<f64>,
}

impl PowerMeter {
    pub(super) fn start() -> Self {
        let meter = Self::default();
        let seen = Arc::downgrade(&meter.seen);
        // Without a thread there are no readings, as on a machine without counters.
        let _ = thread::Builder::new().name("perf-power".to_owned()).spawn(move || watch(&seen));
        meter
    }

    pub(super) fn read(&self) -> Power {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn watch(seen: &Weak<Mutex<Power>>) {
    let Ok(mut sampler) = macmon::Sampler::new() else { return };
    let mut last = Instant::now();
    while let Ok(metrics) = sampler.get_metrics(LOOK_MILLISECONDS) {
        let Some(seen) = seen.upgrade() else { return };
        let now = Instant::now();
        let watts = f64::from(metrics.gpu_power);
        let joules = watts * now.duration_since(last).as_secs_f64();
        last = now;
        let mut power = seen.lock().unwrap_or_else(PoisonError::into_inner);
        *power =
            Power { watts: Some(watts), joules: Some(power.joules.unwrap_or_default() + joules) };
    }
}
