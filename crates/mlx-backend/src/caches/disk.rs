//! The tier below memory: features and prefixes in files, which outlive the process.
//!
//! One safetensors file for each entry, named by its key, with a checksum in its header. A file
//! appears whole, by a rename, and what cannot be read is a miss and is removed: processes that
//! share a folder, or are killed at any moment, cannot give each other wrong values.

use std::{
    collections::HashMap,
    fs::{self, File},
    hash::{BuildHasher, Hasher, RandomState},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    thread,
    time::{Duration, SystemTime},
};

use mlx_rs::{
    Array, Dtype,
    error::{Exception, Result as MlxResult},
};
use safetensors::{SafeTensors, tensor::TensorView};

use super::{
    Digest,
    counters::{CacheStats, Counters},
};
use crate::{Error, Result};

/// Where entries are kept, and how many bytes of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskCache {
    /// The folder; it is made if there is none. Several processes may share it.
    pub dir: PathBuf,
    /// Most bytes of files; the longest unused leave first.
    pub limit_bytes: u64,
}

impl DiskCache {
    /// Returns a cache of at most 10 GiB in the folder `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), limit_bytes: 10 << 30 }
    }
}

/// The folder below [`DiskCache::dir`]: another layout gets another name, and leaves this alone.
const LAYOUT: &str = "v1";
const EXTENSION: &str = "safetensors";
/// What a file is called while it is written.
const PARTIAL: &str = "partial";
const TENSOR: &str = "value";
const CHECKSUM: &str = "blake3";
/// Entries that wait to be written; beyond, they are dropped rather than waited for.
const QUEUE: usize = 256;
/// A file that somebody began to write so long ago was never finished.
const STALE: Duration = Duration::from_secs(3600);
/// The share of the limit that is left after a clean-up, so that it does not happen at each write.
const KEPT: f64 = 0.9;

/// A folder of entries, read here and written by a thread of its own.
#[derive(Debug)]
pub(crate) struct DiskTier {
    dir: PathBuf,
    queue: SyncSender<Message>,
    counters: Arc<Counters>,
    limit: u64,
}

enum Message {
    Write(Digest, Entry),
    /// Answered once everything before it is written.
    Flush(mpsc::Sender<()>),
}

/// A tensor as bytes.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    dtype: safetensors::Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl DiskTier {
    /// Opens the folder and starts the thread that writes.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be made.
    pub(crate) fn open(cache: &DiskCache) -> Result<Self> {
        let dir = cache.dir.join(LAYOUT);
        let fail = |source| Error::Io { action: "create", path: dir.clone(), source };
        fs::create_dir_all(&dir).map_err(fail)?;
        let (queue, messages) = mpsc::sync_channel(QUEUE);
        let counters = Arc::<Counters>::default();
        let writer = Writer {
            dir: dir.clone(),
            limit: cache.limit_bytes,
            counters: counters.clone(),
            held: 0,
        };
        thread::Builder::new()
            .name("mlx-disk-cache".to_owned())
            .spawn(move || writer.run(&messages))
            .map_err(|source| Error::Io {
                action: "start the writer of",
                path: dir.clone(),
                source,
            })?;
        Ok(Self { dir, queue, counters, limit: cache.limit_bytes })
    }

    /// Returns the array of `key`, computed.
    pub(crate) fn get(&self, key: &Digest) -> Option<Array> {
        let path = path_of(&self.dir, key);
        let found = match read(&path, key) {
            Ok(entry) => entry,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::warn!(path = %path.display(), %error, "a damaged cached file is removed");
                let _ = fs::remove_file(&path);
                None
            }
            // No permission, too many open files: the file may be good.
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a cached file cannot be read");
                None
            }
        };
        let array = found.and_then(|entry| entry.to_array().ok());
        self.counters.lookup(array.is_some());
        if array.is_some() {
            // The time of the last use, by which files leave; a file that is gone needs none.
            let touch = File::options().append(true).open(&path);
            let _ = touch.and_then(|file| file.set_modified(SystemTime::now()));
        }
        array
    }

    /// Writes `array` some time later, unless it is there or too much waits.
    pub(crate) fn put(&self, key: Digest, array: &Array) -> MlxResult<()> {
        if path_of(&self.dir, &key).exists() {
            return Ok(());
        }
        let Some(entry) = Entry::of(array)? else { return Ok(()) };
        if entry.bytes.len() as f64 > self.limit as f64 * KEPT {
            self.counters.refuse();
            return Ok(());
        }
        if let Err(TrySendError::Full(_)) = self.queue.try_send(Message::Write(key, entry)) {
            self.counters.refuse();
        }
        Ok(())
    }

    /// Waits until everything put so far is written.
    pub(crate) fn flush(&self) {
        let (reply, answer) = mpsc::channel();
        if self.queue.send(Message::Flush(reply)).is_ok() {
            let _ = answer.recv();
        }
    }

    pub(crate) fn stats(&self) -> CacheStats {
        self.counters.stats(self.limit)
    }
}

