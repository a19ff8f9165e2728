//! Which files hold the weights: those that the index names, else every safetensors file.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Component, Path, PathBuf},
};

use serde_json::Value;

use super::files::read_json_if_any;
use crate::{Error, Result};

/// The name of the file that maps each tensor to its shard.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// Returns the weight files of the checkpoint in `dir`, sorted; at least one, and each exists.
///
/// # Errors
/// [`Error::Config`] if there is none, a shard is missing, or the index is not one; [`Error::Io`]
/// if a file cannot be read.
pub(super) fn resolve(dir: &Path) -> Result<Vec<PathBuf>> {
    let path = dir.join(INDEX);
    let Some(index) = read_json_if_any(&path)? else { return every_safetensors(dir) };
    let shards = shards(&path, &index)?;
    let missing = absent(dir, &shards);
    if !missing.is_empty() {
        let reason = format!(
            "{} of {} weight files are missing: {}",
            missing.len(),
            shards.len(),
            missing.join(", ")
        );
        return Err(Error::Config { path, reason });
    }
    Ok(shards.into_iter().map(|name| dir.join(name)).collect())
}

/// Returns the weight files that the checkpoint in `dir` lacks, by name; if it has no index and no
/// weight file at all, the name of the usual single file.
///
/// # Errors
/// [`Error::Config`] if the index is not one, [`Error::Io`] if it cannot be read.
pub(crate) fn missing_shards(dir: &Path) -> Result<Vec<String>> {
    let path = dir.join(INDEX);
    match read_json_if_any(&path)? {
        Some(index) => Ok(absent(dir, &shards(&path, &index)?)),
        None if every_safetensors(dir).is_ok() => Ok(vec![]),
        None => Ok(vec!["model.safetensors".to_owned()]),
    }
}

/// Returns the weight files that the index at `path` names.
///
/// # Errors
/// [`Error::Config`] if the index is not one, [`Error::Io`] if it cannot be read.
#[cfg(feature = "hub")]
pub(crate) fn shards_of_index(path: &Path) -> Result<BTreeSet<String>> {
    let index = read_json_if_any(path)?;
    shards(path, &index.unwrap_or_default())
}

fn absent(dir: &Path, shards: &BTreeSet<String>) -> Vec<String> {
    shards.iter().filter(|name| !dir.join(name).is_file()).cloned().collect()
}

pub(crate) fn shards(path: &Path, index: &Value) -> Result<BTreeSet<String>> {
    let fail = |reason: String| Error::Config { path: path.to_owned(), reason };
    let map = index
        .get("weight_map")
        .and_then(Value::as_object)
        .filter(|map| !map.is_empty())
        .ok_or_else(|| fail("expected an object `weight_map` of tensors and files".to_owned()))?;
    map.iter()
        .map(|(tensor, file)| match file.as_str() {
            Some(name) if stays_inside(name) && name.ends_with(".safetensors") => {
                Ok(name.to_owned())
            }
            _ => Err(fail(format!(
                "expected the name of a safetensors file in this folder for `{tensor}`, \
                 found {file}"
            ))),
        })
        .collect()
}

/// Whether `name` is a plain relative path that cannot leave the folder it is joined to, on any
/// system: a backslash separates folders on some.
pub(crate) fn stays_inside(name: &str) -> bool {
    !name.contains(['\\', ':', '\0'])
        && !name.is_empty()
        && Path::new(name).components().all(|c| matches!(c, Component::Normal(_)))
}

/// Checkpoints of Mistral hold all weights twice; the `consolidated` copy has other tensor names.
fn every_safetensors(dir: &Path) -> Result<Vec<PathBuf>> {
    let fail = |source: io::Error| Error::Io { action: "read", path: dir.to_owned(), source };
    let mut files = vec![];
    for entry in fs::read_dir(dir).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_weights = name.ends_with(".safetensors")
            && !name.starts_with("consolidated")
            && !name.starts_with('.');
        if is_weights && entry.path().is_file() {
            files.push(entry.path());
        }
    }
    if files.is_empty() {
        return Err(Error::Config {
            path: dir.to_owned(),
            reason: "expected weights in *.safetensors, found none".to_owned(),
        });
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn without_an_index_every_file_counts_but_consolidated_ones() {
        let dir = folder(&[
            ("b.safetensors", ""),
            ("a.safetensors", ""),
            ("consolidated.safetensors", ""),
            ("consolidated.00.safetensors", ""),
            ("._a.safetensors", ""),
            ("pytorch_model.bin", ""),
        ]);
        let names = ["a.safetensors", "b.safetensors"].map(|n| dir.path().join(n));
        assert_eq!(resolve(dir.path()).unwrap(), names);
        let text = resolve(folder(&[("x.bin", "")]).path()).unwrap_err().to_string();
        assert!(text.contains("expected weights in *.safetensors, found none"), "{text}");
    }

    #[test]
    fn the_index_decides_and_each_shard_must_exist() {
        let index = r#"{"weight_map": {"x": "2.safetensors", "y": "1.safetensors",
                                       "z": "2.safetensors"}}"#;
        let dir = folder(&[(INDEX, index), ("1.safetensors", ""), ("other.safetensors", "")]);
        let text = resolve(dir.path()).unwrap_err().to_string();
        assert!(text.contains("1 of 2 weight files are missing: 2.safetensors"), "{text}");
        assert_eq!(missing_shards(dir.path()).unwrap(), ["2.safetensors"]);
        fs::write(dir.path().join("2.safetensors"), "").unwrap();
        let names = ["1.safetensors", "2.safetensors"].map(|n| dir.path().join(n));
        assert_eq!(resolve(dir.path()).unwrap(), names);
        assert!(missing_shards(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn an_index_cannot_name_a_file_outside() {
        for name in [
            "../a.safetensors",
            "/etc/a.safetensors",
            "x/../../a.safetensors",
            "..\\a.safetensors",
            "C:a.safetensors",
            "./a.safetensors",
            "",
            "model.bin",
        ] {
            let index = serde_json::json!({"weight_map": {"t": name}}).to_string();
            let text = resolve(folder(&[(INDEX, &index)]).path()).unwrap_err().to_string();
            assert!(text.contains("for `t`") && text.contains(INDEX), "{name}: {text}");
        }
        for index in ["{}", "[]", r#"{"weight_map": {}}"#, r#"{"weight_map": []}"#] {
            let text = resolve(folder(&[(INDEX, index)]).path()).unwrap_err().to_string();
            assert!(text.contains("expected an object `weight_map`"), "{index}: {text}");
        }
    }
}
