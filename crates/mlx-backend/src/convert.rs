//! Writes a quantised copy of a full checkpoint, in the layout that mlx-community publishes.
//!
//! Source of the layout: mlx-vlm `convert.py`, `utils.py`.

mod journal;
mod plan;

use std::{
    error::Error as StdError,
    fs::{self, File},
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::UNIX_EPOCH,
};

use mlx_rs::{Array, Dtype, transforms::eval};
use serde_json::Value;

use self::{
    journal::{Journal, verified},
    plan::Plan,
};
use crate::{
    Error, Result, checkpoint::Checkpoint, engine, models, nn::mlx_error, recipe::Recipe,
    weights::open_tensors,
};

/// Hears of tensors done and tensors in all.
pub type ConvertProgress = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// What a conversion did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Converted {
    /// Tensors of the source.
    pub tensors: u64,
    /// How many of them an earlier try had finished.
    pub resumed: u64,
}

/// Reads the checkpoint in `source` and writes it, quantised, to the new folder `target`.
///
/// The folder appears only when it is complete: until then everything is in a folder beside it,
/// whose name ends with `.incomplete`. If that is there from a try that was ended, even by force, and
/// neither the source nor `recipe` changed, what it has is checked and kept.
///
/// # Errors
/// If `target` exists, `source` is not a full checkpoint that this crate runs, a rule of the recipe
/// matches no layer, a file cannot be written, or another process writes the same folder.
pub fn convert(
    source: &Path,
    target: &Path,
    recipe: &Recipe,
    progress: ConvertProgress,
) -> Result<Converted> {
    recipe.validate().map_err(Error::Prompt)?;
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
    let (target, recipe) = (target.to_owned(), recipe.clone());
    engine::call(move || write(&checkpoint, &target, &recipe, &*progress))?
}

fn write(
    checkpoint: &Checkpoint,
    target: &Path,
    recipe: &Recipe,
    progress: &dyn Fn(u64, u64),
) -> Result<Converted> {
    let dir = checkpoint.dir().ok_or_else(|| Error::Config {
        path: checkpoint.config_path(),
        reason: "expected the folder of a full checkpoint, found a GGUF file, which can be packed while \
                 it is loaded only"
            .to_owned(),
    })?;
    let architecture = models::architecture(checkpoint.model_type())?;
    let tensors = open_tensors(checkpoint.weight_files(), architecture.rename)?;
    let modules = tensors.iter().filter(|(_, array)| array.ndim() == 2);
    let modules = modules.filter_map(|(name, _)| name.strip_suffix(".weight"));
    if let Some(rule) = recipe.idle_rule(modules) {
        return Err(Error::Prompt(format!(
            "the rule {rule} matches no layer that it could change"
        )));
    }
    let config = checkpoint.config();
    let plan = Plan::new(tensors, recipe, layers(config), dtype(config))?;
    let total = plan.steps.len() as u64;
    let before = sources(checkpoint)?;
    let identity = identity(&before, &plan);

    let work = incomplete(target);
    fs::create_dir_all(&work).map_err(|e| write_error("create", &work, e))?;
    let mut journal = Journal::open(&work, &identity)?;
    let mut files = open_files(&work, &plan)?;
    let resumed = verified(&journal, &plan, &mut files, &mut |done| progress(done as u64, total));
    journal.keep(resumed, &identity)?;

    let (index, block) = (plan.index(), plan.block.clone());
    for (i, step) in plan.steps.into_iter().enumerate().skip(resumed) {
        let file = &mut files[step.file];
        let path = || work.join(&plan.files[step.file].name);
        let bytes = bytes(step.parts)?;
        file.seek(SeekFrom::Start(step.offset))
            .and_then(|_| file.write_all(&bytes))
            .map_err(|e| write_error("write", &path(), e))?;
        journal.add(blake3::hash(&bytes).to_hex().as_str())?;
        progress(i as u64 + 1, total);
    }
    for (file, plan) in files.iter().zip(&plan.files) {
        file.sync_all().map_err(|e| write_error("write", &work.join(&plan.name), e))?;
    }
    if sources(checkpoint)? != before {
        return Err(Error::Config {
            path: dir.to_owned(),
            reason: "it was changed while it was read; start again".to_owned(),
        });
    }
    copy_small_files(dir, &work)?;
    let mut config = config.clone();
    config["quantization"] = block.clone();
    config["quantization_config"] = block;
    write_json(&work.join("config.json"), &config)?;
    write_json(&work.join("model.safetensors.index.json"), &index)?;
    finish(&work, target)?;
    Ok(Converted { tensors: total, resumed: resumed as u64 })
}

