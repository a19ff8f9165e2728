//! The virtual environment of the peers, and the images, both kept below `target`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;

/// Where the sources of this program are.
pub(crate) const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/preproc");

/// Packages and images, ready to use.
pub(crate) struct Environment {
    /// The interpreter of the virtual environment.
    pub(crate) python: PathBuf,
    /// The folder of the images.
    pub(crate) images: PathBuf,
    /// Pillow's libjpeg-turbo.
    pub(crate) libjpeg: PathBuf,
}

/// Makes what is missing in `folder`.
pub(crate) fn environment(folder: &Path, torch: bool) -> Result<Environment> {
    let venv = folder.join("venv");
    let python = venv.join("bin/python");
    if !python.exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    }
    for (name, wanted) in [("requirements.txt", true), ("requirements-torch.txt", torch)] {
        if wanted {
            install(&python, &Path::new(SOURCES).join(name), &folder.join(name))?;
        }
    }
    let images = folder.join("images");
    run(Command::new(&python).arg(Path::new(SOURCES).join("images.py")).arg(&images))?;
    let find = "import glob, pathlib, PIL; root = pathlib.Path(PIL.__file__).parent; \
                print(*glob.glob(f'{root}*/**/libjpeg[.-]*', recursive=True), \
                *glob.glob(f'{root.parent}/pillow.libs/libjpeg-*'))";
    let output = Command::new(&python).args(["-c", find]).output()?;
    let paths = String::from_utf8(output.stdout)?;
    let libjpeg = paths.split_whitespace().next().ok_or("the wheel of Pillow has no libjpeg")?;
    Ok(Environment { python, images, libjpeg: libjpeg.into() })
}

/// Installs wheels, unless `stamp` says that these were installed before.
fn install(python: &Path, requirements: &Path, stamp: &Path) -> Result<()> {
    let wanted = std::fs::read_to_string(requirements)?;
    if std::fs::read_to_string(stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    run(Command::new(python)
        .args(["-m", "pip", "install", "--only-binary", ":all:", "--quiet", "-r"])
        .arg(requirements))?;
    std::fs::write(stamp, wanted)?;
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    eprintln!("preproc: {command:?}");
    let status = command.status().map_err(|error| format!("{command:?}: {error}"))?;
    if !status.success() {
        return Err(format!("{command:?} failed ({status})").into());
    }
    Ok(())
}
