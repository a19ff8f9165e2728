//! Pieces of work whose instructions are counted: `cargo xtask bench instructions`.
//!
//! Without an argument it lists them; with a name it does one, first to warm up and then to be counted. Callgrind
//! collects what happens within [`measured`] and nothing else.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "its output is its list")]

mod monitor;
mod preproc;

use std::process::ExitCode;

/// A name, and what makes the work from nothing.
type Case = (&'static str, fn() -> Box<dyn FnMut()>);

fn main() -> ExitCode {
    let cases = monitor::CASES.iter().chain(preproc::CASES);
    let Some(wanted) = std::env::args().nth(1) else {
        cases.for_each(|(name, _)| println!("{name}"));
        return ExitCode::SUCCESS;
    };
    let Some((_, prepare)) = cases.into_iter().find(|(name, _)| *name == wanted) else {
        println!("no case {wanted}");
        return ExitCode::FAILURE;
    };
    let mut work = prepare();
    // Tables that are made once, and memory that is taken once, are not what a change makes slower.
    work();
    measured(&mut *work);
    ExitCode::SUCCESS
}

/// Its name is what `--toggle-collect` of Callgrind looks for.
#[inline(never)]
fn measured(work: &mut dyn FnMut()) {
    work();
    // Without something after it, the call above would become a jump and this function end before the work.
    std::hint::black_box(());
}
