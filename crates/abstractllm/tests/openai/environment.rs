//! A virtual environment with pinned packages, below `target`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// Why there is no environment.
#[derive(Debug)]
pub(crate) enum Missing {
    /// The package index cannot be reached from here.
    Unreachable(String),
    /// Anything else, which is a mistake of this machine or of the list of packages.
    Broken(String),
}

/// What pip and its libraries say when there is no way to the index.
const NO_WAY: &[&str] = &[
    "Connection refused",
    "ConnectTimeoutError",
    "Could not fetch URL",
    "Failed to establish a new connection",
    "NameResolutionError",
    "NewConnectionError",
    "ProxyError",
    "ReadTimeoutError",
    "Temporary failure in name resolution",
];

/// Makes what is missing of the environment with what `requirements` lists, and returns its interpreter.
pub(crate) fn python(requirements: &Path) -> Result<PathBuf, Missing> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("openai-client");
    let (venv, stamp) = (folder.join("venv"), folder.join("installed.txt"));
    let python = venv.join("bin/python");
    let broken = |what: String| Missing::Broken(what);
    let wanted = fs::read_to_string(requirements).map_err(|e| broken(e.to_string()))?;
    if python.exists() && fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    let made = run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    if !made.status.success() {
        return Err(broken(format!("python3 -m venv: {}", text(&made))));
    }
    let installed = run(Command::new(&python)
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1"])
        .args(["--only-binary", ":all:", "-r"])
        .arg(requirements))?;
    if !installed.status.success() {
        let told = text(&installed);
        return Err(match NO_WAY.iter().find(|sign| told.contains(**sign)) {
            Some(sign) => Missing::Unreachable(format!("pip reaches no package index ({sign})")),
            None => broken(format!("pip install: {told}")),
        });
    }
    fs::write(stamp, wanted).map_err(|e| broken(e.to_string()))?;
    Ok(python)
}

fn run(command: &mut Command) -> Result<Output, Missing> {
    command.output().map_err(|e| Missing::Broken(format!("{command:?}: {e}")))
}

fn text(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{out}{err}")
}
