//! What a change must pass, quickest first. The first step that fails ends the run.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{crates, instructions};

pub(crate) type Result<T = ()> = std::result::Result<T, String>;

pub(crate) fn all() -> Result {
    run(&mut cargo("fmt --all -- --check"))?;
    crates::table(false)?;
    run(&mut cargo("clippy --workspace --all-targets -- -D warnings"))?;
    test()?;
    run(cargo("doc --workspace --no-deps").env("RUSTDOCFLAGS", "-D warnings"))?;
    instructions::gate(false)?;
    dependencies()
}

pub(crate) fn test() -> Result {
    run(&mut cargo("test --workspace"))
}

/// Checks licences, bans, sources and advisories with cargo-deny. Building that tool takes minutes, so nothing installs
/// it unasked, and the advisories are fetched, so a machine without a network does without them.
pub(crate) fn dependencies() -> Result {
    if !succeeds("deny --version") {
        eprintln!(
            "xtask: SKIPPED the check of licences and advisories: cargo-deny is not installed"
        );
        eprintln!("xtask: to install it: cargo install --locked cargo-deny");
        return Ok(());
    }
    run(&mut cargo("deny --workspace check bans licenses sources"))?;
    if !succeeds("deny fetch db") {
        eprintln!("xtask: SKIPPED the check of advisories: their database could not be fetched");
        return Ok(());
    }
    run(&mut cargo("deny --workspace check advisories"))
}

fn succeeds(arguments: &str) -> bool {
    let status = cargo(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the workspace")
}

/// The folder that Cargo builds into.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The Cargo that runs this task, in the root of the workspace.
pub(crate) fn cargo(arguments: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments.split(' ')).current_dir(root()).stdin(Stdio::null());
    command
}

pub(crate) fn run(command: &mut Command) -> Result {
    let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
    let line = format!("cargo {}", arguments.join(" "));
    eprintln!("xtask: {line}");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{line}` failed ({status})")),
        Err(error) => Err(format!("`{line}` could not be started: {error}")),
    }
}
