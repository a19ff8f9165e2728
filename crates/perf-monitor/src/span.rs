//! A guard that reports a phase when it is dropped.

use std::{sync::Arc, time::Instant};

use crate::{Phase, PhaseEvent, Recorder, traced::Traced};

/// An open phase; dropping it reports the phase.
///
/// With the feature `tracing` it is a `tracing` span of level debug as well, with the target `perf_monitor` and the name
/// of the phase; the layer passes over those that a recorder took.
///
/// It is `Send`, so it may be held across an `.await` and end on another thread.
#[derive(Debug)]
#[must_use = "a span that is not kept ends at once"]
pub struct Span<'a> {
    /// Absent when the recorder keeps nothing: then neither start nor end reads the clock.
    open: Option<Open<'a>>,
    traced: Traced,
}

#[derive(Debug)]
struct Open<'a> {
    recorder: Handle<'a>,
    phase: Phase,
    start: Instant,
    units: u64,
}

#[derive(Debug)]
enum Handle<'a> {
    Borrowed(&'a dyn Recorder),
    Shared(Arc<dyn Recorder>),
}

impl<'a> Span<'a> {
    /// Opens `phase`, reporting to a borrowed recorder.
    #[inline]
    pub fn enter(recorder: &'a dyn Recorder, phase: Phase) -> Self {
        let open = recorder.enabled().then(|| Open {
            recorder: Handle::Borrowed(recorder),
            phase,
            start: Instant::now(),
            units: 0,
        });
        Self { traced: Traced::open(phase, open.is_some()), open }
    }

    /// Opens `phase`, keeping the recorder alive; for spans that outlive a borrow, such as those in a spawned task.
    #[inline]
    pub fn shared(recorder: &Arc<dyn Recorder>, phase: Phase) -> Span<'static> {
        let open = recorder.enabled().then(|| Open {
            recorder: Handle::Shared(Arc::clone(recorder)),
            phase,
            start: Instant::now(),
            units: 0,
        });
        Span { traced: Traced::open(phase, open.is_some()), open }
    }

    /// Adds to the number of work items that the phase covers, in [`Phase::unit`].
    #[inline]
    pub fn units(&mut self, units: u64) {
        if let Some(open) = &mut self.open {
            open.units += units;
        }
        self.traced.units(units);
    }

    /// Ends the span without reporting it, for work that turned out not to happen.
    pub fn cancel(mut self) {
        self.open = None;
    }
}

impl Drop for Span<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            let event = PhaseEvent::new(open.phase, open.start, Instant::now(), open.units);
            match open.recorder {
                Handle::Borrowed(recorder) => recorder.phase(event),
                Handle::Shared(recorder) => recorder.phase(event),
            }
        }
    }
}
