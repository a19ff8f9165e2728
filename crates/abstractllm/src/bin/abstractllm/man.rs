//! The command `man`: the manual pages, made of what `--help` says.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use abstractllm::{Error, ErrorKind};
use clap::{Args, Command, CommandFactory};
use clap_mangen::Man;
use serde_json::json;

use crate::{args::Cli, failure::Failure, output};

const EXAMPLES: &str = "\
Examples:
  abstractllm man | man -l -
  abstractllm man --dir ~/.local/share/man/man1";

/// Prints the manual page, or writes those of all commands into a folder
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ManArgs {
    /// A folder for abstractllm.1 and a page for each command, such as abstractllm-describe.1; it is
    /// made if there is none, and older pages are replaced
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Prints the names of what was written as one JSON object
    #[arg(long, requires = "dir", help_heading = "Output")]
    json: bool,
}

pub(crate) fn run(args: &ManArgs) -> Result<(), Failure> {
    let mut cli = Cli::command().disable_help_subcommand(true);
    // Gives each command its global options and its full name.
    cli.build();
    let Some(dir) = &args.dir else {
        let mut page = Vec::new();
        man(&cli).render(&mut page)?;
        return Ok(io::stdout().write_all(&page)?);
    };
    let mut pages = Vec::new();
    fs::create_dir_all(dir).and_then(|()| write(&cli, dir, &mut pages)).map_err(|e| {
        Error::new(ErrorKind::Io, format!("cannot write pages into {}", dir.display()))
            .with_source(e)
    })?;
    match args.json {
        true => Ok(output::pretty(&json!({"pages": pages}))?),
        false => Ok(()),
    }
}

/// Writes the pages of `command` and of all its commands.
fn write(command: &Command, dir: &Path, pages: &mut Vec<PathBuf>) -> io::Result<()> {
    pages.push(man(command).generate_to(dir)?);
    command.get_subcommands().try_for_each(|command| write(command, dir, pages))
}

fn man(command: &Command) -> Man {
    Man::new(command.clone()).source(concat!("abstractllm ", env!("CARGO_PKG_VERSION")))
}
