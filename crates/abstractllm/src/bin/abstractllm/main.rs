//! The program `abstractllm`: describes images, answers questions about them, and says what a
//! machine can do. Its commands and their outputs are documented in `docs/cli.md`.
#![forbid(unsafe_code)]

mod answer;
mod args;
mod check_image;
mod failure;
mod format;
mod images;
mod interrupt;
mod logging;
mod output;
mod progress;
mod prompt;
mod system_check;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    args::{Cli, Command},
    failure::Failure,
};

fn main() -> ExitCode {
    failure::install_panic_hook();
    let cli = Cli::parse();
    logging::install(cli.verbose, cli.quiet);
    let done = match cli.command {
        Command::Describe(args) => answer::describe(args, cli.quiet),
        Command::Generate(args) => answer::generate(args, cli.quiet),
        Command::CheckImage(args) => check_image::run(&args),
        Command::SystemCheck(args) => system_check::run(&args),
    };
    done.unwrap_or_else(Failure::report)
}
