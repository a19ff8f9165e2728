//! A crate that is not of this workspace adds a provider, which keeps the promises of all providers.

use std::{fs, path::Path, process::Command};

#[test]
fn a_provider_from_outside_conforms() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let example = root.join("examples/own-provider");
    let lines = fs::read_to_string(example.join("src/lib.rs")).unwrap().lines().count();
    assert!(lines < 80, "an example should be short: {lines} lines");
    // The versions that this workspace was tested with; nothing new is fetched.
    fs::copy(root.join("Cargo.lock"), example.join("Cargo.lock")).unwrap();
    let status = Command::new(env!("CARGO"))
        .args(["test", "--quiet", "--offline", "--manifest-path"])
        .arg(example.join("Cargo.toml"))
        .env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("own-provider"))
        .status()
        .unwrap();
    assert!(status.success(), "the tests of {} failed", example.display());
}
