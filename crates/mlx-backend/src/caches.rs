//! What is kept between requests: preprocessed images, features of the vision tower, beginnings of
//! prompts, and models.
//!
//! | cache | from | to | lives |
//! |---|---|---|---|
//! | images | content of the file, processor, size after resizing | patches | in host memory |
//! | features | key of the image, model | output of the tower | on the MLX thread |
//! | prefixes | tokens and keys of images, model | keys and values of the decoder | on the MLX thread |
//! | models | files of the checkpoint, options | weights, tokenizer, template | with its leases |
//! | disk | as features and prefixes | the same | in files, if asked for |
//!
//! A key is a hash of everything that the value depends on (see `digest.rs`), never a path or a
//! name: a file that is replaced, an image of the same size and an edited turn are other keys.

mod byte_cache;
mod counters;
mod device;
mod digest;
mod disk;
mod identity;
mod models;
mod prefix_tree;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use perf_monitor::{Counter, Gauge, Recorder, Shrink};
use serde::Serialize;
use vision_preproc::Patches;

pub(crate) use self::{
    byte_cache::ByteCache,
    device::DeviceCaches,
    digest::Digest,
    identity::{
        adapted_identity, encoded_content, image_key, model_identity, processor_identity,
        prompt_identity, reader_identity, rgb_content, video_content, video_key,
        weight_file_identity,
    },
    models::{Lease, ModelCache, ModelKey, SharedModel},
    prefix_tree::Unit,
};
pub use self::{counters::CacheStats, disk::DiskCache};
use self::{counters::Counters, disk::DiskTier};
use crate::{Result, engine, memory};

const MIB: u64 = 1 << 20;

/// How much each cache may hold; 0 switches one off.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheLimits {
    /// Bytes of preprocessed images; a photo at the usual limit of one megapixel takes 12 MB.
    pub image_bytes: u64,
    /// Bytes of features of the vision tower; such a photo takes 5 MB in a 3B model.
    pub feature_bytes: u64,
    /// Bytes of keys and values of prompts; a thousand tokens take 37 MB in a 3B model.
    pub prefix_bytes: u64,
    /// Most models kept, those in use included.
    pub models: usize,
    /// Bytes of weights kept, those in use included; a model in use is never dropped.
    pub model_bytes: u64,
    /// How long a model that nobody uses is kept; `None` keeps it until its place is needed.
    pub keep_alive: Option<Duration>,
    /// Where features and prefixes are kept beyond the process; `None` keeps them nowhere.
    pub disk: Option<DiskCache>,
}

impl Default for CacheLimits {
    /// 256 MiB of images, 256 MiB of features, 1 GiB of prefixes; three models for five minutes
    /// after their last use, of any size.
    fn default() -> Self {
        Self {
            image_bytes: 256 * MIB,
            feature_bytes: 256 * MIB,
            prefix_bytes: 1024 * MIB,
            models: 3,
            model_bytes: u64::MAX,
            keep_alive: Some(Duration::from_secs(300)),
            disk: None,
        }
    }
}

impl CacheLimits {
    /// Returns limits that keep nothing: every request starts from the file.
    #[must_use]
    pub fn none() -> Self {
        Self {
            image_bytes: 0,
            feature_bytes: 0,
            prefix_bytes: 0,
            models: 0,
            model_bytes: 0,
            keep_alive: Some(Duration::ZERO),
            disk: None,
        }
    }
}

/// What all caches did and hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CacheReport {
    /// Preprocessed images.
    pub images: CacheStats,
    /// Features of the vision tower.
    pub features: CacheStats,
    /// Beginnings of prompts, in blocks; a lookup is one request.
    pub prefixes: CacheStats,
    /// Models.
    pub models: CacheStats,
    /// Features and prefixes in files; a lookup is one file.
    pub disk: CacheStats,
}

/// The caches of one or several providers, to be shared by reference.
///
/// ```
/// use mlx_backend::{CacheLimits, Caches, MlxOptions};
///
/// let mut limits = CacheLimits::default();
/// limits.prefix_bytes = 4 << 30;
/// let options = MlxOptions { caches: Caches::new(limits), ..MlxOptions::default() };
/// assert_eq!(options.caches.report().prefixes.limit_bytes, 4 << 30);
/// ```
pub struct Caches {
    id: u64,
    limits: CacheLimits,
    pub(crate) images: ByteCache<Arc<Patches>>,
    features: Arc<Counters>,
    prefixes: Arc<Counters>,
    pub(crate) models: Arc<ModelCache>,
    disk: Option<Arc<DiskTier>>,
    /// Evictions that a recorder has been told of.
    counted_evictions: AtomicU64,
}

