//! The build on Apple systems: whatever the published crate does, by letting it do it.
//!
//! Cargo compiles the published mlx-sys in a target folder of its own, and what its build script
//! told Cargo is told again for this crate.

use std::env;
use std::path::PathBuf;

use crate::published::PublishedBuild;
use crate::{Result, cargo_env, sources, wheel};

/// Marks the inner Cargo, to notice when it comes back here.
const MARK: &str = "MLX_SYS_INNER_BUILD";

pub(crate) fn build() -> Result<()> {
    println!("cargo::rerun-if-changed=build");
    // Read by the published build script.
    println!("cargo::rerun-if-env-changed=MLX_RS_METAL_PATH");
    if env::var_os(MARK).is_some() {
        return Err(
            "a [patch] for mlx-sys belongs into the Cargo.toml of a workspace; in Cargo's \
                    configuration it replaces the published package in every build"
                .to_owned(),
        );
    }
    let out_dir = PathBuf::from(cargo_env("OUT_DIR"));
    let work = out_dir.join("mlx-c-sources");
    let mlx_c = sources::mlx_c(&work)?;

    let features = ["accelerate", "metal", "metal-jit"]
        .into_iter()
        .filter(|name| {
            let variable = name.to_uppercase().replace('-', "_");
            env::var_os(format!("CARGO_FEATURE_{variable}")).is_some()
        })
        .map(|name| format!("mlx-sys/{name}"));
    let mut cargo = sources::cargo(&work);
    cargo.args(["build", "--locked", "--message-format=json-render-diagnostics", "--target"]);
    cargo.args([cargo_env("TARGET"), "--target-dir".to_owned()]).arg(out_dir.join("target"));
    cargo.args(["--no-default-features", "--features", &features.collect::<Vec<_>>().join(",")]);
    if cargo_env("PROFILE") == "release" {
        cargo.arg("--release");
    }
    // Wrappers such as Clippy's are meant for the workspace being built.
    cargo.env_remove("RUSTC_WORKSPACE_WRAPPER").env(MARK, "1");
    let output = cargo.output().map_err(|error| format!("cannot run cargo: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "the published mlx-sys 0.7.0 did not build\n{}",
            String::from_utf8_lossy(&output.stderr).trim()
        ));
    }
    let build = PublishedBuild::from_messages(&String::from_utf8_lossy(&output.stdout))
        .ok_or("Cargo did not report what the build script of mlx-sys 0.7.0 said")?;
    for line in build.directives(&mlx_c, wheel::VERSION) {
        println!("{line}");
    }
    Ok(())
}
