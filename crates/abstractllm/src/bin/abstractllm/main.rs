//! The program `abstractllm`: describes images, answers questions about them, serves models, and says what a
//! machine can do. Its commands and their outputs are documented in `docs/cli.md`.
#![forbid(unsafe_code)]

mod adapters;
mod answer;
mod args;
mod chat;
mod check_image;
mod completions;
mod failure;
mod fetch;
mod format;
mod images;
mod interrupt;
mod kv_args;
mod load;
mod logging;
mod man;
mod model_args;
mod models;
mod output;
mod progress;
mod prompt;
mod quantize;
mod report;
mod report_args;
mod serve;
mod serve_args;
mod system_check;
mod videos;

use clap::Parser;
use signal_hook::low_level;

use crate::args::{Cli, Command};

fn main() {
    failure::install_panic_hook();
    let cli = Cli::parse();
    logging::install(cli.verbose, cli.quiet);
    let done = match cli.command {
        Command::Describe(args) => answer::describe(args, cli.quiet),
        Command::Generate(args) => answer::generate(args, cli.quiet),
        Command::Chat(args) => chat::run(&args, cli.quiet),
        Command::CheckImage(args) => check_image::run(&args),
        Command::SystemCheck(args) => system_check::run(&args),
        Command::Models(args) => models::run(&args, cli.quiet),
        Command::Quantize(args) => quantize::run(&args, cli.quiet),
        Command::Report(args) => report::run(&args, cli.quiet),
        Command::Serve(args) => serve::run(&args, cli.quiet),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    };
    // Not by returning: that would run the destructors of MLX while its thread frees the model, and
    // giving gigabytes back piece by piece takes longer than letting the system do it. Whoever
    // writes to stdout here also flushes it.
    low_level::exit(match done {
        Ok(()) => 0,
        Err(failure) => failure.report(),
    })
}
