//! Preprocessing beside its peers: the same jobs, interleaved in one run, one thread each.
//!
//! ```text
//! preproc peers [--rounds N] [--no-torch] [--dry]    compare, and write the tables into docs/performance.md
//! preproc threads [--rounds N] [IMAGE...]            two images on two threads beside two on one
//! preproc floors IMAGE                               the stages of a letterbox, each by itself
//! preproc worker NAME [LIBJPEG]                      answer lines; see worker.rs
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

mod compare;
mod floors;
mod job;
mod libjpeg;
mod ours;
mod process;
mod python;
mod run;
mod table;
mod threads;
mod turbo;
mod worker;

use std::process::ExitCode;

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

const USAGE: &str = "\
usage: preproc peers [--rounds N] [--no-torch] [--dry]
       preproc threads [--rounds N] [IMAGE...]
       preproc floors IMAGE

  --rounds N   runs of each job by each peer (15), or pairs of runs (200)
  --no-torch   leave out what needs torch, five gigabytes on Linux
  --dry        print the tables and leave docs/performance.md as it is";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["worker", name, ref rest @ ..] => worker::answer(name, rest.first().copied()),
        ["threads", ref rest @ ..] => threads::compare(rest),
        ["floors", image] => floors::print(image),
        ["peers", ref rest @ ..] => {
            run::Options::parse(rest).and_then(|options| run::peers(&options))
        }
        _ => Err(USAGE.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("preproc: {error}");
            ExitCode::FAILURE
        }
    }
}
