//! The build on Apple systems: whatever the published crate does, by letting it do it.
//!
//! Cargo compiles the published mlx-sys in a target folder of its own, and what its build script
//! told Cargo is told again for this crate.

use std::env;
use std::path::{Path, PathBuf};

use serde_json::Value;

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
    for line in build.directives(&mlx_c) {
        println!("{line}");
    }
    Ok(())
}

/// What Cargo reports about the build script of the published crate.
#[derive(Debug)]
struct PublishedBuild {
    out_dir: PathBuf,
    linked_libs: Vec<String>,
    linked_paths: Vec<String>,
}

impl PublishedBuild {
    /// Finds the report among the messages of `cargo build`, one JSON object in a line.
    fn from_messages(messages: &str) -> Option<Self> {
        let report = messages
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find(|message| {
            // Written `registry+…#mlx-sys@0.7.0` by this Cargo.
            message["reason"] == "build-script-executed"
                && message["package_id"].as_str().is_some_and(|id| id.contains("#mlx-sys@"))
        })?;
        let strings = |value: &Value| -> Option<Vec<String>> {
            value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
        };
        Some(Self {
            out_dir: report["out_dir"].as_str()?.into(),
            linked_libs: strings(&report["linked_libs"])?,
            linked_paths: strings(&report["linked_paths"])?,
        })
    }

    /// What this build script has to say to have the same effect.
    fn directives(&self, mlx_c: &Path) -> Vec<String> {
        let mut lines = Vec::new();
        lines.extend(
            self.linked_paths.iter().map(|path| format!("cargo::rustc-link-search={path}")),
        );
        lines.extend(self.linked_libs.iter().map(|lib| format!("cargo::rustc-link-lib={lib}")));
        let out_dir = self.out_dir.display();
        lines.push(format!("cargo::rustc-env=MLX_SYS_BINDINGS={out_dir}/bindings.rs"));
        // Cargo's messages leave the metadata out; this is how the published script makes it.
        let deps = self.out_dir.join("build/_deps");
        let include = [deps.join("mlx-src"), deps.join("metal_cpp-src"), mlx_c.to_owned()]
            .into_iter()
            .filter(|dir| dir.is_dir())
            .map(|dir| dir.display().to_string());
        lines.push(format!("cargo::metadata=include={}", include.collect::<Vec<_>>().join(":")));
        lines.push("cargo::metadata=defines=MLX_STATIC".to_owned());
        lines.push(format!("cargo::metadata=version={}", wheel::VERSION));
        lines
    }
}
