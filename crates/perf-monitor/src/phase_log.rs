//! Where phase events go: per phase a histogram, totals, and a ring of the latest events.
//!
//! Each phase has its own lock, so that a flood of decode steps neither waits for image threads nor pushes the one
//! `load` event out of the ring.

use std::{
    cell::Cell,
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    Phase, PhaseEvent,
    histogram::Durations,
    report::{EventReport, PhaseReport},
};

/// Names are kept for this many threads; later ones are numbered only.
const MAX_THREAD_NAMES: usize = 1024;

#[derive(Debug)]
pub(crate) struct PhaseLog {
    epoch: Instant,
    max_events: usize,
    slots: Vec<Mutex<Slot>>,
}

#[derive(Debug, Default)]
struct Slot {
    durations: Option<Durations>,
    units: u64,
    events: VecDeque<Event>,
}

/// An event as kept: 32 bytes.
#[derive(Debug, Clone, Copy)]
struct Event {
    start_nanoseconds: u64,
    nanoseconds: u64,
    units: u64,
    thread: u32,
}

impl PhaseLog {
    pub(crate) fn new(epoch: Instant, max_events: usize) -> Self {
        Self { epoch, max_events, slots: Phase::ALL.iter().map(|_| Mutex::default()).collect() }
    }

    pub(crate) fn record(&self, event: PhaseEvent) {
        let duration = event.end.saturating_duration_since(event.start);
        let kept = Event {
            start_nanoseconds: nanoseconds(event.start.saturating_duration_since(self.epoch)),
            nanoseconds: nanoseconds(duration),
            units: event.units,
            thread: thread_number(),
        };
        let mut slot = self.lock(event.phase);
        slot.durations.get_or_insert_with(|| Durations::new(3)).record(duration);
        slot.units += event.units;
        if self.max_events > 0 {
            if slot.events.len() == self.max_events {
                slot.events.pop_front();
            }
            slot.events.push_back(kept);
        }
    }

    /// Totals of every phase that occurred, in the order of [`Phase::ALL`].
    pub(crate) fn phases(&self) -> Vec<PhaseReport> {
        let phases = Phase::ALL.iter().filter_map(|&phase| {
            let slot = self.lock(phase);
            let durations = slot.durations.as_ref()?;
            let total_duration = durations.total();
            Some(PhaseReport {
                phase: phase.name().to_owned(),
                unit: phase.unit().to_owned(),
                units: slot.units,
                units_per_second: (slot.units > 0 && total_duration > 0.0)
                    .then(|| slot.units as f64 / total_duration),
                total_duration,
                durations: durations.percentiles(),
                histogram: durations.buckets(),
                events_omitted: durations.count() - slot.events.len() as u64,
            })
        });
        phases.collect()
    }

    /// The events still held, by start.
    pub(crate) fn events(&self) -> Vec<EventReport> {
        let mut events = Vec::new();
        for &phase in Phase::ALL {
            events.extend(self.lock(phase).events.iter().map(|event| EventReport {
                name: phase.name().to_owned(),
                start: event.start_nanoseconds as f64 * 1e-9,
                duration: event.nanoseconds as f64 * 1e-9,
                units: event.units,
                thread: event.thread,
            }));
        }
        events.sort_by(|a, b| a.start.total_cmp(&b.start));
        events
    }

    fn lock(&self, phase: Phase) -> MutexGuard<'_, Slot> {
        self.slots[phase as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A small number for the current thread, the same for the life of the process.
pub(crate) fn thread_number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    thread_local! {
        static NUMBER: Cell<u32> = const { Cell::new(0) };
    }
    // A thread that is being torn down has no storage left; it is numbered zero.
    NUMBER
        .try_with(|number| {
            if number.get() == 0 {
                number.set(NEXT.fetch_add(1, Ordering::Relaxed));
                remember_name(number.get());
            }
            number.get()
        })
        .unwrap_or(0)
}

/// Names of the threads met so far, by number.
pub(crate) fn thread_names() -> Vec<(u32, String)> {
    lock_names().clone()
}

fn remember_name(number: u32) {
    let mut names = lock_names();
    if names.len() < MAX_THREAD_NAMES {
        let thread = std::thread::current();
        names.push((
            number,
            thread.name().map_or_else(|| format!("thread {number}"), str::to_owned),
        ));
    }
}

fn lock_names() -> MutexGuard<'static, Vec<(u32, String)>> {
    static NAMES: Mutex<Vec<(u32, String)>> = Mutex::new(Vec::new());
    NAMES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_is_bounded_and_totals_are_not() {
        let epoch = Instant::now();
        let log = PhaseLog::new(epoch, 10);
        for n in 0..1000u64 {
            let start = epoch + Duration::from_millis(n);
            log.record(PhaseEvent::new(
                Phase::DecodeStep,
                start,
                start + Duration::from_micros(500),
                1,
            ));
        }
        log.record(PhaseEvent::new(Phase::Load, epoch, epoch + Duration::from_secs(1), 7));
        let phases = log.phases();
        assert_eq!(
            phases.iter().map(|p| p.phase.as_str()).collect::<Vec<_>>(),
            ["load", "decode_step"]
        );
        assert_eq!(
            (phases[1].durations.count, phases[1].units, phases[1].events_omitted),
            (1000, 1000, 990)
        );
        assert!((phases[1].total_duration - 0.5).abs() < 1e-9);
        assert!((phases[1].units_per_second.unwrap() - 2000.0).abs() < 1e-6);
        let events = log.events();
        assert_eq!(events.len(), 11);
        assert_eq!(events[0].name, "load");
        assert!((events[10].start - 0.999).abs() < 1e-9, "the latest are kept");
    }

    #[test]
    fn threads_have_numbers_of_their_own() {
        let here = thread_number();
        let there = std::thread::Builder::new()
            .name("other".into())
            .spawn(thread_number)
            .unwrap()
            .join()
            .unwrap();
        assert_ne!(here, there);
        assert_eq!(here, thread_number());
        assert!(thread_names().contains(&(there, "other".to_owned())));
    }
}