/// Makes the complete folder `work` appear as `target`.
fn finish(work: &Path, target: &Path) -> Result<()> {
    let journal = work.join(Journal::NAME);
    fs::remove_file(&journal).map_err(|e| write_error("remove", &journal, e))?;
    fs::rename(work, target).map_err(|e| write_error("create", target, e))
}

fn incomplete(target: &Path) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".incomplete");
    target.with_file_name(name)
}

/// Opens the weight files of `plan`, each with its header and of its size.
fn open_files(work: &Path, plan: &Plan) -> Result<Vec<File>> {
    let open = |plan: &plan::FilePlan| {
        let path = work.join(&plan.name);
        let fail = |e| write_error("write", &path, e);
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).map_err(fail)?;
        file.set_len(plan.bytes).map_err(fail)?;
        file.write_all(&plan.header).map_err(fail)?;
        Ok(file)
    };
    plan.files.iter().map(open).collect()
}

/// Computes `parts` and returns their bytes, side by side.
fn bytes(parts: Vec<Array>) -> Result<Vec<u8>> {
    let fail = |e: mlx_rs::error::Exception| mlx_error("quantize", &e);
    eval(&parts).map_err(fail)?;
    let mut bytes = Vec::with_capacity(parts.iter().map(Array::nbytes).sum());
    for part in parts {
        let view = part.view_dtype(Dtype::Uint8).map_err(fail)?;
        let view = view.try_as_slice::<u8>().map_err(|e| convert_error(&e))?;
        bytes.extend_from_slice(view);
    }
    Ok(bytes)
}

/// Returns which files the source is, as far as can be told without reading them.
fn sources(checkpoint: &Checkpoint) -> Result<String> {
    let mut told = String::new();
    for path in checkpoint.weight_files() {
        let fail = |e| write_error("read", path, e);
        let metadata = fs::metadata(path).map_err(fail)?;
        let modified = metadata.modified().map_err(fail)?;
        let modified = modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let path = fs::canonicalize(path).map_err(fail)?;
        told += &format!("{} {} {modified}\n", path.display(), metadata.len());
    }
    Ok(told)
}

/// Returns a hash of what the result depends on: the sources, and all that will be written but the values.
fn identity(sources: &str, plan: &Plan) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(sources.as_bytes());
    hasher.update(plan.block.to_string().as_bytes());
    plan.files.iter().for_each(|file| {
        hasher.update(&file.header);
    });
    hasher.finalize().to_hex().to_string()
}

/// Returns the number of decoder layers; 0 if `config` does not say.
fn layers(config: &Value) -> usize {
    let of = |config: &Value| config.get("num_hidden_layers").and_then(Value::as_u64);
    of(config).or_else(|| of(config.get("text_config")?)).unwrap_or(0) as usize
}

/// Returns the type that the configuration asks for, to which the reference casts before packing.
fn dtype(config: &Value) -> Option<Dtype> {
    let text = || config.get("text_config")?.get("dtype");
    match config.get("torch_dtype").or_else(text)?.as_str()? {
        "float32" => Some(Dtype::Float32),
        "float16" => Some(Dtype::Float16),
        "bfloat16" => Some(Dtype::Bfloat16),
        _ => None,
    }
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

fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = format!("{value:#}\n");
    fs::write(path, text).map_err(|e| write_error("write", path, e))
}

fn write_error(action: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::Io { action, path: path.to_owned(), source }
}

fn convert_error(error: &dyn StdError) -> Error {
    Error::Mlx { op: "convert", message: error.to_string() }
}
