//! The second question about a picture, beside mlx-vlm: its generate, its prompt cache, its server.
//!
//! ```text
//! cache run FOLDER [OPTION...]    measure, with --peers beside mlx-vlm
//! cache worker FOLDER IMAGE ROUNDS [MAX_PIXELS]
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

mod run;
mod table;
mod worker;

use std::{path::Path, process::ExitCode};

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

const USAGE: &str = "\
usage: cache run FOLDER [--peers] [--python PATH] [--rounds N] [--image FILE] [--write TITLE]

  --peers    mlx-vlm beside ours, in turns; installed below target/ the first time
  --python   the interpreter that has mlx-vlm, instead of installing it
  --rounds   processes of each side (3), with one conversation each
  --image    the picture (models/tiny-vl/samples/scene.png)
  --write    put the table under this title into docs/performance.md";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["worker", folder, image, rounds] => worker::converse(folder, image, rounds, None),
        ["worker", folder, image, rounds, most] => {
            worker::converse(folder, image, rounds, Some(most))
        }
        ["run", folder, ref rest @ ..] => {
            run::Options::parse(rest).and_then(|options| run::run(Path::new(folder), &options))
        }
        _ => Err(USAGE.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cache: {error}");
            ExitCode::FAILURE
        }
    }
}
