//! Tasks of this repository: `cargo xtask test` and `cargo xtask ci`.
#![forbid(unsafe_code)]
#![allow(clippy::print_stderr, reason = "the tasks tell a person at a terminal what they do")]

mod ci;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask TASK

  test   run all tests of the workspace
  ci     everything a change must pass: format, lints, tests, documentation, dependencies";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["test"] => ci::test(),
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
