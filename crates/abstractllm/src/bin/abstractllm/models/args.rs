//! What can be said after `models`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Lists, fetches and removes models
#[derive(Debug, Args)]
pub(crate) struct ModelsArgs {
    #[command(subcommand)]
    pub(super) action: ModelsAction,
}

#[derive(Debug, Subcommand)]
pub(super) enum ModelsAction {
    List(ListArgs),
    Info(InfoArgs),
    Pull(PullArgs),
    Rm(RemoveArgs),
}

const LIST_EXAMPLES: &str = "\
Examples:
  abstractllm models list
  abstractllm models list ~/models ./Qwen2.5-VL-3B-Instruct-4bit --json";

/// Lists the models on this machine: the embedded one, those of the Hugging Face cache, and those in
/// folders that are named
#[derive(Debug, Args)]
#[command(after_help = LIST_EXAMPLES)]
pub(super) struct ListArgs {
    /// Folders of models, or with models in them
    #[arg(value_name = "DIR")]
    pub(super) folders: Vec<PathBuf>,
    /// Prints one JSON object
    #[arg(long, help_heading = "Output")]
    pub(super) json: bool,
}

/// Says what a model on this machine is and can do; loads nothing
#[derive(Debug, Args)]
pub(super) struct InfoArgs {
    /// tiny-vl, a folder, or organisation/model in the cache
    #[arg(value_name = "MODEL")]
    pub(super) model: String,
    /// Prints one JSON object
    #[arg(long, help_heading = "Output")]
    pub(super) json: bool,
}

const PULL_EXAMPLES: &str = "\
Examples:
  abstractllm models pull mlx-community/Qwen2.5-VL-3B-Instruct-4bit
  abstractllm models pull mlx-community/Qwen2.5-VL-3B-Instruct-4bit@main

What an earlier try has fetched is not fetched again. HF_TOKEN or `hf auth login` opens what is closed.";

/// Downloads a model from the Hugging Face hub into the cache, or what is new of it
#[derive(Debug, Args)]
#[command(after_help = PULL_EXAMPLES)]
pub(super) struct PullArgs {
    /// organisation/model, with @revision for another one than main
    #[arg(value_name = "MODEL")]
    pub(super) model: String,
    /// Prints one JSON object a line: a `file` as its download begins, then `end`
    #[arg(long, help_heading = "Output")]
    pub(super) json: bool,
}

const REMOVE_EXAMPLES: &str = "\
Examples:
  abstractllm models rm mlx-community/Qwen2.5-VL-3B-Instruct-4bit
  abstractllm models rm --yes org/one org/two

All revisions go. Nothing outside of the cache is ever removed, and nothing that is being downloaded.";

/// Removes models from the Hugging Face cache, after asking
#[derive(Debug, Args)]
#[command(after_help = REMOVE_EXAMPLES)]
pub(super) struct RemoveArgs {
    /// organisation/model, as listed
    #[arg(required = true, value_name = "MODEL")]
    pub(super) models: Vec<String>,
    /// Does not ask
    #[arg(short, long)]
    pub(super) yes: bool,
    /// Prints one JSON object
    #[arg(long, help_heading = "Output")]
    pub(super) json: bool,
}
