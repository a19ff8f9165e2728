//! Finds the sources of mlx-c, which are a part of the published mlx-sys package.
//!
//! Cargo brings that package for a small manifest of its own, with a lock file that carries the
//! checksums. A plain dependency would not do: the patch that puts this crate in place of the
//! published one holds for the whole workspace.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

use serde_json::Value;

use crate::Result;

/// Where the sources of mlx-c are; `work` is a folder for the manifest.
pub(crate) fn mlx_c(work: &Path) -> Result<PathBuf> {
    write_manifest(work).map_err(|error| format!("cannot write to {}: {error}", work.display()))?;
    // Offline first: where Cargo has the packages already, there is no need to ask the registry.
    let metadata = metadata(work, true).or_else(|_| metadata(work, false))?;
    let root = package_root(&metadata).ok_or(
        "Cargo did not resolve mlx-sys 0.7.0 to the published package; a [patch] for mlx-sys \
         belongs into the Cargo.toml of a workspace, not into Cargo's configuration",
    )?;
    let mlx_c = root.join("src/mlx-c");
    if mlx_c.is_dir() { Ok(mlx_c) } else { Err(format!("{} does not exist", mlx_c.display())) }
}

/// Writes a package that does nothing but depend on the published mlx-sys.
pub(crate) fn write_manifest(work: &Path) -> io::Result<()> {
    fs::create_dir_all(work)?;
    fs::write(work.join("Cargo.toml"), include_str!("mlx-c-sources.toml"))?;
    fs::write(work.join("Cargo.lock"), include_str!("mlx-c-sources.lock"))?;
    fs::write(work.join("lib.rs"), "")
}

/// A Cargo that works for the package in `work`.
pub(crate) fn cargo(work: &Path) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(work);
    cargo
}

fn metadata(work: &Path, offline: bool) -> Result<Value> {
    let mut cargo = cargo(work);
    cargo.args(["metadata", "--locked", "--format-version=1"]);
    if offline {
        cargo.arg("--offline");
    }
    let output = cargo.output().map_err(|error| format!("cannot run cargo: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "Cargo could not fetch the published mlx-sys 0.7.0, which holds the sources of mlx-c; \
             check the network, or run `cargo fetch` for a package that depends on it while there \
             is one\n{}",
            String::from_utf8_lossy(&output.stderr).trim()
        ));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("cargo metadata: {error}"))
}

fn package_root(metadata: &Value) -> Option<PathBuf> {
    let packages = metadata["packages"].as_array()?;
    let package = packages.iter().find(|package| {
        // A package without a source is one from a path: this crate, through a patch.
        package["name"] == "mlx-sys"
            && package["version"] == "0.7.0"
            && package["source"] != Value::Null
    })?;
    Some(Path::new(package["manifest_path"].as_str()?).parent()?.to_owned())
}
