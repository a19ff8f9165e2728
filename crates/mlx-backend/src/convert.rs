//! Writes a quantised copy of a full checkpoint, in the layout that mlx-community publishes.
//!
//! Source of the layout: mlx-vlm `convert.py`, `utils.py`.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use mlx_rs::{Array, ops};
use serde_json::{Value, json};

use crate::{
    Error, Result,
    checkpoint::Checkpoint,
    engine,
    models::{self, Architecture},
    nn::mlx_error,
    quantize::Quantize,
    weights::open_tensors,
};

/// Most bytes of a weight file.
const MAX_SHARD_BYTES: usize = 5 << 30;

/// Hears of tensors done and tensors in all.
pub type ConvertProgress = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// Reads the checkpoint in `source` and writes it, quantised, to the new folder `target`.
///
/// The folder appears only when it is complete: until then everything is in a folder beside it,
/// whose name ends with `.incomplete` and which a later try starts anew.
///
/// # Errors
/// If `target` exists, `source` is not a full checkpoint that this crate runs, or a file cannot be
/// written.
pub fn convert(
    source: &Path,
    target: &Path,
    how: Quantize,
    progress: ConvertProgress,
) -> Result<()> {
    how.validate().map_err(Error::Prompt)?;
    if target.exists() {
        return Err(Error::Prompt(format!("{} exists already", target.display())));
    }
    let checkpoint = Checkpoint::open(source)?;
    if checkpoint.quantization() != &Default::default() {
        return Err(Error::Config {
            path: checkpoint.config_path(),
            reason: "expected a full checkpoint, found one that is quantised already".to_owned(),
        });
    }
    let work = incomplete(target);
    if work.exists() {
        fs::remove_dir_all(&work).map_err(|e| write_error("remove", &work, e))?;
    }
    fs::create_dir_all(&work).map_err(|e| write_error("create", &work, e))?;
    let written = write(checkpoint, &work, how, progress)
        .and_then(|()| fs::rename(&work, target).map_err(|e| write_error("create", target, e)));
    if written.is_err() {
        // The error that counts is the one at hand.
        let _ = fs::remove_dir_all(&work);
    }
    written
}

fn incomplete(target: &Path) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".incomplete");
    target.with_file_name(name)
}

fn write(
    checkpoint: Checkpoint,
    work: &Path,
    how: Quantize,
    progress: ConvertProgress,
) -> Result<()> {
    copy_small_files(checkpoint.dir(), work)?;
    let mut config = checkpoint.config().clone();
    let block = json!({"group_size": how.group_size, "bits": how.bits, "mode": "affine"});
    config["quantization"] = block.clone();
    config["quantization_config"] = block;
    write_json(&work.join("config.json"), &config)?;
    let architecture = models::architecture(checkpoint.model_type())?;
    let files = checkpoint.weight_files().to_vec();
    let work = work.to_owned();
    engine::call(move || write_weights(architecture, &files, &work, how, &*progress))?
}

/// Copies what is neither weights nor rewritten: tokenizer, templates, processor settings.
fn copy_small_files(from: &Path, to: &Path) -> Result<()> {
    let entries = fs::read_dir(from).map_err(|e| write_error("read", from, e))?;
    for entry in entries {
        let path = entry.map_err(|e| write_error("read", from, e))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let wanted = [".json", ".jinja", ".txt", ".model"].iter().any(|end| name.ends_with(end));
        let rewritten = name == "config.json" || name.ends_with(".index.json");
        if path.is_file() && wanted && !rewritten {
            fs::copy(&path, to.join(name)).map_err(|e| write_error("copy", &path, e))?;
        }
    }
    Ok(())
}

fn write_weights(
    architecture: &Architecture,
    files: &[PathBuf],
    work: &Path,
    how: Quantize,
    progress: &dyn Fn(u64, u64),
) -> Result<()> {
    let tensors = open_tensors(files, architecture.rename)?;
    let total = tensors.len() as u64;
    let (mut shards, mut bytes) = (vec![Vec::new()], 0);
    for (done, (name, array)) in tensors.into_iter().enumerate() {
        for (name, array) in converted(name, array, how)? {
            array.eval().map_err(|e| mlx_error("quantize", &e))?;
            if bytes > 0 && bytes + array.nbytes() > MAX_SHARD_BYTES {
                shards.push(Vec::new());
                bytes = 0;
            }
            bytes += array.nbytes();
            if let Some(shard) = shards.last_mut() {
                shard.push((name, array));
            }
        }
        progress(done as u64 + 1, total);
    }
    save(&shards, work)
}

/// Returns what becomes of a tensor: itself, or words, scales and biases.
fn converted(name: String, array: Array, how: Quantize) -> Result<Vec<(String, Array)>> {
    let fail = |e: mlx_rs::error::Exception| mlx_error("quantize", &e);
    if array.ndim() == 5 && array.dim(4) == array.dim(3) {
        // The patch projection in PyTorch's layout; MLX has the channels last.
        let moved = array.transpose_axes(&[0, 2, 3, 4, 1]).map_err(fail)?;
        // Flattening copies what the transposition left in place, and a file has no strides.
        let flat = moved.reshape(&[-1]).map_err(fail)?;
        return Ok(vec![(name, flat.reshape(moved.shape()).map_err(fail)?)]);
    }
    let module = name.strip_suffix(".weight").map(str::to_owned);
    match module {
        Some(path) if array.ndim() == 2 && how.applies_to(&path, array.dim(1)) => {
            let (words, scales, biases) =
                ops::quantize(&array, how.group_size, how.bits).map_err(fail)?;
            Ok(vec![
                (name, words),
                (format!("{path}.scales"), scales),
                (format!("{path}.biases"), biases),
            ])
        }
        _ => Ok(vec![(name, array)]),
    }
}

fn save(shards: &[Vec<(String, Array)>], work: &Path) -> Result<()> {
    let metadata = HashMap::from([("format".to_owned(), "mlx".to_owned())]);
    let (mut map, mut bytes) = (BTreeMap::new(), 0);
    for (i, shard) in shards.iter().enumerate() {
        let file = match shards.len() {
            1 => "model.safetensors".to_owned(),
            n => format!("model-{:05}-of-{n:05}.safetensors", i + 1),
        };
        let path = work.join(&file);
        let arrays = shard.iter().map(|(name, array)| (name, array));
        Array::save_safetensors(arrays, &metadata, &path).map_err(|e| Error::Config {
            path: path.clone(),
            reason: format!("MLX cannot write it: {e}"),
        })?;
        for (name, array) in shard {
            map.insert(name.clone(), file.clone());
            bytes += array.nbytes();
        }
    }
    let index = json!({"metadata": {"total_size": bytes}, "weight_map": map});
    write_json(&work.join("model.safetensors.index.json"), &index)
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = format!("{value:#}\n");
    fs::write(path, text).map_err(|e| write_error("write", path, e))
}

fn write_error(action: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::Io { action, path: path.to_owned(), source }
}
