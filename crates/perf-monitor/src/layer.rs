//! Feeds a monitor from `tracing` spans (feature `tracing`).

use std::time::Instant;

use tracing::{
    Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

use crate::{OperationGuard, PerformanceMonitor, Phase, PhaseEvent, Recorder};

/// A `tracing_subscriber` layer that turns spans into phases and operations.
///
/// - A span named after a phase (such as `resize`, see [`Phase::name`]) is that phase, from its creation to its close;
///   its unsigned fields `units`, `tokens`, `bytes`, `pixels` and `patches` are added up as its work items.
/// - A span with a field `operation` is an operation, named by the field's text or, if that is no text, by the span.
///
/// A [`Span`](crate::Span) is such a span too. Where its recorder keeps phases, the layer leaves them to it; where it
/// is a [`NullRecorder`](crate::NullRecorder), the layer takes them. So each phase counts once in either arrangement.
///
/// ```
/// use perf_monitor::{MonitorLayer, PerformanceMonitor};
/// use tracing_subscriber::prelude::*;
///
/// let monitor = PerformanceMonitor::default();
/// let subscriber = tracing_subscriber::registry().with(MonitorLayer::new(monitor.clone()));
/// tracing::subscriber::with_default(subscriber, || {
///     let _operation = tracing::info_span!("describe", operation = "describe an image").entered();
///     let _phase = tracing::debug_span!("resize", pixels = 4096u64).entered();
/// });
/// let report = monitor.report();
/// assert_eq!(report.operations[0].name, "describe an image");
/// assert_eq!(report.phases[0].units, 4096);
/// ```
#[derive(Debug, Clone)]
pub struct MonitorLayer {
    monitor: PerformanceMonitor,
}

impl MonitorLayer {
    /// Makes a layer that feeds `monitor`.
    pub fn new(monitor: PerformanceMonitor) -> Self {
        Self { monitor }
    }
}

/// What the layer keeps with a span.
struct Kept {
    phase: Option<(Phase, Instant)>,
    units: u64,
    /// Dropped with the span, which ends the operation.
    _operation: Option<OperationGuard>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for MonitorLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let metadata = attributes.metadata();
        let phase = Phase::from_name(metadata.name());
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let operation = metadata.fields().field("operation").is_some();
        if (phase.is_none() || fields.recorded) && !operation {
            return;
        }
        let operation = operation.then(|| {
            self.monitor.monitor(fields.operation.unwrap_or_else(|| metadata.name().to_owned()))
        });
        if let Some(span) = context.span(id) {
            let phase = phase.map(|phase| (phase, Instant::now()));
            span.extensions_mut().insert(Kept {
                phase,
                units: fields.units,
                _operation: operation,
            });
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        values.record(&mut fields);
        if let Some(span) = context.span(id)
            && let Some(kept) = span.extensions_mut().get_mut::<Kept>()
        {
            kept.units += fields.units;
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let end = Instant::now();
        let kept = context.span(&id).and_then(|span| span.extensions_mut().remove::<Kept>());
        if let Some(Kept { phase: Some((phase, start)), units, .. }) = kept {
            self.monitor.phase(PhaseEvent::new(phase, start, end, units));
        }
    }
}

#[derive(Default)]
struct Fields {
    units: u64,
    /// A recorder has this phase already.
    recorded: bool,
    operation: Option<String>,
}

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if matches!(field.name(), "units" | "tokens" | "bytes" | "pixels" | "patches") {
            self.units += value;
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.recorded |= value && field.name() == "recorded";
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        if let Ok(value) = u64::try_from(value) {
            self.record_u64(field, value);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "operation" {
            self.operation = Some(value.to_owned());
        }
    }

    fn record_debug(&mut self, _field: &Field, _value: &dyn std::fmt::Debug) {}
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::prelude::*;

    use super::*;

    #[test]
    fn spans_become_phases_and_operations() {
        let monitor = PerformanceMonitor::default();
        let subscriber = tracing_subscriber::registry().with(MonitorLayer::new(monitor.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let outer = tracing::info_span!("request", operation = true);
            let phase = tracing::debug_span!(
                "prefill_new",
                tokens = 10u64,
                other = 99u64,
                units = tracing::field::Empty
            );
            phase.record("units", 5);
            drop(phase);
            tracing::info_span!("of no interest", tokens = 7u64).in_scope(|| {});
            // A span that moves to another thread still counts once.
            std::thread::spawn(move || outer.in_scope(|| {})).join().unwrap();
        });
        let report = monitor.report();
        assert_eq!(
            report.operations.iter().map(|o| o.name.as_str()).collect::<Vec<_>>(),
            ["request"]
        );
        let phases: Vec<_> =
            report.phases.iter().map(|p| (p.phase.as_str(), p.units, p.durations.count)).collect();
        assert_eq!(phases, [("prefill_new", 15, 1)]);
    }

    #[test]
    fn every_phase_is_a_span_of_its_name_and_counts_once() {
        use crate::{NullRecorder, Span};
        let monitor = PerformanceMonitor::default();
        let subscriber = tracing_subscriber::registry().with(MonitorLayer::new(monitor.clone()));
        tracing::subscriber::with_default(subscriber, || {
            for &phase in Phase::ALL {
                Span::enter(&NullRecorder, phase).units(3);
                Span::enter(&monitor, phase).units(4);
            }
        });
        let phases: Vec<_> = monitor
            .report()
            .phases
            .iter()
            .map(|p| (p.phase.clone(), p.units, p.durations.count))
            .collect();
        let expected: Vec<_> =
            Phase::ALL.iter().map(|phase| (phase.name().to_owned(), 7, 2)).collect();
        assert_eq!(phases, expected);
    }
}
