//! What can be said of the command `report`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

const SHOW_EXAMPLES: &str = "\
Examples:
  abstractllm describe picture.png --report run.json
  abstractllm report show run.json
  abstractllm report show run.json --format html -o run.html";

const COMPARE_EXAMPLES: &str = "\
Examples:
  abstractllm report compare before.json after.json
  abstractllm report compare before/ after/ --fail-over 10% --format markdown";

/// Shows a performance report, or compares those of before and after a change
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    #[command(subcommand)]
    pub(crate) action: ReportAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ReportAction {
    Show(ShowArgs),
    Compare(CompareArgs),
}

/// Shows a report that --report or --json --monitor wrote
#[derive(Debug, Args)]
#[command(after_help = SHOW_EXAMPLES)]
pub(crate) struct ShowArgs {
    /// The report, as JSON
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// What to make of it
    #[arg(long, value_name = "FORM", value_enum, default_value_t)]
    pub(crate) format: ShowFormat,
    /// Where to write it; an older file is replaced [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ShowFormat {
    /// A table with bars
    #[default]
    Terminal,
    /// Tables
    Markdown,
    /// One page with charts, which opens offline
    Html,
    /// Text in the exposition format of Prometheus
    Prometheus,
    /// A Chrome trace, which Perfetto opens too
    Trace,
    /// The report itself, in its newest layout
    Json,
}

/// Compares reports: 0 if nothing is slower or larger, 1 if something is or nothing can be judged
#[derive(Debug, Args)]
#[command(after_help = COMPARE_EXAMPLES)]
pub(crate) struct CompareArgs {
    /// A report, or a folder with the reports (*.json) of several runs
    #[arg(value_name = "BEFORE")]
    pub(crate) before: PathBuf,
    /// The same after the change
    #[arg(value_name = "AFTER")]
    pub(crate) after: PathBuf,
    /// How much a median may grow; what noise explains is never a regression
    #[arg(long, value_name = "N%", value_parser = percentage, default_value = "5%")]
    pub(crate) fail_over: f64,
    /// How the comparison is printed
    #[arg(long, value_name = "FORM", value_enum, default_value_t)]
    pub(crate) format: CompareFormat,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum CompareFormat {
    /// Aligned columns
    #[default]
    Terminal,
    /// A table
    Markdown,
    /// One JSON object
    Json,
}

/// Reads `5%` as 0.05. The sign is required, since 0.05 without it could be either.
fn percentage(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|number| number.trim_end().parse::<f64>().ok());
    number
        .filter(|number| (0.0..=10_000.0).contains(number))
        .map(|number| number / 100.0)
        .ok_or_else(|| "expected a percentage from 0% to 10000%, such as 5%".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentage_has_its_sign() {
        for (text, value) in [("5%", 0.05), ("0%", 0.0), ("2.5 %", 0.025), ("100%", 1.0)] {
            assert_eq!(percentage(text), Ok(value), "{text}");
        }
        for text in ["5", "0.05", "-1%", "%", "five%", "nan%", "inf%", "5%%"] {
            assert!(percentage(text).is_err(), "{text}");
        }
    }
}
