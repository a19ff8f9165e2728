//! Logs, on stderr.

use std::io;

use tracing_subscriber::{EnvFilter, fmt::format::FmtSpan};

/// Sends what libraries trace to stderr; `RUST_LOG` wins over the switches.
///
/// A span is told of when it closes, with its time. The phases of the engine are spans of level debug and target
/// `perf_monitor`, one for each token and more, so `-vv` leaves them out.
pub(crate) fn install(verbose: u8, quiet: bool) {
    let filter = match (quiet, verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, 2) => "debug,perf_monitor=info",
        (false, _) => "trace",
    };
    let set = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|set| !set.trim().is_empty());
    let filter = EnvFilter::builder().parse_lossy(set.as_deref().unwrap_or(filter));
    let ansi = console::Term::stderr().features().colors_supported();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(FmtSpan::CLOSE)
        .with_writer(io::stderr)
        .with_ansi(ansi)
        .init();
}