impl Caches {
    /// Returns caches that are empty, but for what is on disk.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if the folder of [`CacheLimits::disk`] cannot be made.
    pub fn open(limits: CacheLimits) -> Result<Arc<Self>> {
        let disk = limits.disk.as_ref().map(DiskTier::open).transpose()?;
        Ok(Self::with(limits, disk.map(Arc::new)))
    }

    /// Returns empty caches in memory; [`CacheLimits::disk`] is left aside.
    #[must_use]
    pub fn new(limits: CacheLimits) -> Arc<Self> {
        Self::with(CacheLimits { disk: None, ..limits }, None)
    }

    fn with(limits: CacheLimits, disk: Option<Arc<DiskTier>>) -> Arc<Self> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let caches = Arc::new(Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            images: ByteCache::new(limits.image_bytes, Arc::default()),
            features: Arc::default(),
            prefixes: Arc::default(),
            models: Arc::new(ModelCache::new(&limits)),
            disk,
            counted_evictions: AtomicU64::new(0),
            limits,
        });
        memory::tracker().register(&caches);
        caches
    }

    /// Returns the caches of this process, with the default limits: those of a provider that is
    /// given no others.
    #[must_use]
    pub fn shared() -> Arc<Self> {
        static SHARED: OnceLock<Arc<Caches>> = OnceLock::new();
        SHARED.get_or_init(|| Self::new(CacheLimits::default())).clone()
    }

    /// Returns the limits.
    #[must_use]
    pub fn limits(&self) -> &CacheLimits {
        &self.limits
    }

    /// Returns what the caches did so far and hold now.
    #[must_use]
    pub fn report(&self) -> CacheReport {
        CacheReport {
            images: self.images.stats(),
            features: self.features.stats(self.limits.feature_bytes),
            prefixes: self.prefixes.stats(self.limits.prefix_bytes),
            models: self.models.stats(),
            disk: self.disk.as_ref().map(|disk| disk.stats()).unwrap_or_default(),
        }
    }

    /// Tells `recorder` what the caches hold, and of the evictions that no recorder was told of.
    pub(crate) fn report_to(&self, recorder: &dyn Recorder) {
        let CacheReport { images, features, prefixes, models, disk } = self.report();
        recorder.gauge(Gauge::ImageCacheBytes, images.bytes);
        recorder.gauge(Gauge::FeatureCacheBytes, features.bytes);
        recorder.gauge(Gauge::KvCacheBytes, prefixes.bytes);
        let all = [images, features, prefixes, models, disk];
        let evictions = all.iter().map(|stats| stats.evictions).sum();
        let counted = self.counted_evictions.fetch_max(evictions, Ordering::Relaxed);
        recorder.count(Counter::CacheEvictions, evictions.saturating_sub(counted));
    }

    /// Waits until everything meant for the disk is there.
    pub fn flush(&self) {
        if let Some(disk) = &self.disk {
            disk.flush();
        }
    }

    /// Drops everything in memory that nobody uses; waits for the MLX thread's current step.
    ///
    /// # Errors
    /// If the MLX thread is gone.
    pub fn clear(&self) -> Result<()> {
        self.images.shrink_to(0);
        self.models.unload_idle();
        let id = self.id;
        engine::call(move || {
            DeviceCaches::shrink(id, 0, 0);
            let _ = mlx_rs::memory::clear_cache();
        })
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Returns the part of these caches that lives on the MLX thread, empty.
    pub(crate) fn new_device_caches(&self) -> DeviceCaches {
        let counters = [self.features.clone(), self.prefixes.clone()];
        DeviceCaches::new(&self.limits, counters, self.disk.clone())
    }
}

impl Shrink for Caches {
    /// Images and features go first, then prefixes, which take longest to make again, and last the
    /// models that nobody uses. To be called on the MLX thread, as `memory::relieve` is.
    fn shrink(&self, target_bytes: u64) -> u64 {
        let held = |report: CacheReport| {
            [report.images, report.features, report.prefixes, report.models].map(|s| s.bytes)
        };
        let before = held(self.report());
        let [images, features, prefixes, _] = before;
        let mut missing = target_bytes;
        let mut left = |bytes: u64| {
            let left = bytes.saturating_sub(missing);
            missing -= bytes - left;
            left
        };
        let (images, features, prefixes) = (left(images), left(features), left(prefixes));
        self.images.shrink_to(images);
        DeviceCaches::shrink(self.id, features, prefixes);
        if missing > 0 {
            self.models.unload_idle();
        }
        let after = held(self.report());
        before.iter().zip(after).map(|(before, after)| before.saturating_sub(after)).sum()
    }
}

impl Drop for Caches {
    fn drop(&mut self) {
        let id = self.id;
        engine::later(move || DeviceCaches::forget(id));
    }
}

impl fmt::Debug for Caches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caches").field("limits", &self.limits).finish_non_exhaustive()
    }
}
