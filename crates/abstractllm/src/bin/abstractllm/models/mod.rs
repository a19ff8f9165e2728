//! The command `models`: what models are on this machine, and how they come and go.

mod args;
mod found;

use std::{
    collections::BTreeMap,
    fs,
    io::{self, BufRead, IsTerminal, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use abstractllm::{Error, ErrorKind, Result, embedded, mlx};
use serde_json::json;

pub(crate) use self::args::ModelsArgs;
use self::{
    args::{InfoArgs, ListArgs, ModelsAction, PullArgs, RemoveArgs},
    found::Found,
};
use crate::{
    failure::{Failure, say},
    format, output,
    progress::Bars,
};

pub(crate) fn run(args: &ModelsArgs, quiet: bool) -> Result<(), Failure> {
    match &args.action {
        ModelsAction::List(args) => list(args),
        ModelsAction::Info(args) => info(args),
        ModelsAction::Pull(args) => pull(args, quiet),
        ModelsAction::Rm(args) => remove(args, quiet),
    }
}

fn list(args: &ListArgs) -> Result<(), Failure> {
    let mut all = vec![Found::embedded()?];
    let cache = mlx::hub_cache_dir();
    if let Some(cache) = &cache {
        all.extend(mlx::cached_models(cache)?.into_iter().map(Found::cached));
    }
    for folder in &args.folders {
        all.extend(below(folder)?);
    }
    if args.json {
        return Ok(output::pretty(&json!({"cache": cache, "models": all}))?);
    }
    let mut out = io::stdout().lock();
    let width = all.iter().map(|found| found.name.len()).max().unwrap_or_default();
    let mut place = None;
    for found in &all {
        if place != Some(&found.place) {
            writeln!(out, "{}", found.place)?;
            place = Some(&found.place);
        }
        let size = format::bytes(found.bytes);
        writeln!(out, "  {:width$}  {size:>9}  {}", found.name, found.line())?;
    }
    Ok(out.flush()?)
}

/// Returns the models in `folder`: itself, or the folders in it that are one.
fn below(folder: &Path) -> Result<Vec<Found>> {
    let is_model = |path: &Path| path.join("config.json").is_file();
    if is_model(folder) {
        return Ok(vec![Found::folder(folder, folder.parent())]);
    }
    let fail = |e| {
        let message = format!("cannot read the folder {}", folder.display());
        Error::new(ErrorKind::Io, message).with_source(e)
    };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(fail)? {
        paths.push(entry.map_err(fail)?.path());
    }
    paths.sort();
    let models = paths.iter().filter(|path| is_model(path));
    Ok(models.map(|path| Found::folder(path, Some(folder))).collect())
}

fn info(args: &InfoArgs) -> Result<(), Failure> {
    let found = find(&args.model)?;
    match args.json {
        true => Ok(output::pretty(&found)?),
        false => Ok(found.print(&mut io::stdout().lock())?),
    }
}

/// Finds a model as `--model` does, but without a network.
fn find(name: &str) -> Result<Found> {
    if name == embedded::TINY_VL {
        return Found::embedded();
    }
    let path = Path::new(name);
    if path.exists() {
        return Ok(Found::folder(path, path.parent()));
    }
    let cache = mlx::hub_cache_dir();
    let cached = cache.as_deref().map_or_else(|| Ok(Vec::new()), mlx::cached_models)?;
    let found = cached.into_iter().find(|model| model.name == name).map(Found::cached);
    found.ok_or_else(|| {
        let cache = cache.map_or_else(String::new, |cache| format!(" or in {}", cache.display()));
        let message = format!(
            "no model `{name}`: expected `tiny-vl`, a folder, a GGUF file, or a model that was \
             downloaded; there is none as a folder or file{cache}"
        );
        Error::new(ErrorKind::Model, message)
    })
}

fn pull(args: &PullArgs, quiet: bool) -> Result<(), Failure> {
    let bars = Bars::new(quiet);
    // Of each file, where its download began and how far it has come.
    let files: Arc<Mutex<BTreeMap<String, (u64, u64)>>> = Arc::default();
    let (shown, heard, json) = (bars.clone(), files.clone(), args.json);
    let progress: mlx::DownloadProgress = Arc::new(move |file: &str, done, total| {
        shown.bytes(&format!("downloading {file}"), done, total);
        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        let began = heard.get(file).map(|(began, _)| *began);
        heard.insert(file.to_owned(), (began.unwrap_or(done), done));
        // Once for each file: a line for each read would be thousands.
        if json && began.is_none() && done < total {
            let line = json!({"event": "file", "file": file, "done": done, "total": total});
            let _ = output::line(&line);
        }
    });
    let downloaded = mlx::download(&args.model, &progress);
    bars.clear();
    let path = downloaded?;
    let files = files.lock().unwrap_or_else(PoisonError::into_inner);
    let fetched: u64 = files.values().map(|(began, done)| done.saturating_sub(*began)).sum();
    if args.json {
        let end = json!({
            "event": "end", "model": args.model, "path": path, "bytes": fetched,
        });
        return Ok(output::line(&end)?);
    }
    let place = path.display();
    match fetched {
        0 => writeln!(io::stdout(), "{}: up to date, in {place}", args.model)?,
        bytes => writeln!(io::stdout(), "{}: {}, in {place}", args.model, format::bytes(bytes))?,
    }
    Ok(())
}

fn remove(args: &RemoveArgs, quiet: bool) -> Result<(), Failure> {
    let cache = mlx::hub_cache_dir().ok_or_else(|| {
        Error::new(ErrorKind::Model, "no home folder to look for a cache in; set HF_HUB_CACHE")
    })?;
    let cached = mlx::cached_models(&cache)?;
    let mut chosen = Vec::new();
    for name in &args.models {
        // All of them before the first is gone.
        let model = cached.iter().find(|model| model.name == *name);
        chosen.push(model.ok_or_else(|| not_in_cache(name, &cache))?);
    }
    let (mut removed, mut freed) = (Vec::new(), 0);
    for model in chosen {
        let what =
            format!("{}, {}, {}", model.name, format::bytes(model.bytes), model.path.display());
        if !args.yes && !confirmed(&what)? {
            continue;
        }
        let model = mlx::remove_cached(&cache, &model.name)?;
        freed += model.bytes;
        if !args.json && !quiet {
            say(&format!("removed {what}"));
        }
        removed.push(model.name);
    }
    match args.json {
        true => Ok(output::pretty(&json!({"removed": removed, "freed_bytes": freed}))?),
        false => Ok(()),
    }
}

fn not_in_cache(name: &str, cache: &Path) -> Error {
    let place = cache.display();
    let message = match name {
        embedded::TINY_VL => "tiny-vl is a part of this program".to_owned(),
        name if PathBuf::from(name).is_dir() => format!(
            "{name} is a folder, and only models in the cache, {place}, are removed; delete it yourself"
        ),
        name => format!("no model `{name}` in the cache, {place}"),
    };
    Error::new(ErrorKind::Model, message)
}

/// Asks whoever sits at the terminal.
fn confirmed(what: &str) -> Result<bool> {
    let cannot = |e| Error::new(ErrorKind::Io, "cannot ask at the terminal").with_source(e);
    if !io::stdin().is_terminal() {
        let message = "nobody can be asked, since stdin is no terminal: give --yes to remove it";
        return Err(Error::new(ErrorKind::InvalidRequest, message));
    }
    write!(io::stderr(), "remove {what}? [y/N] ").map_err(cannot)?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(cannot)?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}
