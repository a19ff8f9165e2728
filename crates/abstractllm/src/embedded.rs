//! A model inside the library, so that everything can be tried without a download.

use std::{
    env, fs,
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use llm_core::{Error, ErrorKind, Result};

include!(concat!(env!("OUT_DIR"), "/tiny_vl.rs"));

/// The name of the embedded model.
pub const TINY_VL: &str = "tiny-vl";

/// The environment variable that names the folder for unpacked files, in place of the user's cache.
pub const CACHE_VARIABLE: &str = "ABSTRACTLLM_CACHE";

/// Unpacks the model tiny-vl, where that was not done before, and returns its folder.
///
/// tiny-vl has the architecture of Qwen2.5-VL and 8 million parameters; it describes pictures of
/// plain shapes, reads short words, and is no use on photographs.
///
/// The folder lies in the user's cache (or in `ABSTRACTLLM_CACHE`) and is named after the content.
/// What is found there is compared byte by byte with what is embedded, and replaced if it differs.
/// Processes that unpack at the same time do not disturb each other: a folder appears whole.
///
/// # Errors
/// [`ErrorKind::Io`] if there is no cache folder or it cannot be written.
pub fn tiny_vl() -> Result<PathBuf> {
    let cache = cache_dir()?;
    let folder = cache.join(format!("{TINY_VL}-{HASH}"));
    unpack(&folder, FILES).map_err(|e| {
        let message = format!("cannot unpack the embedded model to {}", folder.display());
        Error::new(ErrorKind::Io, message).with_source(e)
    })?;
    Ok(folder)
}

/// Returns the folder that embedded models are unpacked to; it need not exist yet.
///
/// # Errors
/// [`ErrorKind::Io`] if the user has no home folder and `ABSTRACTLLM_CACHE` is not set.
pub fn cache_dir() -> Result<PathBuf> {
    let named = env::var_os(CACHE_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    named.or_else(|| dirs::cache_dir().map(|cache| cache.join("abstractllm"))).ok_or_else(|| {
        let message = format!("no home folder for a cache; set {CACHE_VARIABLE} to a folder");
        Error::new(ErrorKind::Io, message)
    })
}

/// How the names of folders begin that are being filled.
const UNPACKING: &str = ".unpacking-";

/// Removes what programs left behind that were killed while they unpacked.
fn remove_stale(parent: &Path) {
    const STALE: Duration = Duration::from_secs(3600);
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let ours = entry.file_name().as_encoded_bytes().starts_with(UNPACKING.as_bytes());
        let changed = entry.metadata().and_then(|metadata| metadata.modified());
        if ours && changed.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > STALE)) {
            // Another process may have been faster.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Makes `folder` hold exactly `files`.
fn unpack(folder: &Path, files: &[(&str, &[u8])]) -> io::Result<()> {
    // Two rounds suffice unless others keep breaking what they find; then it is an error.
    for _ in 0..5 {
        if holds(folder, files) {
            return Ok(());
        }
        let parent = folder.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(parent)?;
        remove_stale(parent);
        // On the same file system, so that it can be moved in one step.
        let scratch = tempfile::Builder::new().prefix(UNPACKING).tempdir_in(parent)?;
        let fresh = scratch.path().join("fresh");
        fs::create_dir(&fresh)?;
        for (name, bytes) in files {
            fs::write(fresh.join(name), bytes)?;
        }
        // A folder that is there is either broken or was made by another process just now.
        if !holds(folder, files) {
            let _ = fs::rename(folder, scratch.path().join("broken"));
            let _ = fs::rename(&fresh, folder);
        }
    }
    match holds(folder, files) {
        true => Ok(()),
        false => Err(io::Error::other("the folder cannot be replaced")),
    }
}

fn holds(folder: &Path, files: &[(&str, &[u8])]) -> bool {
    files.iter().all(|(name, bytes)| same(&folder.join(name), bytes).unwrap_or(false))
}

/// Compares a file with `expected` without holding all of it.
fn same(path: &Path, mut expected: &[u8]) -> io::Result<bool> {
    let mut file = fs::File::open(path)?;
    if file.metadata()?.len() != expected.len() as u64 {
        return Ok(false);
    }
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(expected.is_empty());
        }
        match expected.split_at_checked(n) {
            Some((head, rest)) if head == &buffer[..n] => expected = rest,
            _ => return Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const SMALL: &[(&str, &[u8])] = &[("a.json", b"{}"), ("b.bin", &[7; 200_000])];

    #[test]
    fn what_is_unpacked_is_whole_and_nothing_else_is_left() {
        let cache = tempfile::tempdir().unwrap();
        let folder = cache.path().join("deep").join("model");
        unpack(&folder, SMALL).unwrap();
        assert_eq!(fs::read(folder.join("b.bin")).unwrap(), [7; 200_000]);
        let names: Vec<_> = fs::read_dir(folder.parent().unwrap()).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }

    #[test]
    fn a_broken_file_is_replaced_and_a_sound_one_is_kept() {
        let cache = tempfile::tempdir().unwrap();
        let folder = cache.path().join("model");
        unpack(&folder, SMALL).unwrap();
        let written = || fs::metadata(folder.join("a.json")).unwrap().modified().unwrap();
        let first = written();
        unpack(&folder, SMALL).unwrap();
        assert_eq!(written(), first, "a sound folder was written again");
        for broken in [&[8; 200_000][..], &[7; 199_999], &[7; 200_001], &[]] {
            fs::write(folder.join("b.bin"), broken).unwrap();
            unpack(&folder, SMALL).unwrap();
            assert_eq!(fs::read(folder.join("b.bin")).unwrap(), [7; 200_000]);
        }
        fs::remove_file(folder.join("a.json")).unwrap();
        unpack(&folder, SMALL).unwrap();
        assert_eq!(fs::read(folder.join("a.json")).unwrap(), b"{}");
    }

    #[test]
    fn what_a_program_that_was_killed_left_is_removed_some_time_later() {
        let cache = tempfile::tempdir().unwrap();
        let left = ["a", "b"].map(|name| cache.path().join(format!("{UNPACKING}{name}")));
        for folder in &left {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("b.bin"), [7; 1000]).unwrap();
        }
        let long_ago = std::time::SystemTime::now() - Duration::from_secs(7200);
        fs::File::open(&left[0]).unwrap().set_modified(long_ago).unwrap();
        unpack(&cache.path().join("model"), SMALL).unwrap();
        // The other may be of a program that unpacks just now.
        assert_eq!(left.map(|folder| folder.exists()), [false, true]);
    }

    #[test]
    fn many_at_once_agree() {
        let cache = tempfile::tempdir().unwrap();
        let folder = cache.path().join("model");
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    unpack(&folder, SMALL).unwrap();
                    assert!(holds(&folder, SMALL));
                });
            }
        });
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_embedded_model_is_a_checkpoint() {
        let names: Vec<_> = FILES.iter().map(|(name, _)| *name).collect();
        for needed in ["config.json", "tokenizer.json", "preprocessor_config.json"] {
            assert!(names.contains(&needed), "{needed} is not among {names:?}");
        }
        assert!(names.iter().any(|name| name.ends_with(".safetensors")), "{names:?}");
    }
}
