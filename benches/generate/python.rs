//! The virtual environment of mlx-vlm, kept below `target`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::Result;

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/generate");

/// Makes what is missing in `folder` and returns the interpreter.
pub(crate) fn environment(folder: &Path) -> Result<PathBuf> {
    let venv = folder.join("venv");
    let python = venv.join("bin/python");
    if !python.exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    }
    // mlx-vlm asks for a newer MLX than the one that both sides are to run on, so that comes after.
    for (name, options) in [("requirements.txt", &[][..]), ("requirements-mlx.txt", &["--no-deps"])]
    {
        let requirements = Path::new(SOURCES).join(name);
        let stamp = folder.join(name);
        let wanted = std::fs::read_to_string(&requirements)?;
        if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
            continue;
        }
        run(Command::new(&python)
            .args(["-m", "pip", "install", "--only-binary", ":all:", "--quiet", "-r"])
            .arg(&requirements)
            .args(options))?;
        std::fs::write(stamp, wanted)?;
    }
    Ok(python)
}

fn run(command: &mut Command) -> Result<()> {
    eprintln!("generate: {command:?}");
    let status = command.status().map_err(|error| format!("{command:?}: {error}"))?;
    if !status.success() {
        return Err(format!("{command:?} failed ({status})").into());
    }
    Ok(())
}
