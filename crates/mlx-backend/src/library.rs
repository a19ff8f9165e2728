//! The models that are on this machine: what the local Hugging Face cache holds, and what a folder says
//! of itself. No weight is read.

mod description;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::Serialize;

pub use self::description::{ModelDescription, describe};
pub use crate::locate::{download, hub_cache_dir};
use crate::{Error, Result, locate::missing_files};

/// How the folder of a repository begins in the cache.
const PREFIX: &str = "models--";

/// A model in the local Hugging Face cache, with all its revisions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CachedModel {
    /// Its name on the hub, `organisation/model`.
    pub name: String,
    /// Its folder in the cache.
    pub path: PathBuf,
    /// Bytes on the disk, of all revisions and of downloads that were broken off.
    pub bytes: u64,
    /// Its revisions, that of `main` first.
    pub snapshots: Vec<Snapshot>,
}

/// One revision of a model in the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Snapshot {
    /// The commit.
    pub commit: String,
    /// The names that the cache has for it, such as `main`.
    pub revisions: Vec<String>,
    /// The folder, which can be loaded.
    pub path: PathBuf,
    /// The files that a checkpoint needs and that are not here.
    pub missing: Vec<String>,
}

/// Returns the models of the Hugging Face cache in the folder `cache`, by name; none if there is no such
/// folder. [`hub_cache_dir`] is where the tools of the hub keep it.
///
/// # Errors
/// [`Error::Io`] if a folder cannot be read.
pub fn cached_models(cache: &Path) -> Result<Vec<CachedModel>> {
    let mut models = Vec::new();
    for path in folders(cache, false)? {
        let Some(name) = file_name(&path).strip_prefix(PREFIX).map(str::to_owned) else { continue };
        models.push(CachedModel {
            // No name on the hub has two hyphens in a row.
            name: name.replacen("--", "/", 1),
            bytes: bytes_on_disk(&path)?,
            snapshots: snapshots(&path)?,
            path,
        });
    }
    models.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(models)
}

/// Deletes the model `name` and all its revisions from the Hugging Face cache in the folder `cache`, and
/// returns what was there. Nothing outside of that folder is touched: a link is not followed.
///
/// # Errors
/// [`Error::NotFound`] if the cache has no such model, [`Error::Io`] if it is being downloaded or cannot be
/// deleted.
pub fn remove_cached(cache: &Path, name: &str) -> Result<CachedModel> {
    // What the cache holds is compared with the name, which never becomes a path.
    let model = cached_models(cache)?.into_iter().find(|model| model.name == name);
    let model = model.ok_or_else(|| Error::NotFound {
        name: name.to_owned(),
        reason: format!("it is not in the cache, {}", cache.display()),
    })?;
    let locks = cache.join(".locks").join(file_name(&model.path));
    let _held = lock_all(&locks)?;
    // In this order, so that a model which is half deleted is never taken for a whole one.
    for folder in [model.path.join("refs"), model.path.join("snapshots"), model.path.clone(), locks]
    {
        match fs::remove_dir_all(&folder) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(fail("delete", &folder)(e));
            }
            _ => {}
        }
    }
    Ok(model)
}

/// Takes the locks of all downloads into one repository, and holds them until they are dropped.
fn lock_all(folder: &Path) -> Result<Vec<fs::File>> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(fail("read", folder))?,
    };
    let mut held = Vec::new();
    for entry in entries {
        let path = entry.map_err(fail("read", folder))?.path();
        let file = fs::File::options().append(true).open(&path).map_err(fail("lock", &path))?;
        file.try_lock().map_err(|e| match e {
            fs::TryLockError::WouldBlock => {
                let busy = "the model is being downloaded";
                fail("lock", &path)(io::Error::new(io::ErrorKind::ResourceBusy, busy))
            }
            fs::TryLockError::Error(e) => fail("lock", &path)(e),
        })?;
        held.push(file);
    }
    Ok(held)
}

/// Returns the revisions of the repository in `folder`.
fn snapshots(folder: &Path) -> Result<Vec<Snapshot>> {
    let mut named = Vec::new();
    let refs = folder.join("refs");
    named_commits(&refs, &refs, &mut named)?;
    let mut found: Vec<Snapshot> = folders(&folder.join("snapshots"), true)?
        .into_iter()
        .map(|path| {
            let commit = file_name(&path).to_owned();
            let names = named.iter().filter(|(_, of)| *of == commit);
            let mut revisions: Vec<String> = names.map(|(name, _)| name.clone()).collect();
            revisions.sort();
            Snapshot { commit, revisions, missing: missing_files(&path), path }
        })
        .collect();
    let is_main = |snapshot: &Snapshot| snapshot.revisions.iter().any(|name| name == "main");
    found.sort_by(|a, b| (!is_main(a), &a.commit).cmp(&(!is_main(b), &b.commit)));
    Ok(found)
}

/// Gathers names and commits below `refs`; names may have slashes.
fn named_commits(refs: &Path, folder: &Path, named: &mut Vec<(String, String)>) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(fail("read", folder))?,
    };
    for entry in entries {
        let path = entry.map_err(fail("read", folder))?.path();
        match path.symlink_metadata().map_err(fail("read", &path))?.is_dir() {
            true => named_commits(refs, &path, named)?,
            false => {
                let name = path.strip_prefix(refs).unwrap_or(&path).to_string_lossy().into_owned();
                // One that cannot be read names nothing.
                let commit = fs::read_to_string(&path).unwrap_or_default();
                named.push((name, commit.trim().to_owned()));
            }
        }
    }
    Ok(())
}

