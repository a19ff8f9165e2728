//! Virtual environments of Python with pinned packages, for tests and benches. Nothing is built of what
//! they install: only wheels are taken.
#![forbid(unsafe_code)]

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// A list of packages, and further options of `pip install` for it.
pub type Requirements<'a> = (&'a Path, &'a [&'a str]);

/// Why there is no environment.
#[derive(Debug)]
pub enum Missing {
    /// The package index cannot be reached from here: whoever can do without says so and goes on.
    Unreachable(String),
    /// Anything else, which is a mistake of this machine or of a list of packages.
    Broken(String),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Unreachable(why) | Self::Broken(why)) = self;
        f.write_str(why)
    }
}

impl std::error::Error for Missing {}

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

/// Makes what is missing of the environment in `folder`, in which the lists are installed one after the
/// other, and returns its interpreter. An environment that has them already is used as it is.
///
/// # Errors
/// If Python or a package cannot be had.
pub fn python(folder: &Path, lists: &[Requirements<'_>]) -> Result<PathBuf, Missing> {
    let (venv, stamp) = (folder.join("venv"), folder.join("installed.txt"));
    let python = venv.join("bin/python");
    let mut wanted = String::new();
    for (path, options) in lists {
        let list = fs::read_to_string(path).map_err(|e| broken(path, &e))?;
        wanted = format!("{wanted}{list}{}\n", options.join(" "));
    }
    if python.exists() && fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    // Anew: what an older list brought must not be there by chance.
    let made = run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    if !made.status.success() {
        return Err(Missing::Broken(format!("python3 -m venv: {}", text(&made))));
    }
    for (path, options) in lists {
        install(&python, path, options)?;
    }
    fs::write(&stamp, wanted).map_err(|e| broken(&stamp, &e))?;
    Ok(python)
}

fn install(python: &Path, list: &Path, options: &[&str]) -> Result<(), Missing> {
    let installed = run(Command::new(python)
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1"])
        .args(["--only-binary", ":all:", "-r"])
        .arg(list)
        .args(options))?;
    if installed.status.success() {
        return Ok(());
    }
    let told = text(&installed);
    Err(match NO_WAY.iter().find(|sign| told.contains(**sign)) {
        Some(sign) => Missing::Unreachable(format!("pip reaches no package index ({sign})")),
        None => Missing::Broken(format!("pip install: {told}")),
    })
}

fn broken(path: &Path, error: &std::io::Error) -> Missing {
    Missing::Broken(format!("{}: {error}", path.display()))
}

fn run(command: &mut Command) -> Result<Output, Missing> {
    command.output().map_err(|e| Missing::Broken(format!("{command:?}: {e}")))
}

fn text(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{out}{err}")
}
