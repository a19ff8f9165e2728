//! A cache of values by digest, bounded in bytes.

use std::{fmt, sync::Arc};

use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter, sync::Cache};

use super::{
    counters::{CacheStats, Counters},
    digest::Digest,
};

/// Share of the limit that one entry may take; `quick_cache` keeps the rest for newcomers.
const LARGEST_ENTRY: f64 = 0.97;

/// Values by digest, at most `limit` bytes of them; the least useful leave first.
///
/// One shard, so that the limit is one limit and not one for each shard.
pub(crate) struct ByteCache<V: Clone> {
    cache: Cache<Digest, Sized<V>, ByBytes, DefaultHashBuilder, CountEvictions>,
    counters: Arc<Counters>,
    limit: u64,
}

#[derive(Clone)]
struct Sized<V> {
    value: V,
    bytes: u64,
}

#[derive(Clone)]
struct ByBytes;

impl<V> Weighter<Digest, Sized<V>> for ByBytes {
    fn weight(&self, _: &Digest, entry: &Sized<V>) -> u64 {
        // Entries without weight are never evicted.
        entry.bytes.max(1)
    }
}

#[derive(Clone)]
struct CountEvictions(Arc<Counters>);

impl<V> Lifecycle<Digest, Sized<V>> for CountEvictions {
    type RequestState = ();

    fn begin_request(&self) {}

    fn on_evict(&self, (): &mut (), _: Digest, _: Sized<V>) {
        self.0.evict(1);
    }
}

impl<V: Clone> ByteCache<V> {
    /// Returns an empty cache of at most `limit` bytes; one of 0 bytes keeps nothing.
    pub(crate) fn new(limit: u64, counters: Arc<Counters>) -> Self {
        let options = OptionsBuilder::new()
            .shards(1)
            .estimated_items_capacity(64)
            .weight_capacity(limit.max(1))
            .hot_allocation(LARGEST_ENTRY)
            .build()
            .expect("all options are set");
        let lifecycle = CountEvictions(counters.clone());
        let cache = Cache::with_options(options, ByBytes, DefaultHashBuilder::default(), lifecycle);
        Self { cache, counters, limit }
    }

    /// Returns the value of `key`, and counts whether there was one.
    pub(crate) fn get(&self, key: &Digest) -> Option<V> {
        let found = self.cache.get(key);
        self.counters.lookup(found.is_some());
        found.map(|entry| entry.value)
    }

    /// Keeps a value of `bytes` bytes, unless it alone would fill the cache.
    pub(crate) fn insert(&self, key: Digest, value: V, bytes: u64) {
        if bytes as f64 > self.limit as f64 * LARGEST_ENTRY {
            self.counters.refuse();
            return;
        }
        self.cache.insert(key, Sized { value, bytes });
        self.update();
    }

    /// Drops entries until at most `bytes` are held; the limit stays.
    pub(crate) fn shrink_to(&self, bytes: u64) {
        self.cache.set_capacity(bytes.min(self.limit).max(1));
        self.cache.set_capacity(self.limit.max(1));
        self.update();
    }

    pub(crate) fn stats(&self) -> CacheStats {
        self.counters.stats(self.limit)
    }

    fn update(&self) {
        self.counters.holds(self.cache.len() as u64, self.cache.weight());
    }
}

impl<V: Clone> fmt::Debug for ByteCache<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ByteCache").field(&self.stats()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(i: u64) -> Digest {
        Digest::of("test", &[&i.to_le_bytes()])
    }

    fn cache(limit: u64) -> ByteCache<u64> {
        ByteCache::new(limit, Arc::default())
    }

    #[test]
    fn it_never_holds_more_than_its_limit_and_the_counts_add_up() {
        let cache = cache(1000);
        for i in 0..1000 {
            assert_eq!(cache.get(&key(i)), None);
            cache.insert(key(i), i, 10 + i % 90);
            assert!(cache.stats().bytes <= 1000, "{:?}", cache.stats());
        }
        let stats = cache.stats();
        assert_eq!((stats.hits, stats.misses, stats.refused), (0, 1000, 0));
        assert_eq!(stats.entries + stats.evictions, 1000, "{stats:?}");
        assert!(stats.bytes > 800, "{stats:?}");
        let held: Vec<u64> = (0..1000).filter_map(|i| cache.get(&key(i))).collect();
        assert_eq!(held.len() as u64, stats.entries);
    }

    #[test]
    fn what_is_used_again_stays() {
        let cache = cache(1000);
        cache.insert(key(0), 0, 100);
        for i in 1..500 {
            assert_eq!(cache.get(&key(0)), Some(0), "after {i}");
            cache.insert(key(i), i, 100);
        }
    }

    #[test]
    fn an_entry_that_is_too_large_is_refused_and_harms_nobody() {
        let cache = cache(100);
        cache.insert(key(0), 0, 50);
        cache.insert(key(1), 1, 101);
        let stats = cache.stats();
        assert_eq!((stats.refused, stats.entries, stats.bytes, stats.evictions), (1, 1, 50, 0));
        assert_eq!((cache.get(&key(0)), cache.get(&key(1))), (Some(0), None));
        let nothing = self::cache(0);
        nothing.insert(key(0), 0, 1);
        assert_eq!((nothing.get(&key(0)), nothing.stats().refused), (None, 1));
    }

    #[test]
    fn shrinking_drops_entries_and_keeps_the_limit() {
        let cache = cache(1000);
        (0..10).for_each(|i| cache.insert(key(i), i, 90));
        cache.shrink_to(300);
        assert!(cache.stats().bytes <= 300, "{:?}", cache.stats());
        (10..20).for_each(|i| cache.insert(key(i), i, 90));
        assert!(cache.stats().bytes > 800, "{:?}", cache.stats());
        cache.shrink_to(0);
        assert_eq!((cache.stats().entries, cache.stats().bytes), (0, 0));
    }
}