/// Returns the folders in `folder`, and links to folders if `links`; none if there is no such folder.
fn folders(folder: &Path, links: bool) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(fail("read", folder))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(fail("read", folder))?;
        let is_folder = entry.file_type().map_err(fail("read", folder))?.is_dir();
        if is_folder || (links && entry.path().is_dir()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Returns the bytes of all files below `folder`; links count nothing, since what they lead to counts.
fn bytes_on_disk(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).map_err(fail("read", folder))? {
        let entry = entry.map_err(fail("read", folder))?;
        let path = entry.path();
        bytes += match entry.metadata() {
            Ok(data) if data.is_dir() => bytes_on_disk(&path)?,
            Ok(data) if data.is_file() => data.len(),
            // A link, or gone since: a download renames its files.
            _ => 0,
        };
    }
    Ok(bytes)
}

fn file_name(path: &Path) -> &str {
    // What is no Unicode is no model: the hub has none.
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn fail(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cache with a whole model, a model that was broken off, and what is no model.
    fn cache() -> tempfile::TempDir {
        let cache = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = cache.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for (repo, files) in [
            ("models--org--whole", &["config.json", "tokenizer.json", "model.safetensors"][..]),
            ("models--org--cut-off", &["config.json"]),
        ] {
            write(&format!("{repo}/blobs/1"), "12345");
            write(&format!("{repo}/refs/main"), "c2\n");
            write(&format!("{repo}/refs/pr/1"), "c1");
            for name in files {
                write(&format!("{repo}/snapshots/c2/{name}"), "{}");
            }
            fs::create_dir_all(cache.path().join(repo).join("snapshots/c1")).unwrap();
            write(&format!(".locks/{repo}/1.lock"), "");
        }
        write("datasets--org--data/blobs/1", "x");
        write("models--a-file", "x");
        cache
    }

    #[test]
    fn models_are_listed_with_their_revisions() {
        let cache = cache();
        let models = cached_models(cache.path()).unwrap();
        let names: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
        assert_eq!(names, ["org/cut-off", "org/whole"]);
        let whole = &models[1];
        assert_eq!(whole.path, cache.path().join("models--org--whole"));
        // A blob of 5, commits of 3 and 2, and three files of 2.
        assert_eq!(whole.bytes, 16);
        let [main, other] = &whole.snapshots[..] else { panic!("{whole:?}") };
        assert_eq!((&*main.commit, &*main.revisions), ("c2", &["main".to_owned()][..]));
        assert_eq!(main.missing, [""; 0]);
        assert_eq!((&*other.commit, &*other.revisions), ("c1", &["pr/1".to_owned()][..]));
        assert_eq!(models[0].snapshots[0].missing, ["tokenizer.json", "model.safetensors"]);
        assert_eq!(cached_models(&cache.path().join("no-such")).unwrap(), []);
    }

    #[test]
    fn a_model_is_removed_and_nothing_else() {
        let cache = cache();
        let removed = remove_cached(cache.path(), "org/whole").unwrap();
        assert_eq!((&*removed.name, removed.bytes), ("org/whole", 16));
        assert!(!removed.path.exists());
        assert!(!cache.path().join(".locks/models--org--whole").exists());
        let left = cached_models(cache.path()).unwrap();
        assert_eq!(left.len(), 1);
        assert!(cache.path().join("datasets--org--data").exists());
        let again = remove_cached(cache.path(), "org/whole").unwrap_err().to_string();
        assert!(again.contains("it is not in the cache"), "{again}");
    }

    #[test]
    fn no_name_leads_out_of_the_cache() {
        let outer = tempfile::tempdir().unwrap();
        let cache = outer.path().join("hub");
        let beside = outer.path().join("models--org--beside");
        for folder in [cache.join("models--org--a"), beside.clone()] {
            fs::create_dir_all(folder).unwrap();
        }
        let file = beside.join("kept");
        fs::write(&file, "x").unwrap();
        for name in ["../models--org--beside", "org/../../models--org--beside", "..", ".", ""] {
            assert!(remove_cached(&cache, name).is_err(), "{name}");
        }
        assert!(remove_cached(&cache, beside.to_str().unwrap()).is_err());
        // Neither is a link to a folder a model, nor one in a model followed.
        #[cfg(unix)]
        {
            let link = |at: &str| std::os::unix::fs::symlink(&beside, cache.join(at)).unwrap();
            link("models--org--link");
            link("models--org--a/blobs");
            link("models--org--a/snapshots");
            assert!(remove_cached(&cache, "org/link").is_err());
            remove_cached(&cache, "org/a").unwrap();
            assert!(!cache.join("models--org--a").exists());
        }
        assert!(file.exists());
    }

    #[test]
    fn a_model_that_is_being_downloaded_stays() {
        let cache = cache();
        let path = cache.path().join(".locks/models--org--whole/1.lock");
        let lock = fs::File::options().append(true).open(path).unwrap();
        lock.lock().unwrap();
        let error = remove_cached(cache.path(), "org/whole").unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(source, "the model is being downloaded");
        assert!(cache.path().join("models--org--whole/refs/main").exists());
        drop(lock);
        remove_cached(cache.path(), "org/whole").unwrap();
    }
}
