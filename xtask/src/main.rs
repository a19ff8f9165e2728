//! Tasks of this repository, run as `cargo xtask TASK`.
#![forbid(unsafe_code)]
#![allow(clippy::print_stderr, reason = "the tasks tell a person at a terminal what they do")]

mod alone;
mod bench;
mod ci;
mod crates;
mod instructions;
mod sbom;
mod table;
mod verify;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask TASK

  test           run all tests of the workspace
  dependencies   licences, bans, sources and advisories, if cargo-deny is installed
  sbom [TRIPLE]  a bill of materials of the program in target/sbom, as CycloneDX; needs cargo-cyclonedx
  crates         writes how many crates each of ours brings into the README
  crates --alone builds and runs a project outside of the workspace for each crate, which has it alone
  bench [OPTION...]
                 the criterion benches of every crate, which get the options, and a table of them in
                 target/criterion/table.md
  bench instructions [--store]
                 counts instructions under Valgrind; fails if a count grew, or stores the counts
  bench preproc [OPTION...]
                 the stages of preprocessing, by criterion, which gets the options
  bench preproc --peers [--rounds N] [--no-torch] [--dry]
                 preprocessing beside Pillow, transformers and others, into docs/performance.md;
                 installs them below target/ and needs the network the first time
  bench preproc --threads [--rounds N] [IMAGE...]
                 two images on two threads beside two on one
  bench preproc --floors IMAGE
                 the stages of a letterbox of IMAGE, each by itself
  bench cache FOLDER [--peers] [OPTION...]
                 the second question about a picture to the checkpoint in FOLDER, beside mlx-vlm
  bench checkpoint GEOMETRY FOLDER
                 a checkpoint with random weights: 7b-4bit, 3b, 3b-4layers or 0.5b-4bit
  bench generate FOLDER [--peers] [OPTION...]
                 loading and generation, with --peers beside mlx-vlm on the same MLX
  verify [--only families|faults|fuzz] [--fuzz-seconds N] [--soak-seconds N]
                 runs the command of every row of the tables in docs/model-support.md, docs/faults.md and
                 docs/fuzzing.md; a fuzz target and the soak take ten minutes each where nothing else is said
  ci             everything a change must pass: format, lints, tests, documentation, dependencies";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["test"] => ci::test(),
        ["dependencies"] => ci::dependencies(),
        ["sbom"] => sbom::write(None),
        ["sbom", triple] => sbom::write(Some(triple)),
        ["crates"] => crates::table(true),
        ["crates", "--alone"] => alone::build(),
        ["bench", "preproc", "--peers", ref options @ ..] => bench::peers(options),
        ["bench", "preproc", "--threads", ref options @ ..] => bench::threads(options),
        ["bench", "preproc", "--floors", ref options @ ..] => bench::floors(options),
        ["bench", "checkpoint", ref options @ ..] => bench::checkpoint(options),
        ["bench", "generate", ref options @ ..] => bench::generate(options),
        ["bench", "cache", ref options @ ..] => bench::cache(options),
        ["bench", "preproc", ref options @ ..] => bench::stages(options),
        ["bench", "instructions"] => instructions::gate(false),
        ["bench", "instructions", "--store"] => instructions::gate(true),
        ["bench", ref options @ ..] => bench::all(options),
        ["verify", ref options @ ..] => verify::all(options),
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
