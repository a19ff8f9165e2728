//! The trait that stands between those who do the work and those who measure it.

use std::{fmt::Debug, sync::Arc, time::Instant};

use crate::{Counter, Gauge, GenerationTrace, Phase};

/// One phase, from its first to its last instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PhaseEvent {
    /// Which step it was.
    pub phase: Phase,
    /// When it began.
    pub start: Instant,
    /// When it ended.
    pub end: Instant,
    /// How many work items it covered, in [`Phase::unit`]; zero if unknown.
    pub units: u64,
}

impl PhaseEvent {
    /// Describes a phase that ran from `start` to `end` and covered `units` work items.
    pub const fn new(phase: Phase, start: Instant, end: Instant, units: u64) -> Self {
        Self { phase, start, end, units }
    }
}

/// Receives what the engine reports about itself.
///
/// A recorder never changes what the program does, and it is called from any thread. Callers hold an
/// `Arc<dyn Recorder>` or a `&dyn Recorder` and use [`Span`](crate::Span) for phases.
pub trait Recorder: Debug + Send + Sync {
    /// Whether events are kept; where not, callers skip reading the clock.
    fn enabled(&self) -> bool;

    /// Takes one finished phase.
    fn phase(&self, event: PhaseEvent);

    /// Adds `amount` to a counter.
    fn count(&self, counter: Counter, amount: u64);

    /// Sets a gauge to `value`.
    fn gauge(&self, gauge: Gauge, value: u64);

    /// Takes one finished generation; see [`GenerationTimer`](crate::GenerationTimer).
    fn generation(&self, trace: &GenerationTrace);
}

/// Keeps nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NullRecorder;

impl Recorder for NullRecorder {
    #[inline]
    fn enabled(&self) -> bool {
        false
    }

    #[inline]
    fn phase(&self, _event: PhaseEvent) {}

    #[inline]
    fn count(&self, _counter: Counter, _amount: u64) {}

    #[inline]
    fn gauge(&self, _gauge: Gauge, _value: u64) {}

    #[inline]
    fn generation(&self, _trace: &GenerationTrace) {}
}

impl<R: Recorder + ?Sized> Recorder for Arc<R> {
    #[inline]
    fn enabled(&self) -> bool {
        (**self).enabled()
    }

    #[inline]
    fn phase(&self, event: PhaseEvent) {
        (**self).phase(event);
    }

    #[inline]
    fn count(&self, counter: Counter, amount: u64) {
        (**self).count(counter, amount);
    }

    #[inline]
    fn gauge(&self, gauge: Gauge, value: u64) {
        (**self).gauge(gauge, value);
    }

    #[inline]
    fn generation(&self, trace: &GenerationTrace) {
        (**self).generation(trace);
    }
}
