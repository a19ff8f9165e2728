//! The command `quantize`: writes a quantised copy of a full checkpoint.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use abstractllm::{
    Error, ErrorKind, embedded,
    mlx::{self, Converted},
};

use serde_json::json;

use crate::{args::QuantizeArgs, failure::Failure, format, output, progress::Bars};

pub(crate) fn run(args: &QuantizeArgs, quiet: bool) -> Result<(), Failure> {
    let source = match args.source.as_os_str() == embedded::TINY_VL {
        true => embedded::tiny_vl()?,
        false => args.source.clone(),
    };
    let recipe = args.recipe().map_err(|e| Error::new(ErrorKind::InvalidRequest, e))?;
    let bars = Bars::new(quiet);
    let shown = bars.clone();
    let progress = Arc::new(move |done, total| shown.count("quantising tensors", done, total));
    let done = mlx::convert(&source, &args.target, &recipe, progress);
    bars.clear();
    let done = done.map_err(Error::from)?;
    let [before, after] = [&source, &args.target].map(|folder| weight_bytes(folder));
    let Converted { resumed, tensors, .. } = done;
    if args.json {
        return Ok(output::pretty(&json!({
            "target": args.target,
            "recipe": recipe.to_string(),
            "weight_bytes": after,
            "source_weight_bytes": before,
            "tensors": tensors,
            "resumed": resumed,
        }))?);
    }
    if !quiet {
        let [before, after] = [before, after].map(format::bytes);
        let target = args.target.display();
        writeln!(io::stdout(), "{target}: {after} of weights, {recipe}; {before} before")?;
        if resumed > 0 {
            writeln!(
                io::stdout(),
                "{resumed} of {tensors} tensors were there from an earlier try"
            )?;
        }
    }
    Ok(())
}

/// Returns the bytes of all weight files in `folder`; a file that cannot be read counts nothing.
fn weight_bytes(folder: &Path) -> u64 {
    let files =
        fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let weights = |path: &PathBuf| path.extension().is_some_and(|e| e == "safetensors");
    files.filter(weights).filter_map(|path| Some(fs::metadata(path).ok()?.len())).sum()
}
