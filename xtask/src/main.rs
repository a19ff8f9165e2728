//! Tasks of this repository, run as `cargo xtask TASK`.
#![forbid(unsafe_code)]
#![allow(clippy::print_stderr, reason = "the tasks tell a person at a terminal what they do")]

mod ci;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask TASK

  test           run all tests of the workspace
  dependencies   licences, bans, sources and advisories, if cargo-deny is installed
  ci             everything a change must pass: format, lints, tests, documentation, dependencies";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["test"] => ci::test(),
        ["dependencies"] => ci::dependencies(),
        ["ci"] => ci::all(),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}
