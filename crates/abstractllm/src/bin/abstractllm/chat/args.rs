//! What can be said after `chat`.

use std::{ffi::OsString, path::PathBuf};

use clap::Args;

use crate::{
    args::{BudgetArgs, SamplingArgs, VideoArgs},
    model_args::ModelArgs,
};

const EXAMPLES: &str = "\
Examples:
  abstractllm chat
  abstractllm chat --image photo.jpg --model mlx-community/Qwen2.5-VL-3B-Instruct-4bit
  abstractllm chat --session trip.json
  printf 'Hello\\nWho are you?\\n' | abstractllm chat

A line that begins with / is a command; /help lists them. A line that ends with \\ goes on in the next.
Ctrl-C stops the answer, Ctrl-D ends the conversation.";

/// Talks with a model, in turns
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ChatArgs {
    /// An image file or data: URL that goes with the first message; may be repeated
    #[arg(short, long = "image", value_name = "IMAGE")]
    pub(crate) images: Vec<OsString>,
    #[command(flatten)]
    pub(crate) videos: VideoArgs,
    /// A file that keeps the conversation: read at the start if it is there, written after each turn
    #[arg(short, long, value_name = "FILE")]
    pub(crate) session: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) budget: BudgetArgs,
    /// Prints one JSON object a line: for each answer, and for what a command did
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
}
