//! Builds mlx-c and says where MLX is.
//!
//! The published mlx-sys clones MLX, compiles it with Apple's tools and links Apple's frameworks.
//! On Apple systems this script runs that very build ([`apple`]). On Linux it takes the compiled
//! MLX of the Python wheels instead ([`linux`]). `docs/mlx-on-linux.md` explains both.

use std::env;

mod apple;
mod compile;
mod linux;
mod published;
mod sources;
mod trampolines;
mod wheel;

/// What went wrong and what to do about it, in words for the person who runs `cargo build`.
type Result<T, E = String> = std::result::Result<T, E>;

fn main() {
    let vendor = env::var("CARGO_CFG_TARGET_VENDOR").unwrap_or_default();
    let os = env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    let outcome = match (vendor.as_str(), os.as_str()) {
        ("apple", _) => apple::build(),
        (_, "linux") => linux::build(),
        _ => Err(format!("MLX runs on Apple systems and on Linux, not on {os}")),
    };
    if let Err(message) = outcome {
        // Cargo shows what a failing build script wrote to stderr; a panic would add a backtrace.
        eprintln!("error: {message}");
        std::process::exit(1);
    }
}

/// A variable that Cargo sets for every build script.
fn cargo_env(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("Cargo sets {name} for build scripts"))
}

/// Reads a variable of the user, and has Cargo run this script again when it changes.
///
/// Empty counts as unset, since `NAME= cargo build` is how one unsets a variable for one command.
fn user_env(name: &str) -> Option<String> {
    println!("cargo::rerun-if-env-changed={name}");
    env::var(name).ok().filter(|value| !value.is_empty())
}
