//! Reads what the build script of the published crate told Cargo, and says it again.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// What Cargo reports about the build script of the published crate.
#[derive(Debug)]
pub(crate) struct PublishedBuild {
    out_dir: PathBuf,
    linked_libs: Vec<String>,
    linked_paths: Vec<String>,
}

impl PublishedBuild {
    /// Finds the report among the messages of `cargo build`, one JSON object in a line.
    pub(crate) fn from_messages(messages: &str) -> Option<Self> {
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
    pub(crate) fn directives(&self, mlx_c: &Path, mlx_version: &str) -> Vec<String> {
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
        lines.push(format!("cargo::metadata=version={mlx_version}"));
        lines
    }
}
