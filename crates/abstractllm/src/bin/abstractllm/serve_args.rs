//! What can be said after `serve`.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use abstractllm::mlx::ByteSize;
use clap::Args;

use crate::model_args::ModelArgs;

const EXAMPLES: &str = "\
Examples:
  abstractllm serve
  abstractllm serve --model mlx-community/Qwen2.5-VL-3B-Instruct-4bit --alias gpt-4o --port 8000
  ABSTRACTLLM_API_KEY=secret abstractllm serve --host 0.0.0.0

Ask it with any client of OpenAI's chat completions, at http://HOST:PORT/v1.
Ctrl-C or SIGTERM: answers in the making end, others are refused. A second one ends at once.";

/// Serves a model over HTTP, as OpenAI's chat completions are spoken
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) listen: ListenArgs,
    #[command(flatten)]
    pub(crate) bounds: BoundsArgs,
    /// Prints one JSON object when the server is ready
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
}

/// Where the server is, and for whom.
#[derive(Debug, Args)]
#[command(next_help_heading = "Server")]
pub(crate) struct ListenArgs {
    /// The address to listen at; 127.0.0.1 is reached from this machine only
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub(crate) host: IpAddr,
    /// The port to listen at; 0 takes a free one
    #[arg(long, value_name = "N", default_value_t = 8080)]
    pub(crate) port: u16,
    /// Another name that clients may call the model by; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) alias: Vec<String>,
    /// A file with the keys that clients must send, one a line; the variable `ABSTRACTLLM_API_KEY`
    /// holds a single one
    #[arg(long, value_name = "FILE")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// Lets everyone in who reaches this machine: without it, an address that others reach needs
    /// a key
    #[arg(long, conflicts_with = "api_key_file")]
    pub(crate) without_key: bool,
    /// Fetches images that a request names by an http or https address, none of them from this machine or
    /// a private network; without it images are data URLs
    #[arg(long)]
    pub(crate) fetch_images: bool,
    /// Lets images come from this machine and its private networks too: clients can then reach what only
    /// this machine does
    #[arg(long, requires = "fetch_images")]
    pub(crate) allow_private_addresses: bool,
    /// Ignores fields of a request that mean nothing here instead of refusing it; the header
    /// x-ignored-fields of the answer lists them
    #[arg(long)]
    pub(crate) ignore_unknown_fields: bool,
}

/// How much at once.
#[derive(Debug, Args)]
#[command(next_help_heading = "Bounds")]
pub(crate) struct BoundsArgs {
    /// Most answers in the making; others wait
    #[arg(long, value_name = "N", default_value = "8", value_parser = at_least_one)]
    pub(crate) max_running: usize,
    /// Most requests that wait; one more is refused with status 429
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub(crate) max_waiting: usize,
    /// Longest time that a request waits before it is refused with status 503
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub(crate) max_wait: Duration,
    /// Largest body of a request, images included, such as 32MiB; also most bytes of images that it names
    /// by address
    #[arg(long, value_name = "SIZE", default_value = "32MiB")]
    pub(crate) max_body: ByteSize,
    /// How long answers in the making may take to end when the server is stopped
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub(crate) grace: Duration,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|&number| number > 0);
    number.ok_or_else(|| "expected a whole number of at least 1".to_owned())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
    seconds.ok_or_else(|| "expected a number of seconds".to_owned())
}
