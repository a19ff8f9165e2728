//! Generation beside mlx-vlm: the same requests to the same checkpoint on the same MLX, in turns.
//!
//! ```text
//! generate make GEOMETRY FOLDER     write a checkpoint of true size with random weights
//! generate run FOLDER [OPTION...]   measure, with --peers beside mlx-vlm
//! generate worker FOLDER IMAGE TOKENS REQUESTS
//! generate batch FOLDER IMAGE TOKENS REQUESTS SIZES
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

mod batch;
mod checkpoint;
mod geometry;
mod outcome;
mod process;
mod random;
mod run;
mod sample;
mod table;
mod worker;

use std::{path::Path, process::ExitCode};

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

const USAGE: &str = "\
usage: generate make GEOMETRY FOLDER
       generate run FOLDER [--peers] [--python PATH] [--rounds N] [--tokens N] [--requests N]
                           [--image WIDTHxHEIGHT] [--batch N,N,... | --no-batch] [--write]

  make         a checkpoint with random weights: 7b-4bit, 3b, 3b-4layers or 0.5b-4bit
  --peers      mlx-vlm beside ours, in turns; installed below target/ the first time
  --python     the interpreter that has mlx-vlm, instead of installing it
  --rounds     processes of each side (3)
  --tokens     tokens of an answer (200)
  --requests   requests of a process, the first of them cold (3)
  --image      size of the image (1920x1080)
  --batch      requests at a time, by themselves after all else (1,4,16)
  --no-batch   nothing of that
  --write      put the table into docs/performance.md";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["make", geometry, folder] => checkpoint::make(geometry, Path::new(folder)),
        ["worker", folder, image, tokens, requests] => {
            worker::answer(folder, image, tokens, requests)
        }
        ["batch", folder, image, tokens, requests, sizes] => {
            batch::answer(folder, image, tokens, requests, sizes)
        }
        ["run", folder, ref rest @ ..] => {
            run::Options::parse(rest).and_then(|options| run::run(Path::new(folder), &options))
        }
        _ => Err(USAGE.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("generate: {error}");
            ExitCode::FAILURE
        }
    }
}
