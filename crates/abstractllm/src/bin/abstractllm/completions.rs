//! The command `completions`: what shells need to complete the program's options.

use std::io::{self, Write};

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::{args::Cli, failure::Failure};

const EXAMPLES: &str = "\
Examples:
  abstractllm completions bash > ~/.local/share/bash-completion/completions/abstractllm
  abstractllm completions zsh > ~/.zfunc/_abstractllm
  abstractllm completions fish > ~/.config/fish/completions/abstractllm.fish";

/// Prints what a shell needs to complete options, for its own file of completions
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CompletionsArgs {
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    // Into memory first: straight into a pipe that is closed it would panic.
    clap_complete::generate(args.shell, &mut Cli::command(), env!("CARGO_BIN_NAME"), &mut script);
    Ok(io::stdout().write_all(&script)?)
}