/// The thread that writes.
struct Writer {
    dir: PathBuf,
    limit: u64,
    counters: Arc<Counters>,
    /// Bytes at the last look, and written since.
    held: u64,
}

impl Writer {
    fn run(mut self, messages: &Receiver<Message>) {
        self.clean_up();
        while let Ok(message) = messages.recv() {
            match message {
                Message::Write(key, entry) => {
                    match write(&self.dir, &key, &entry) {
                        Ok(bytes) => self.held += bytes,
                        // A full disk, or one that is read only: a cache that keeps nothing.
                        Err(error) => {
                            tracing::warn!(dir = %self.dir.display(), %error, "cannot write to the cache");
                            self.counters.refuse();
                        }
                    }
                    if self.held > self.limit {
                        self.clean_up();
                    }
                }
                Message::Flush(reply) => {
                    self.clean_up();
                    let _ = reply.send(());
                }
            }
        }
    }

    /// Looks at all files, those of other processes too, and removes what is too much.
    fn clean_up(&mut self) {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let path = entry.path();
            match kind(&path) {
                Some(EXTENSION) => files.push((used, metadata.len(), path)),
                Some(PARTIAL) if used.elapsed().is_ok_and(|age| age > STALE) => {
                    let _ = fs::remove_file(path);
                }
                // Nothing of ours: somebody else's file is left alone.
                _ => {}
            }
        }
        files.sort();
        self.held = files.iter().map(|(_, bytes, _)| bytes).sum();
        let mut left = files.len() as u64;
        if self.held > self.limit {
            let goal = (self.limit as f64 * KEPT) as u64;
            for (_, bytes, path) in files {
                if self.held <= goal {
                    break;
                }
                // Another process may have been faster.
                let _ = fs::remove_file(path);
                self.held -= bytes;
                left -= 1;
                self.counters.evict(1);
            }
        }
        self.counters.holds(left, self.held);
    }
}

impl Entry {
    /// Returns the bytes of `array`; `None` for types that no cache holds.
    fn of(array: &Array) -> MlxResult<Option<Self>> {
        let dtype = match array.dtype() {
            Dtype::Float32 => safetensors::Dtype::F32,
            Dtype::Bfloat16 => safetensors::Dtype::BF16,
            Dtype::Float16 => safetensors::Dtype::F16,
            Dtype::Uint8 => safetensors::Dtype::U8,
            _ => return Ok(None),
        };
        let flat = array.reshape(&[-1])?.view_dtype(Dtype::Uint8)?;
        flat.eval()?;
        let Ok(bytes) = flat.try_as_slice::<u8>() else { return Ok(None) };
        let shape = array.shape().iter().map(|&side| side as usize).collect();
        Ok(Some(Self { dtype, shape, bytes: bytes.to_vec() }))
    }

    fn to_array(&self) -> MlxResult<Array> {
        let dtype = match self.dtype {
            safetensors::Dtype::BF16 => Dtype::Bfloat16,
            safetensors::Dtype::F16 => Dtype::Float16,
            safetensors::Dtype::F32 => Dtype::Float32,
            safetensors::Dtype::U8 => Dtype::Uint8,
            other => return Err(Exception::custom(format!("no cached type: {other:?}"))),
        };
        let shape: Vec<i32> = self.shape.iter().map(|&side| side as i32).collect();
        let bytes = Array::from_slice(&self.bytes, &[self.bytes.len() as i32]);
        let array = bytes.view_dtype(dtype)?.reshape(&shape)?;
        array.eval()?;
        Ok(array)
    }
}

/// Returns the extension of a file that this module wrote.
fn kind(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    let (key, rest) = name.split_at_checked(64)?;
    let ours = key.bytes().all(|b| b.is_ascii_hexdigit()) && rest.starts_with('.');
    path.extension()?.to_str().filter(|_| ours)
}

fn path_of(dir: &Path, key: &Digest) -> PathBuf {
    dir.join(format!("{key}.{EXTENSION}"))
}

fn checksum(key: &Digest, entry: &Entry) -> String {
    // With the key, so that a file under another's name is no entry either, and with what the
    // header says of the bytes.
    let form = format!("{:?} {:?}", entry.dtype, entry.shape);
    Digest::of("disk cache entry", &[key.bytes(), form.as_bytes(), &entry.bytes]).to_string()
}

