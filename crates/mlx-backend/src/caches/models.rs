//! Models that are loaded, each with the leases of those who use it.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    thread,
    time::{Duration, Instant, SystemTime},
};

use vision_preproc::VideoProcessor;

use super::{CacheLimits, CacheStats, Digest, counters::Counters};
use crate::{
    Error, Result, chat::ChatTemplate, engine::LoadedModel, grammar::Grammars, guard::Setting,
    image_reader::ImageReader, tokenizer::Tokenizer,
};

/// Everything of a checkpoint that requests share.
#[derive(Debug)]
pub(crate) struct SharedModel {
    /// What it is, whatever its name: the key of what is computed with it.
    pub(crate) identity: Digest,
    /// The image processor, likewise.
    pub(crate) processor_identity: Digest,
    /// What the guard must know of it.
    pub(crate) setting: Setting,
    pub(crate) loaded: LoadedModel,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) template: ChatTemplate,
    /// `None` where the checkpoint has no image processor: the model reads text only.
    pub(crate) reader: Option<ImageReader>,
    /// `None` where the model reads no videos, or its template shows none.
    pub(crate) videos: Option<VideoProcessor>,
    pub(crate) stop_tokens: Arc<BTreeSet<u32>>,
    /// The forms that answers are held to.
    pub(crate) grammars: Grammars,
}

/// Where a model comes from, cheaply read: paths, lengths and times of change of its files, and the
/// options that it is loaded with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelKey {
    path: PathBuf,
    files: Vec<(PathBuf, u64, SystemTime)>,
    options: String,
}

impl ModelKey {
    /// Looks at the files in the folder `path`, or at the file there.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read.
    pub(crate) fn of(path: &Path, options: String) -> Result<Self> {
        let read = || -> io::Result<Self> {
            let path = path.canonicalize()?;
            let mut paths = vec![path.clone()];
            if path.is_dir() {
                let entries = fs::read_dir(&path)?.map(|entry| Ok(entry?.path()));
                paths = entries.collect::<io::Result<_>>()?;
            }
            let mut files = Vec::new();
            for path in paths {
                // Through links: the hub's cache links to files named by their content.
                let Ok(metadata) = fs::metadata(&path) else { continue };
                if metadata.is_file() {
                    files.push((path, metadata.len(), metadata.modified()?));
                }
            }
            files.sort();
            Ok(Self { path, files, options })
        };
        read().map_err(|source| Error::Io { action: "read", path: path.to_owned(), source })
    }

    /// Returns a file of the checkpoint that is not what it was when this was made: changed, removed or new.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub(crate) fn changed_since(&self) -> Result<Option<PathBuf>> {
        let now = Self::of(&self.path, String::new())?;
        let only = |these: &Self, those: &Self| {
            let mut files = these.files.iter().filter(|file| !those.files.contains(file));
            let is_read = |path: &Path| {
                let read = ["safetensors", "json", "jinja"];
                path == self.path || read.iter().any(|e| path.extension() == Some(e.as_ref()))
            };
            files.find(|(path, ..)| is_read(path)).map(|(path, ..)| path.clone())
        };
        Ok(only(&now, self).or_else(|| only(self, &now)))
    }

    /// Returns the bytes of the weight files.
    pub(crate) fn weight_bytes(&self) -> u64 {
        let is_weights =
            |path: &Path| path == self.path || path.extension().is_some_and(|e| e == "safetensors");
        self.files.iter().filter(|(path, ..)| is_weights(path)).map(|(_, bytes, _)| bytes).sum()
    }
}

/// Loaded models, at most so many of at most so many bytes; one in use is never dropped.
#[derive(Debug)]
pub(crate) struct ModelCache {
    books: Mutex<Books>,
    counters: Counters,
    most: usize,
    limit: u64,
    keep_alive: Option<Duration>,
}

#[derive(Debug, Default)]
struct Books {
    entries: Vec<Entry>,
    next_id: u64,
    /// Whether a thread waits for models whose time is up.
    watched: bool,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    key: ModelKey,
    /// Empty while the model is being loaded, by whoever holds the lock.
    slot: Arc<Mutex<Option<Arc<SharedModel>>>>,
    /// Known once it is loaded.
    model: Weak<SharedModel>,
    bytes: u64,
    last_use: Instant,
}

/// The right to use a model, which keeps it loaded.
#[derive(Debug)]
pub(crate) struct Lease {
    /// Always there, but while the lease is dropped.
    model: Option<Arc<SharedModel>>,
    entry: u64,
    cache: Arc<ModelCache>,
}

impl ModelCache {
    pub(crate) fn new(limits: &CacheLimits) -> Self {
        Self {
            books: Mutex::default(),
            counters: Counters::default(),
            most: limits.models,
            limit: limits.model_bytes,
            keep_alive: limits.keep_alive,
        }
    }

    /// Returns the model of `key`; the first who asks calls `load`, and others wait for it. Models
    /// that must make room leave before it is read.
    ///
    /// # Errors
    /// What `load` says, to the one who called it; the next one tries again.
    pub(crate) fn get_or_load(
        self: &Arc<Self>,
        key: ModelKey,
        load: impl FnOnce() -> Result<SharedModel>,
    ) -> Result<Lease> {
        let (entry, slot) = self.slot(key);
        let mut loaded = slot.lock().unwrap_or_else(PoisonError::into_inner);
        self.counters.lookup(loaded.is_some());
        let model = match &*loaded {
            Some(model) => model.clone(),
            None => loaded.insert(Arc::new(load()?)).clone(),
        };
        drop(loaded);
        let mut books = self.lock();
        if let Some(entry) = books.entries.iter_mut().find(|e| e.id == entry) {
            entry.model = Arc::downgrade(&model);
        }
        self.update(&books.entries);
        Ok(Lease { model: Some(model), entry, cache: self.clone() })
    }

