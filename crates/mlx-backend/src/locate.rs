//! Where a model is: a folder, the local Hugging Face cache, or the hub.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    Error, Result,
    checkpoint::{CONFIG, missing_shards},
    gguf::is_gguf,
};

/// Hears of a file, its bytes done and its bytes in all.
pub type DownloadProgress = Arc<dyn Fn(&str, u64, u64) + Send + Sync>;

/// Returns the folder, or the GGUF file, of the model `name`: a path, or `organisation/model[@revision]`.
///
/// A name of the hub is looked for in the local cache, and is downloaded if it is not there, or
/// not whole, and the feature `hub` is on. `offline` keeps to the cache, as `HF_HUB_OFFLINE` does.
///
/// # Errors
/// [`Error::NotFound`], which says where it was looked for and what would help; with the feature
/// `hub` also those of a download.
pub(crate) fn locate(
    name: &str,
    offline: bool,
    progress: &(dyn Fn(&str, u64, u64) + Send + Sync),
) -> Result<PathBuf> {
    let not_found = |reason: String| Error::NotFound { name: name.to_owned(), reason };
    let path = Path::new(name);
    if path.is_dir() || is_gguf(path) {
        return Ok(path.to_owned());
    }
    if path.exists() {
        let reason = "it is a file that does not begin with GGUF; expected such a file, or the folder of \
                      a checkpoint";
        return Err(not_found(reason.to_owned()));
    }
    let Some((repo, revision)) = hub_name(name) else {
        return Err(not_found(
            "no such folder, and not a hub name, which is `organisation/model`".to_owned(),
        ));
    };
    let cache = hub_cache_dir().ok_or_else(|| {
        not_found("no such folder, and no home folder to look for a cache in".to_owned())
    })?;
    let found = match cached(&cache, repo, revision) {
        Cached::Whole(snapshot) => return Ok(snapshot),
        Cached::Partial(snapshot, missing) => {
            format!("the copy in {} lacks {}", snapshot.display(), missing.join(", "))
        }
        Cached::None => format!("no copy of it in {}", cache.display()),
    };
    if offline || is_offline() {
        return Err(not_found(format!("no such folder, and {found}; downloads are off")));
    }
    tracing::debug!(name, found, "not in the cache");
    fetch(repo, revision, &cache, progress).map_err(|error| match error {
        Error::NotFound { name, reason } if !cfg!(feature = "hub") => {
            Error::NotFound { name, reason: format!("no such folder, and {found}; {reason}") }
        }
        error => error,
    })
}

/// Downloads `organisation/model[@revision]` into the local Hugging Face cache, or what the hub has newer
/// of it, and returns the folder to load. Blocks until all is there.
///
/// # Errors
/// [`Error::NotFound`] if the hub has no such model, or if this build or `HF_HUB_OFFLINE` allows no
/// downloads; else those of a download.
pub fn download(name: &str, progress: &DownloadProgress) -> Result<PathBuf> {
    let not_found = |reason: &str| Error::NotFound { name: name.into(), reason: reason.into() };
    let (repo, revision) =
        hub_name(name).ok_or_else(|| not_found("not a hub name, which is `organisation/model`"))?;
    let cache = hub_cache_dir().ok_or_else(|| not_found("no home folder to keep a cache in"))?;
    if is_offline() {
        return Err(not_found("downloads are off: HF_HUB_OFFLINE is set"));
    }
    fetch(repo, revision, &cache, &**progress)
}

#[cfg(feature = "hub")]
use crate::hub::download as fetch;

#[cfg(not(feature = "hub"))]
fn fetch(
    repo: &str,
    _revision: &str,
    _cache: &Path,
    _progress: &(dyn Fn(&str, u64, u64) + Send + Sync),
) -> Result<PathBuf> {
    Err(Error::NotFound {
        name: repo.to_owned(),
        reason: format!(
            "this program was built without the feature `hub`, so fetch it with `hf download {repo}`"
        ),
    })
}

fn is_offline() -> bool {
    is_true(env::var_os("HF_HUB_OFFLINE"))
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

/// Returns the folder of the local Hugging Face cache, by the variables that its own tools read: there
/// may be none there yet. `None` if they name none and the user has no home.
#[must_use]
pub fn hub_cache_dir() -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("HF_HUB_CACHE")
        .or_else(|| set("HF_HOME").map(|home| home.join("hub")))
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("huggingface/hub")))
        .or_else(|| env::home_dir().map(|home| home.join(".cache/huggingface/hub")))
}

/// Whether a variable is set to what the hub's tools take for true.
fn is_true(value: Option<OsString>) -> bool {
    let value = value.map(|v| v.to_string_lossy().to_ascii_uppercase());
    value.is_some_and(|v| ["1", "ON", "YES", "TRUE"].contains(&v.as_str()))
}

