//! A caller's recorder, whose panics go no further. It is called while answers are made, and from the ends of
//! spans, where a second panic would end the process.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use perf_monitor::{Counter, Gauge, GenerationTrace, PhaseEvent, Recorder};

use crate::engine::caught;

/// Passes everything on until the recorder panics, and nothing from then on.
#[derive(Debug)]
pub(crate) struct Contained {
    recorder: Arc<dyn Recorder>,
    panicked: AtomicBool,
}

impl Contained {
    /// Wraps `recorder`.
    pub(crate) fn wrap(recorder: Arc<dyn Recorder>) -> Arc<dyn Recorder> {
        Arc::new(Self { recorder, panicked: AtomicBool::new(false) })
    }

    fn tell<T>(&self, what: impl FnOnce(&dyn Recorder) -> T) -> Option<T> {
        if self.panicked.load(Ordering::Relaxed) {
            return None;
        }
        let told = caught(|| what(&*self.recorder));
        told.map_err(|message| {
            self.panicked.store(true, Ordering::Relaxed);
            tracing::error!(message, "the recorder failed and is told nothing more");
        })
        .ok()
    }
}

impl Recorder for Contained {
    fn enabled(&self) -> bool {
        self.tell(|recorder| recorder.enabled()).unwrap_or(false)
    }

    fn phase(&self, event: PhaseEvent) {
        self.tell(|recorder| recorder.phase(event));
    }

    fn count(&self, counter: Counter, amount: u64) {
        self.tell(|recorder| recorder.count(counter, amount));
    }

    fn gauge(&self, gauge: Gauge, value: u64) {
        self.tell(|recorder| recorder.gauge(gauge, value));
    }

    fn generation(&self, trace: &GenerationTrace) {
        self.tell(|recorder| recorder.generation(trace));
    }
}
