//! What gives memory back when it is scarce.

use std::{
    fmt,
    sync::{Arc, Mutex, Weak},
};

/// Something that holds memory it could do without: a cache.
pub trait Shrink: Send + Sync {
    /// Frees about `target_bytes`, or all it can where it holds less, and returns how many bytes it freed.
    ///
    /// What somebody uses at this moment is kept, and does not count. It runs on the thread that called
    /// [`MemoryTracker::relieve`](super::MemoryTracker::relieve) and must not call the tracker back.
    fn shrink(&self, target_bytes: u64) -> u64;
}

/// The caches that may be asked; those that are gone are forgotten.
#[derive(Default)]
pub(crate) struct Shrinkers(Mutex<Vec<Weak<dyn Shrink>>>);

impl Shrinkers {
    pub(crate) fn push(&self, cache: Weak<dyn Shrink>) {
        super::lock(&self.0).push(cache);
    }

    /// Asks one after the other, in the order in which they came, until `target_bytes` are freed.
    pub(crate) fn shrink(&self, target_bytes: u64) -> u64 {
        // Asked without the lock, so that a cache may be registered meanwhile.
        let caches: Vec<Arc<dyn Shrink>> = {
            let mut registered = super::lock(&self.0);
            registered.retain(|cache| cache.strong_count() > 0);
            registered.iter().filter_map(Weak::upgrade).collect()
        };
        let mut freed = 0u64;
        for cache in caches {
            if freed >= target_bytes {
                break;
            }
            freed = freed.saturating_add(cache.shrink(target_bytes - freed));
        }
        freed
    }
}

impl fmt::Debug for Shrinkers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shrinkers").field(&super::lock(&self.0).len()).finish()
    }
}
