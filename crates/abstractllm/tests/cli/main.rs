//! Runs the program itself, on the embedded model and real pictures.

mod adapters;
mod answers;
mod bad_input;
mod chat;
mod check_image;
mod conformance;
mod documents;
#[cfg(target_os = "linux")]
mod faults;
mod hub;
mod interrupts;
mod memory;
mod models;
mod providers;
mod quantize;
mod report;
mod serve;
mod snippets;
mod system_check;

use std::{
    ffi::OsStr,
    io::Write,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;

/// What a run of the program left.
#[derive(Debug)]
struct Run {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Run {
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Checks that this ended well, and returns what it printed.
    #[track_caller]
    fn ok(&self) -> &str {
        assert_eq!(self.code, 0, "{self:?}");
        &self.stdout
    }

    /// Checks that this ended with an error of exit code `code` that says `says`, in no more lines
    /// than a person reads, and with nothing on stdout.
    #[track_caller]
    fn fails(&self, code: i32, says: &str) {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.stderr.starts_with("error: "), "{self:?}");
        assert!(self.stderr.contains(says), "expected {says:?}: {self:?}");
        assert!(!self.stderr.contains("panicked") && !self.stderr.contains("internal error"));
        assert!(self.stderr.lines().count() <= 6, "{self:?}");
        assert_eq!(self.stdout, "");
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            // A signal would have no code; no test expects one.
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Returns the program with `arguments`, apart from the settings and caches of whoever tests.
fn program<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_abstractllm"));
    command
        .args(arguments)
        .env("ABSTRACTLLM_CACHE", concat!(env!("CARGO_TARGET_TMPDIR"), "/cache"))
        .env_remove("RUST_LOG")
        .env_remove("ABSTRACTLLM_CONFIG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn run<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Run {
    program(arguments).output().unwrap().into()
}

/// Runs the program with `input` piped in.
fn run_with_stdin(arguments: &[&str], input: impl AsRef<[u8]>) -> Run {
    piped(program(arguments), input)
}

fn piped(mut command: Command, input: impl AsRef<[u8]>) -> Run {
    let mut child: Child = command.stdin(Stdio::piped()).spawn().unwrap();
    // The program may end before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(input.as_ref());
    child.wait_with_output().unwrap().into()
}

/// Returns a path in the repository.
fn repository(path: &str) -> String {
    format!("{}/../../{path}", env!("CARGO_MANIFEST_DIR"))
}

fn hostile(name: &str) -> String {
    repository(&format!("testdata/hostile/{name}"))
}

/// A question with the answer that the reference implementation gives.
struct Case {
    images: Vec<String>,
    system: Option<String>,
    prompt: String,
    answer: String,
}

/// Returns the case `name` of `testdata/scenes`.
fn case(name: &str) -> Case {
    let path = PathBuf::from(repository("testdata/scenes/expected.json"));
    let all: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let cases = all["cases"].as_array().unwrap();
    let case = cases.iter().find(|case| case["name"] == name).unwrap();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let images = case["images"].as_array().unwrap().iter();
    Case {
        images: images
            .map(|name| repository(&format!("testdata/scenes/{}", name.as_str().unwrap())))
            .collect(),
        system: text(&case["system"]),
        prompt: text(&case["prompt"]).unwrap(),
        answer: text(&case["full"]["text"]).unwrap(),
    }
}
