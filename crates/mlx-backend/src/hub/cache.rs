//! The folder of one repository in the Hugging Face cache: `blobs` by checksum, `snapshots` of
//! links into them by commit, and `refs` from names to commits.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use super::listing::Checksum;
use crate::{Error, Result};

/// The folder of one repository.
#[derive(Debug)]
pub(super) struct RepoCache {
    folder: PathBuf,
    locks: PathBuf,
}

impl RepoCache {
    /// Returns the folder of `repo` (`organisation/model`) in `cache`; creates nothing.
    pub(super) fn new(cache: &Path, repo: &str) -> Self {
        let name = format!("models--{}", repo.replace('/', "--"));
        Self { folder: cache.join(&name), locks: cache.join(".locks").join(name) }
    }

    /// Returns where a file with this checksum is.
    pub(super) fn blob(&self, checksum: &Checksum) -> PathBuf {
        self.folder.join("blobs").join(checksum.hex())
    }

    /// Returns the folder of the files of `commit`.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// Waits until no other process downloads this blob, and keeps others from it until the file is
    /// dropped. The hub's Python library locks the same file in the same way.
    ///
    /// # Errors
    /// [`Error::Io`] if the lock cannot be created.
    pub(super) fn lock(&self, checksum: &Checksum) -> Result<File> {
        create_dir(&self.locks)?;
        create_dir(&self.folder.join("blobs"))?;
        let path = self.locks.join(format!("{}.lock", checksum.hex()));
        let open = File::options().create(true).append(true).open(&path);
        open.and_then(|file| file.lock().map(|()| file)).map_err(io_error("lock", &path))
    }

    /// Makes the file `name` of `commit` a link to its blob.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be created.
    pub(super) fn link(&self, commit: &str, name: &str, checksum: &Checksum) -> Result<()> {
        let path = self.snapshot(commit).join(name);
        create_dir(path.parent().expect("a file in a folder"))?;
        // Out of `snapshots/<commit>` and of each folder that `name` is in.
        let up = "../".repeat(2 + name.matches('/').count());
        let target = format!("{up}blobs/{}", checksum.hex());
        if path.is_file() && fs::read_link(&path).is_ok_and(|to| to == Path::new(&target)) {
            return Ok(());
        }
        // Renamed into place, so that a reader finds the old file or the new, never none.
        let new = self.temporary();
        make_link(&self.blob(checksum), &target, &new)
            .and_then(|()| fs::rename(&new, &path))
            .map_err(io_error("create", &path))
    }

    /// Notes that `revision` names `commit`.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written.
    pub(super) fn write_ref(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        // A cache that is complete may be one that cannot be written.
        if fs::read_to_string(&path).is_ok_and(|noted| noted == commit) {
            return Ok(());
        }
        create_dir(path.parent().expect("a file in a folder"))?;
        let new = self.temporary();
        fs::write(&new, commit)
            .and_then(|()| fs::rename(&new, &path))
            .map_err(io_error("write", &path))
    }

    /// A name that no other thread or process uses, on the file system of the cache, so that what
    /// is there can be renamed into it.
    fn temporary(&self) -> PathBuf {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join("blobs").join(format!(".{}-{count}", std::process::id()));
        // Left over from a process of the same number that was killed.
        let _ = fs::remove_file(&path);
        path
    }
}

#[cfg(unix)]
fn make_link(_: &Path, target: &str, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

/// Symbolic links need rights that users seldom have on other systems.
#[cfg(not(unix))]
fn make_link(blob: &Path, _: &str, path: &Path) -> io::Result<()> {
    fs::hard_link(blob, path).or_else(|_| fs::copy(blob, path).map(|_| ()))
}

fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(io_error("create", path))
}

pub(super) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}
