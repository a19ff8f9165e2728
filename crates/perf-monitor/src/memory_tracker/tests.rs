use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::{MemoryPressure::*, *};

const MARKS: MemoryThreshold = MemoryThreshold::Marks { high: 0.85, critical: 0.95 };

fn pressure(threshold: MemoryThreshold, used: u64, own: u64) -> MemoryPressure {
    threshold.pressure(View { used, own, limit: 100 })
}

#[test]
fn pressure_rises_with_use() {
    let fraction = MemoryThreshold::Fraction(0.8);
    for (available, expected) in
        [(100, Normal), (21, Normal), (20, High), (10, High), (9, Critical), (0, Critical)]
    {
        assert_eq!(pressure(fraction, 100 - available, 0), expected, "{available} available");
    }
    let bytes = MemoryThreshold::Bytes(40);
    for (own, expected) in [(39, Normal), (40, High), (70, High), (71, Critical), (200, Critical)] {
        assert_eq!(pressure(bytes, 0, own), expected, "{own} used");
    }
    let beyond = MemoryThreshold::Bytes(200);
    assert_eq!(pressure(beyond, 100, 150), Normal, "a threshold beyond the limit");
    for (used, expected) in [(84, Normal), (85, High), (94, High), (95, Critical)] {
        assert_eq!(pressure(MARKS, used, 0), expected, "{used} used");
    }
    assert_eq!(MemoryThreshold::default(), MARKS);
}

/// Memory that a test sets: what is used, of 1000.
#[derive(Clone, Default)]
struct Machine {
    used: Arc<AtomicU64>,
    reads: Arc<AtomicU64>,
}

impl Machine {
    fn using(bytes: u64) -> Self {
        let this = Self::default();
        this.used.store(bytes, Relaxed);
        this
    }

    fn tracker(&self, interval: Duration) -> MemoryTracker {
        let this = self.clone();
        MemoryTracker::with_probe(MARKS, interval, move || {
            this.reads.fetch_add(1, Relaxed);
            let used = this.used.load(Relaxed);
            MemoryFigures::new(used / 2, 1000 - used, 1000)
        })
    }

    fn cache(&self, bytes: u64, in_use: u64) -> Arc<Cache> {
        Arc::new(Cache { machine: self.clone(), bytes: bytes.into(), in_use, asked: 0.into() })
    }
}

/// Gives back in tens, and never what is in use.
struct Cache {
    machine: Machine,
    bytes: AtomicU64,
    in_use: u64,
    asked: AtomicU64,
}

impl Shrink for Cache {
    fn shrink(&self, target_bytes: u64) -> u64 {
        self.asked.store(target_bytes, Relaxed);
        let free = self.bytes.load(Relaxed) - self.in_use;
        let freed = target_bytes.div_ceil(10).saturating_mul(10).min(free);
        self.bytes.fetch_sub(freed, Relaxed);
        self.machine.used.fetch_sub(freed, Relaxed);
        freed
    }
}

#[test]
fn below_the_mark_nobody_is_asked() {
    let machine = Machine::using(849);
    let tracker = machine.tracker(Duration::ZERO);
    let cache = machine.cache(500, 0);
    tracker.register(&cache);
    assert_eq!(tracker.relieve(), Relief::default());
    assert_eq!(cache.bytes.load(Relaxed), 500);
}

#[test]
fn at_the_high_mark_caches_give_back_in_order_until_it_is_enough() {
    let machine = Machine::using(860);
    let tracker = machine.tracker(Duration::ZERO);
    let caches = [machine.cache(60, 0), machine.cache(300, 0), machine.cache(100, 0)];
    caches.iter().for_each(|cache| tracker.register(cache));
    // From 860 to nine tenths of 850.
    let expected = Relief { pressure: High, asked_bytes: 860 - 765, freed_bytes: 100 };
    assert_eq!(tracker.relieve(), expected);
    assert_eq!(caches.each_ref().map(|c| c.bytes.load(Relaxed)), [0, 260, 100]);
    assert_eq!(caches.each_ref().map(|c| c.asked.load(Relaxed)), [95, 35, 0]);
    assert_eq!(tracker.check(), Normal, "what is read after that is new");
}

#[test]
fn at_the_critical_mark_all_give_everything_that_is_not_in_use() {
    let machine = Machine::using(950);
    let tracker = machine.tracker(Duration::ZERO);
    let caches = [machine.cache(60, 20), machine.cache(300, 0)];
    caches.iter().for_each(|cache| tracker.register(cache));
    let relief = tracker.relieve();
    assert_eq!((relief.pressure, relief.freed_bytes), (Critical, 340));
    assert_eq!(caches.each_ref().map(|c| c.bytes.load(Relaxed)), [20, 0]);
}

#[test]
fn it_looks_and_asks_once_per_interval() {
    let machine = Machine::using(900);
    let tracker = machine.tracker(Duration::from_secs(3600));
    // In use, so that pressure stays.
    let cache = machine.cache(100, 100);
    tracker.register(&cache);
    assert_eq!(tracker.relieve().asked_bytes, 900 - 765);
    for _ in 0..10 {
        let again = tracker.relieve();
        assert_eq!((again.pressure, again.asked_bytes), (High, 0));
    }
    // One look before the caches were asked, one after.
    assert_eq!(machine.reads.load(Relaxed), 2);
}

#[test]
fn a_cache_that_is_gone_is_forgotten() {
    let machine = Machine::using(900);
    let tracker = machine.tracker(Duration::ZERO);
    let (gone, here) = (machine.cache(200, 0), machine.cache(10, 0));
    tracker.register(&gone);
    tracker.register(&here);
    drop(gone);
    assert_eq!(tracker.reclaim(5), 10);
    assert!(format!("{tracker:?}").contains("Shrinkers(1)"), "{tracker:?}");
}

#[test]
fn the_device_and_the_own_limit_count() {
    let machine = Machine::using(100);
    let on_device = Arc::new(AtomicU64::new(0));
    let bytes = on_device.clone();
    let tracker = machine.tracker(Duration::ZERO).with_device(move || bytes.load(Relaxed));
    assert_eq!((tracker.reading().used, tracker.check()), (50, Normal));
    on_device.store(90, Relaxed);
    assert_eq!((tracker.reading().used, tracker.check()), (90, Normal));
    tracker.limit_own_use(100);
    assert_eq!(tracker.check(), High);
    tracker.limit_own_use(200);
    assert_eq!(tracker.check(), High, "the smaller limit stays");
    on_device.store(96, Relaxed);
    assert_eq!(tracker.check(), Critical);
}
