//! What a change must pass, quickest first. The first step that fails ends the run.

use std::{
    path::Path,
    process::{Command, Stdio},
};

type Result = std::result::Result<(), String>;

pub(crate) fn all() -> Result {
    run(&mut cargo("fmt --all -- --check"))?;
    run(&mut cargo("clippy --workspace --all-targets -- -D warnings"))?;
    test()?;
    run(cargo("doc --workspace --no-deps").env("RUSTDOCFLAGS", "-D warnings"))?;
    dependencies()
}

pub(crate) fn test() -> Result {
    run(&mut cargo("test --workspace"))
}

/// Checks licences, advisories, bans and sources with cargo-deny. Building that tool takes minutes,
/// so nothing installs it unasked.
fn dependencies() -> Result {
    let probe = cargo("deny --version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if probe.is_ok_and(|status| status.success()) {
        return run(&mut cargo("deny --workspace check"));
    }
    eprintln!("xtask: SKIPPED the check of licences and advisories: cargo-deny is not installed");
    eprintln!("xtask: to install it: cargo install --locked cargo-deny");
    Ok(())
}

/// The Cargo that runs this task, in the root of the workspace.
fn cargo(arguments: &str) -> Command {
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the workspace");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments.split(' ')).current_dir(root).stdin(Stdio::null());
    command
}

fn run(command: &mut Command) -> Result {
    let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
    let line = format!("cargo {}", arguments.join(" "));
    eprintln!("xtask: {line}");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{line}` failed ({status})")),
        Err(error) => Err(format!("`{line}` could not be started: {error}")),
    }
}
