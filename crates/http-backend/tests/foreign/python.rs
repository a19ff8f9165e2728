//! A virtual environment below `target`, with pinned packages.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Makes what is missing of the environment `name` and returns its interpreter, or says why it
/// cannot be had.
///
/// # Errors
/// If Python or a package cannot be had, as where there is no network.
pub(crate) fn environment(name: &str, requirements: &[&Path]) -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let python = folder.join("venv/bin/python");
    let text = |path: &&Path| fs::read_to_string(path).map_err(|e| format!("{path:?}: {e}"));
    let wanted = requirements.iter().map(text).collect::<Result<String, _>>()?;
    let stamp = folder.join("installed");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv"]).arg(folder.join("venv")))?;
    for (file, options) in requirements.iter().zip([&[][..], &["--no-deps"]]) {
        let pip = ["-m", "pip", "install", "--quiet", "--only-binary", ":all:", "-r"];
        run(Command::new(&python).args(pip).arg(file).args(options))?;
    }
    fs::write(stamp, wanted).map_err(|e| e.to_string())?;
    Ok(python)
}

fn run(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|e| format!("{command:?}: {e}"))?;
    status.success().then_some(()).ok_or_else(|| format!("{command:?} failed ({status})"))
}
