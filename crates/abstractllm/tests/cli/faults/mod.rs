//! What is left when a program is killed, a disk is full or cannot be written, and when two programs want the
//! same: docs/faults.md has the table.

mod disk;
mod full;
mod kills;
mod read_only;
mod shared;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{Case, Run, program, repository};

/// Waits until `seen`, which `child` brings about while it runs.
#[track_caller]
fn until(child: &mut Child, what: &str, seen: impl Fn() -> bool) {
    let began = Instant::now();
    while !seen() {
        assert!(began.elapsed() < Duration::from_secs(120), "no {what}");
        if let Some(status) = child.try_wait().unwrap() {
            assert!(seen(), "the program ended ({status}) without {what}");
        }
        thread::sleep(Duration::from_micros(100));
    }
}

/// Ends `child` as `kill -9` does, whatever it is doing.
fn kill_9(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

/// Returns the paths in `folder` whose names end with `end`; none if there is no folder.
fn files(folder: &Path, end: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|e| e.path()).filter(|p| p.to_str().unwrap().ends_with(end)).collect()
}

/// Returns the program that answers `case`, with a cache in `cache_dir`.
fn ask(case: &Case, cache_dir: &Path) -> Command {
    let model = repository("models/tiny-vl/full");
    let mut command = program(["generate", "--json", "--model", &model, "--prompt", &case.prompt]);
    case.images.iter().for_each(|image| {
        command.args(["--image", image]);
    });
    command.arg("--cache-dir").arg(cache_dir).env("RUST_LOG", "mlx_backend=warn");
    command
}

/// Checks that `run` gave the answer of `case` and knew of no damage, and returns how many tokens of its
/// prompt were in the cache.
#[track_caller]
fn answered(run: &Run, case: &Case) -> u64 {
    run.ok();
    assert!(!run.stderr.contains("damaged"), "{run:?}");
    let answer: Value = run.json();
    assert_eq!(answer["text"], case.answer, "{run:?}");
    answer["usage"]["cached_tokens"].as_u64().unwrap_or(0)
}
