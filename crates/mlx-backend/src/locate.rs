//! Where a model is: a folder, the local Hugging Face cache, or the hub.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    Error, Result,
    checkpoint::{CONFIG, missing_shards},
};

/// Hears of a file, its bytes done and its bytes in all.
pub type DownloadProgress = Arc<dyn Fn(&str, u64, u64) + Send + Sync>;

/// Returns the folder of the model `name`: a path, or `organisation/model[@revision]`.
///
/// # Errors
/// [`Error::NotFound`], which says where it was looked for.
pub(crate) fn locate(
    name: &str,
    offline: bool,
    progress: &(dyn Fn(&str, u64, u64) + Send + Sync),
) -> Result<PathBuf> {
    let not_found = |reason: String| Error::NotFound { name: name.to_owned(), reason };
    let path = Path::new(name);
    if path.is_dir() {
        return Ok(path.to_owned());
    }
    if path.exists() {
        return Err(not_found("it is a file, expected the folder of a checkpoint".to_owned()));
    }
    let Some((repo, revision)) = hub_name(name) else {
        return Err(not_found(
            "no such folder, and not a hub name, which is `organisation/model`".to_owned(),
        ));
    };
    let cache = cache_dir().ok_or_else(|| not_found("there is no home folder".to_owned()))?;
    if let Some(snapshot) = cached(&cache, repo, revision) {
        return Ok(snapshot);
    }
    let looked = format!("no such folder, and no complete copy in {}", cache.display());
    if offline {
        return Err(not_found(format!("{looked}; downloads are off")));
    }
    fetch(repo, revision, &cache, progress, || not_found(looked.clone()))
}

#[cfg(feature = "hub")]
fn fetch(
    repo: &str,
    revision: &str,
    cache: &Path,
    progress: &(dyn Fn(&str, u64, u64) + Send + Sync),
    _: impl Fn() -> Error,
) -> Result<PathBuf> {
    crate::hub::download(repo, revision, cache, progress)
}

#[cfg(not(feature = "hub"))]
fn fetch(
    _: &str,
    _: &str,
    _: &Path,
    _: &(dyn Fn(&str, u64, u64) + Send + Sync),
    not_found: impl Fn() -> Error,
) -> Result<PathBuf> {
    Err(not_found())
}

/// Splits `organisation/model[@revision]`; `None` if it is not of that form.
fn hub_name(name: &str) -> Option<(&str, &str)> {
    let (repo, revision) = name.split_once('@').unwrap_or((name, "main"));
    let (organisation, model) = repo.split_once('/')?;
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    (plain(organisation) && plain(model) && plain(revision)).then_some((repo, revision))
}

/// Returns the folder of the Hugging Face cache, by the variables that its own tools read.
fn cache_dir() -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("HF_HUB_CACHE")
        .or_else(|| set("HF_HOME").map(|home| home.join("hub")))
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("huggingface/hub")))
        .or_else(|| env::home_dir().map(|home| home.join(".cache/huggingface/hub")))
}

/// Returns the snapshot of `repo` in `cache` if all of its files are there.
fn cached(cache: &Path, repo: &str, revision: &str) -> Option<PathBuf> {
    let folder = cache.join(format!("models--{}", repo.replace('/', "--")));
    let commit = fs::read_to_string(folder.join("refs").join(revision));
    let commit = commit.map_or_else(|_| revision.to_owned(), |text| text.trim().to_owned());
    let snapshot = folder.join("snapshots").join(commit);
    let complete = snapshot.join(CONFIG).is_file()
        && missing_shards(&snapshot).is_ok_and(|missing| missing.is_empty());
    complete.then_some(snapshot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_the_cache_are_no_hub_names() {
        assert_eq!(hub_name("org/model"), Some(("org/model", "main")));
        assert_eq!(hub_name("org/model-1.5@v2"), Some(("org/model-1.5", "v2")));
        for name in ["model", "../model", "org/..", "a/b/c", "org/model@../x", "org/mo del", "/a"] {
            assert_eq!(hub_name(name), None, "{name}");
        }
    }

    #[test]
    fn a_snapshot_counts_only_when_complete() {
        let cache = tempfile::tempdir().unwrap();
        let folder = cache.path().join("models--org--model");
        let snapshot = folder.join("snapshots/abc");
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(folder.join("refs")).unwrap();
        fs::write(folder.join("refs/main"), "abc\n").unwrap();
        assert_eq!(cached(cache.path(), "org/model", "main"), None);
        fs::write(snapshot.join("config.json"), "{}").unwrap();
        assert_eq!(cached(cache.path(), "org/model", "main"), None);
        fs::write(snapshot.join("model.safetensors"), "").unwrap();
        assert_eq!(cached(cache.path(), "org/model", "main"), Some(snapshot.clone()));
        assert_eq!(cached(cache.path(), "org/model", "abc"), Some(snapshot));
    }

    #[test]
    fn what_is_not_there_is_said() {
        let says = |name: &str| locate(name, true, &|_, _, _| {}).unwrap_err().to_string();
        assert!(says("no-such-folder").contains("not a hub name"));
        assert!(says("no-org/no-model").contains("downloads are off"));
        assert!(says(file!().rsplit('/').next().unwrap()).contains("not a hub name"));
    }
}