    /// Drops the model of a lease that has ended, if nobody else uses it.
    pub(crate) fn unload(&self, entry: u64) {
        self.drop_idle(&mut self.lock().entries, |e| e.id == entry);
    }

    /// Drops every model that nobody uses.
    pub(crate) fn unload_idle(&self) {
        self.drop_idle(&mut self.lock().entries, |_| true);
    }

    pub(crate) fn stats(&self) -> CacheStats {
        self.counters.stats(self.limit)
    }

    /// Returns the slot of `key`, a new one if there was none.
    fn slot(&self, key: ModelKey) -> (u64, Arc<Mutex<Option<Arc<SharedModel>>>>) {
        let mut books = self.lock();
        Self::forget_failed(&mut books.entries);
        if let Some(entry) = books.entries.iter_mut().find(|entry| entry.key == key) {
            entry.last_use = Instant::now();
            return (entry.id, entry.slot.clone());
        }
        let bytes = key.weight_bytes();
        self.make_room(&mut books.entries, 1, bytes);
        let (id, slot) = (books.next_id, Arc::default());
        books.next_id += 1;
        books.entries.push(Entry {
            id,
            key,
            slot: Arc::clone(&slot),
            model: Weak::new(),
            bytes,
            last_use: Instant::now(),
        });
        (id, slot)
    }

    /// Takes out what a failed load left behind, which nobody waits for any more.
    fn forget_failed(entries: &mut Vec<Entry>) {
        entries.retain(|e| e.model.strong_count() > 0 || Arc::strong_count(&e.slot) > 1);
    }

    /// Drops idle models, the longest unused first, until `more` of `bytes` fit or none is left.
    fn make_room(&self, entries: &mut Vec<Entry>, more: usize, bytes: u64) {
        loop {
            let held: u64 = entries.iter().map(|entry| entry.bytes).sum();
            let fits = entries.len() + more <= self.most.max(more)
                && held.saturating_add(bytes) <= self.limit;
            let oldest = entries.iter().filter(|e| e.is_idle()).map(|e| e.last_use).min();
            match oldest {
                Some(oldest) if !fits => self.drop_idle(entries, |entry| entry.last_use <= oldest),
                _ => return,
            }
        }
    }

    fn drop_idle(&self, entries: &mut Vec<Entry>, which: impl Fn(&Entry) -> bool) {
        let before = entries.len();
        entries.retain(|entry| !(entry.is_idle() && which(entry)));
        self.counters.evict((before - entries.len()) as u64);
        self.update(entries);
    }

    /// A lease of `entry` has ended: what is idle now leaves at once, or when its time is up.
    fn released(self: &Arc<Self>, entry: u64) {
        let mut books = self.lock();
        if let Some(entry) = books.entries.iter_mut().find(|e| e.id == entry) {
            entry.last_use = Instant::now();
        }
        Self::forget_failed(&mut books.entries);
        self.make_room(&mut books.entries, 0, 0);
        let Some(keep_alive) = self.keep_alive else { return };
        if keep_alive.is_zero() {
            self.drop_idle(&mut books.entries, |_| true);
        }
        if books.watched || !books.entries.iter().any(Entry::is_idle) {
            return;
        }
        let cache = Arc::downgrade(self);
        let watch = move || {
            let mut wait = Some(keep_alive);
            while let Some(time) = wait {
                thread::sleep(time);
                wait = cache.upgrade().and_then(|cache| cache.drop_expired(keep_alive));
            }
        };
        // Without the thread, a model stays until its place is needed.
        books.watched =
            thread::Builder::new().name("mlx-keep-alive".to_owned()).spawn(watch).is_ok();
    }

    /// Drops idle models whose time is up, and returns how long the next one has.
    fn drop_expired(&self, keep_alive: Duration) -> Option<Duration> {
        let mut books = self.lock();
        self.drop_idle(&mut books.entries, |entry| entry.last_use.elapsed() >= keep_alive);
        let idle = books.entries.iter().filter(|entry| entry.is_idle());
        let next = idle.map(|entry| keep_alive.saturating_sub(entry.last_use.elapsed())).min();
        books.watched = next.is_some();
        next
    }

    fn update(&self, entries: &[Entry]) {
        let loaded = entries.iter().filter(|entry| entry.model.strong_count() > 0);
        self.counters.holds(loaded.clone().count() as u64, loaded.map(|entry| entry.bytes).sum());
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Whether it is loaded and nobody uses it: the slot alone holds the model, and the books alone
    /// the slot.
    fn is_idle(&self) -> bool {
        self.model.strong_count() == 1 && Arc::strong_count(&self.slot) == 1
    }
}

impl Lease {
    /// Returns the number of the model in the cache, for [`ModelCache::unload`].
    pub(crate) fn entry(&self) -> u64 {
        self.entry
    }
}

impl std::ops::Deref for Lease {
    type Target = SharedModel;

    fn deref(&self) -> &SharedModel {
        self.model.as_ref().expect("taken only by drop")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        drop(self.model.take());
        self.cache.released(self.entry);
    }
}