/// Reads the entry of `key`; `None` if there is none.
fn read(path: &Path, key: &Digest) -> io::Result<Option<Entry>> {
    match fs::read(path) {
        Ok(bytes) => decode(&bytes, key).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the entry of `key` that a file of `bytes` holds.
fn decode(bytes: &[u8], key: &Digest) -> io::Result<Entry> {
    let bad = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| bad(e.to_string()))?;
    let tensors = SafeTensors::deserialize(bytes).map_err(|e| bad(e.to_string()))?;
    let view = tensors.tensor(TENSOR).map_err(|e| bad(e.to_string()))?;
    let (dtype, shape) = (view.dtype(), view.shape().to_vec());
    let entry = Entry { dtype, shape, bytes: view.data().to_vec() };
    let stored = metadata.metadata().as_ref().and_then(|m| m.get(CHECKSUM));
    if stored != Some(&checksum(key, &entry)) {
        return Err(bad("the checksum does not fit".to_owned()));
    }
    Ok(entry)
}

/// Returns the bytes of the file of an entry.
fn encode(key: &Digest, entry: &Entry) -> io::Result<Vec<u8>> {
    let bad = |e: safetensors::SafeTensorError| io::Error::other(e.to_string());
    let view = TensorView::new(entry.dtype, entry.shape.clone(), &entry.bytes).map_err(bad)?;
    let metadata = HashMap::from([(CHECKSUM.to_owned(), checksum(key, entry))]);
    safetensors::serialize([(TENSOR, view)], Some(metadata)).map_err(bad)
}

/// Writes an entry and returns the bytes of its file.
fn write(dir: &Path, key: &Digest, entry: &Entry) -> io::Result<u64> {
    let bytes = encode(key, entry)?;
    // A name of its own for each write, also where processes of two containers share the folder.
    let own = RandomState::new().build_hasher().finish();
    let temporary = dir.join(format!("{key}.{own:016x}.{PARTIAL}"));
    let written = File::create(&temporary).and_then(|mut file| file.write_all(&bytes));
    let renamed = written.and_then(|()| fs::rename(&temporary, path_of(dir, key)));
    if renamed.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    renamed.map(|()| bytes.len() as u64)
}

#[cfg(any(test, fuzzing))]
impl DiskCache {
    /// Writes an entry of `values` and changes its file by `edits`, each a place and what it becomes: it is read
    /// as it was written, or not at all.
    pub fn fuzz_entry(values: &[f32], edits: &[(u16, u8)], length: Option<u16>) {
        let key = Digest::of("fuzz", &[&[values.len() as u8]]);
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let entry = Entry { dtype: safetensors::Dtype::F32, shape: vec![values.len()], bytes };
        let mut file = encode(&key, &entry).expect("it can be written");
        let whole = file.clone();
        for &(at, byte) in edits {
            if let Some(place) = file.get_mut(usize::from(at)) {
                *place = byte;
            }
        }
        file.truncate(length.map_or(usize::MAX, usize::from));
        match decode(&file, &key) {
            Ok(found) => assert_eq!(found, entry),
            Err(_) => assert!(file != whole),
        }
        assert!(decode(&file, &Digest::of("fuzz", &[b"another"])).is_err());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(i: u64) -> Digest {
        Digest::of("test", &[&i.to_le_bytes()])
    }

    fn open(dir: &Path, limit_bytes: u64) -> DiskTier {
        DiskTier::open(&DiskCache { dir: dir.to_owned(), limit_bytes }).unwrap()
    }

    fn values(i: u64) -> Array {
        let values: Vec<f32> = (0..100).map(|j| (i * 1000 + j) as f32).collect();
        Array::from_slice(&values, &[4, 25])
    }

    #[test]
    fn what_is_put_comes_back_in_another_process_bit_by_bit() {
        let dir = tempfile::tempdir().unwrap();
        let tier = open(dir.path(), 1 << 20);
        assert!(tier.get(&key(0)).is_none());
        let half = values(1).as_dtype(Dtype::Bfloat16).unwrap();
        tier.put(key(0), &values(0)).unwrap();
        tier.put(key(1), &half).unwrap();
        tier.flush();
        let other = open(dir.path(), 1 << 20);
        let (found, found_half) = (other.get(&key(0)).unwrap(), other.get(&key(1)).unwrap());
        assert_eq!(found.shape(), [4, 25]);
        assert!(found.eq_values(values(0)).unwrap());
        assert_eq!(found_half.dtype(), Dtype::Bfloat16);
        assert!(found_half.eq_values(&half).unwrap());
        let stats = other.stats();
        assert_eq!((stats.hits, stats.misses), (2, 0));
    }

    #[test]
    fn a_damaged_file_is_a_miss_and_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let tier = open(dir.path(), 1 << 20);
        for i in 0..4 {
            tier.put(key(i), &values(i)).unwrap();
        }
        tier.flush();
        let path = |i| path_of(&dir.path().join(LAYOUT), &key(i));
        let mut bytes = fs::read(path(0)).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(path(0), &bytes).unwrap();
        fs::write(path(1), &bytes[..bytes.len() / 2]).unwrap();
        fs::write(path(2), b"").unwrap();
        // The whole file of another key.
        fs::copy(path(3), dir.path().join("copy")).unwrap();
        fs::rename(dir.path().join("copy"), path(4)).unwrap();
        for i in [0, 1, 2, 4] {
            assert!(tier.get(&key(i)).is_none(), "{i}");
            assert!(!path(i).exists(), "{i}");
        }
        assert!(tier.get(&key(3)).is_some());
    }

    #[test]
    fn a_header_that_was_changed_is_damage_and_what_is_not_ours_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join(LAYOUT);
        let tier = open(dir.path(), 3000);
        tier.put(key(0), &values(0)).unwrap();
        tier.flush();
        let path = path_of(&folder, &key(0));
        let bytes = fs::read(&path).unwrap();
        let at = bytes.windows(6).position(|w| w == b"[4,25]").unwrap();
        let turned = [&bytes[..at], b"[25,4]", &bytes[at + 6..]].concat();
        fs::write(&path, turned).unwrap();
        assert!(tier.get(&key(0)).is_none());
        assert!(!path.exists());

        let old = SystemTime::now() - 2 * STALE;
        let foreign = ["notes.txt", "model.safetensors", "half.partial"].map(|n| folder.join(n));
        let ours = folder.join(format!("{}.0.{PARTIAL}", key(9)));
        for path in foreign.iter().chain([&ours]) {
            fs::write(path, [0; 4000]).unwrap();
            File::options().append(true).open(path).unwrap().set_modified(old).unwrap();
        }
        (1..20).for_each(|i| tier.put(key(i), &values(i)).unwrap());
        tier.flush();
        assert!(foreign.iter().all(|path| path.exists()));
        assert!(!ours.exists());
        assert!(tier.stats().evictions > 10, "{:?}", tier.stats());
    }

    #[test]
    fn the_longest_unused_leave_first_and_the_limit_holds() {
        let dir = tempfile::tempdir().unwrap();
        let tier = open(dir.path(), 10_000);
        for i in 0..100 {
            tier.put(key(i), &values(i)).unwrap();
            tier.flush();
            assert!(tier.stats().bytes <= 10_000, "{:?}", tier.stats());
            assert!(i == 0 || tier.get(&key(0)).is_some(), "used again and again, gone after {i}");
        }
        let stats = tier.stats();
        assert_eq!(stats.entries + stats.evictions, 100, "{stats:?}");
        assert!(stats.entries > 10, "{stats:?}");
        tier.put(key(1000), &Array::from_slice(&[0f32; 4000], &[4000])).unwrap();
        assert_eq!(tier.stats().refused, 1);
    }

    #[test]
    fn two_at_once_share_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let tiers = [open(dir.path(), 20_000), open(dir.path(), 20_000)];
        thread::scope(|scope| {
            for tier in &tiers {
                scope.spawn(|| {
                    for i in 0..200 {
                        tier.put(key(i % 50), &values(i % 50)).unwrap();
                        if let Some(found) = tier.get(&key(i % 37)) {
                            assert!(found.eq_values(values(i % 37)).unwrap(), "{i}");
                        }
                    }
                    tier.flush();
                });
            }
        });
        let left = fs::read_dir(dir.path().join(LAYOUT)).unwrap().flatten();
        let bytes: u64 = left.map(|file| file.metadata().unwrap().len()).sum();
        assert!(bytes <= 20_000, "{bytes}");
    }

    #[test]
    fn a_folder_that_cannot_be_written_keeps_nothing_and_breaks_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let tier = open(dir.path(), 1 << 20);
        fs::remove_dir_all(dir.path().join(LAYOUT)).unwrap();
        tier.put(key(0), &values(0)).unwrap();
        tier.flush();
        assert!(tier.get(&key(0)).is_none());
        assert_eq!(tier.stats().refused, 1);
        let file = dir.path().join("file");
        fs::write(&file, b"").unwrap();
        let error = DiskTier::open(&DiskCache { dir: file, limit_bytes: 1 }).unwrap_err();
        assert!(error.to_string().contains("cannot create"), "{error}");
    }
}