/// What the cache holds of a revision.
#[derive(Debug, PartialEq)]
enum Cached {
    Whole(PathBuf),
    /// A snapshot, and the files that it lacks.
    Partial(PathBuf, Vec<String>),
    None,
}

/// Looks for a snapshot of `repo` in `cache`. A download that was broken off leaves one without
/// some of its files.
fn cached(cache: &Path, repo: &str, revision: &str) -> Cached {
    let folder = cache.join(format!("models--{}", repo.replace('/', "--")));
    let commit = fs::read_to_string(folder.join("refs").join(revision));
    let commit = commit.map_or_else(|_| revision.to_owned(), |text| text.trim().to_owned());
    let snapshot = folder.join("snapshots").join(commit);
    if !snapshot.is_dir() {
        return Cached::None;
    }
    let missing = missing_files(&snapshot);
    match missing.is_empty() {
        true => Cached::Whole(snapshot),
        false => Cached::Partial(snapshot, missing),
    }
}

/// Returns the files that a checkpoint needs and that `folder` lacks.
pub(crate) fn missing_files(folder: &Path) -> Vec<String> {
    let needed = [CONFIG, "tokenizer.json"].into_iter();
    let mut missing: Vec<String> =
        needed.filter(|name| !folder.join(name).is_file()).map(str::to_owned).collect();
    missing.extend(missing_shards(folder).unwrap_or_else(|error| vec![error.to_string()]));
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offline(name: &str) -> Result<PathBuf> {
        locate(name, true, &|_, _, _| {})
    }

    #[test]
    fn names_that_could_leave_the_cache_are_no_hub_names() {
        assert_eq!(hub_name("org/model"), Some(("org/model", "main")));
        assert_eq!(hub_name("org/model-1.5@v2"), Some(("org/model-1.5", "v2")));
        for name in ["model", "../model", "org/..", "a/b/c", "org/model@../x", "org/mo del", "/a"] {
            assert_eq!(hub_name(name), None, "{name}");
        }
    }

    #[test]
    fn a_snapshot_counts_only_when_whole() {
        let cache = tempfile::tempdir().unwrap();
        let look = |revision: &str| cached(cache.path(), "org/model", revision);
        let folder = cache.path().join("models--org--model");
        let snapshot = folder.join("snapshots/abc");
        assert_eq!(look("main"), Cached::None);
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(folder.join("refs")).unwrap();
        fs::write(folder.join("refs/main"), "abc\n").unwrap();

        let lacks = |names: &[&str]| {
            Cached::Partial(snapshot.clone(), names.iter().map(|&n| n.to_owned()).collect())
        };
        assert_eq!(look("main"), lacks(&["config.json", "tokenizer.json", "model.safetensors"]));
        fs::write(snapshot.join("config.json"), "{}").unwrap();
        fs::write(snapshot.join("tokenizer.json"), "{}").unwrap();
        let index = r#"{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}"#;
        fs::write(snapshot.join("model.safetensors.index.json"), index).unwrap();
        fs::write(snapshot.join("1.safetensors"), "").unwrap();
        assert_eq!(look("main"), lacks(&["2.safetensors"]));
        // A link whose target is gone is no file.
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("../../blobs/gone", snapshot.join("2.safetensors")).unwrap();
            assert_eq!(look("main"), lacks(&["2.safetensors"]));
            fs::remove_file(snapshot.join("2.safetensors")).unwrap();
        }
        fs::write(snapshot.join("2.safetensors"), "").unwrap();
        assert_eq!(look("main"), Cached::Whole(snapshot.clone()));
        assert_eq!(look("abc"), Cached::Whole(snapshot.clone()));
        assert_eq!(look("other"), Cached::None);
    }

    #[test]
    fn a_folder_is_itself_and_a_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(offline(dir.path().to_str().unwrap()).unwrap(), dir.path());
        let file = dir.path().join("model.safetensors");
        fs::write(&file, "").unwrap();
        let error = offline(file.to_str().unwrap()).unwrap_err().to_string();
        assert!(error.contains("a file that does not begin with GGUF"), "{error}");
    }

    #[test]
    fn what_is_not_there_is_said() {
        let says = |name: &str| offline(name).unwrap_err().to_string();
        assert!(says("no-such-folder").contains("not a hub name"));
        let error = says("no-org/no-model");
        let cache = hub_cache_dir().unwrap();
        assert!(error.contains(cache.to_str().unwrap()), "{error}");
        assert!(
            error.contains("`no-org/no-model`") && error.contains("downloads are off"),
            "{error}"
        );
    }

    #[test]
    fn truth_is_read_as_the_tools_of_the_hub_read_it() {
        for (value, expected) in [("1", true), ("true", true), ("0", false), ("", false)] {
            assert_eq!(is_true(Some(value.into())), expected, "{value}");
        }
        assert!(!is_true(None));
    }
}
