//! Each crate by itself, as somebody else's project has it: a package outside of the workspace that knows a path.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    ci::{Result, cargo, root, run, target},
    crates::OURS,
};

/// What a project with the crate does, and what it prints.
fn program(name: &str) -> (&'static str, &'static str) {
    match name {
        "abstractllm" => (
            "assert!(abstractllm::available_providers().contains(&\"mlx\".to_owned()));\n    \
             let llm = abstractllm::create_llm(\"mlx\", [(\"model\", \"tiny-vl\")]).unwrap();\n    \
             println!(\"{}\", llm.info().provider);",
            "mlx",
        ),
        "llm-core" => {
            ("println!(\"{}\", llm_core::Request::text(\"hello\").messages[0].text());", "hello")
        }
        "vision-preproc" => (
            "println!(\"{}\", vision_preproc::Preprocessor::preset(\"qwen2.5-vl\").is_ok());",
            "true",
        ),
        "mlx-backend" => (
            "let error = mlx_backend::MlxProvider::load(\"/no/such/model\", Default::default()).unwrap_err();\n    \
             println!(\"{}\", error.to_string().contains(\"/no/such/model\"));",
            "true",
        ),
        "http-backend" => (
            "let options = http_backend::OpenAiOptions::default();\n    \
             println!(\"{}\", http_backend::OpenAiProvider::new(\"\", options).is_err());",
            "true",
        ),
        "media-loader" => (
            "println!(\"{}\", media_loader::Loader::default().prompt(\"hello\").unwrap().len());",
            "1",
        ),
        "llm-session" => ("println!(\"{}\", llm_session::Session::new().turns().len());", "0"),
        "llm-server" => {
            ("println!(\"{}\", llm_server::ServerOptions::default().max_running);", "8")
        }
        "perf-monitor" => (
            "println!(\"{}\", perf_monitor::PerformanceMonitor::default().report().to_json().starts_with('{'));",
            "true",
        ),
        _ => unreachable!("every crate of the table has a program"),
    }
}

/// Builds and runs a project for each crate.
pub(crate) fn build() -> Result {
    // The largest is the first of the table.
    OURS.iter().rev().try_for_each(|name| {
        let folder = target().join("alone").join(name);
        let (body, prints) = program(name);
        write(&folder, name, body).map_err(|e| format!("{}: {e}", folder.display()))?;
        let manifest = folder.join("Cargo.toml");
        let in_project = |arguments: &str| {
            let mut command: Command = cargo(arguments);
            command.arg("--manifest-path").arg(&manifest);
            // What is common to the projects is built once.
            command.env("CARGO_TARGET_DIR", target().join("alone/target"));
            command
        };
        run(&mut in_project("build --quiet"))?;
        let output = in_project("run --quiet")
            .stderr(Stdio::inherit())
            .output()
            .map_err(|e| format!("`cargo run` could not be started: {e}"))?;
        let printed = String::from_utf8_lossy(&output.stdout);
        if output.status.success() && printed.trim() == prints {
            return Ok(());
        }
        Err(format!("{name} alone: expected {prints:?}, found {printed:?} ({})", output.status))
    })
}

fn write(folder: &Path, name: &str, body: &str) -> std::io::Result<()> {
    fs::create_dir_all(folder.join("src"))?;
    let path = |name: &str| root().join("crates").join(name).display().to_string();
    // The patch is what the README asks of every workspace that builds for Linux; Cargo warns where it is of no use.
    let patch = match name {
        "abstractllm" | "mlx-backend" => {
            format!("\n[patch.crates-io]\nmlx-sys = {{ path = {:?} }}\n", path("mlx-sys"))
        }
        _ => String::new(),
    };
    let manifest = format!(
        "[package]\nname = \"uses-{name}\"\nedition = \"2024\"\npublish = false\n\n[workspace]\n\n[dependencies]\n\
         {name} = {{ path = {:?} }}\n{patch}",
        path(name)
    );
    fs::write(folder.join("Cargo.toml"), manifest)?;
    fs::write(folder.join("src/main.rs"), format!("fn main() {{\n    {body}\n}}\n"))?;
    // The versions that the workspace was tested with; they are in Cargo's cache already.
    fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock")).map(drop)
}
