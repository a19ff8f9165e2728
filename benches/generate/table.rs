//! The tables of docs/performance.md, each between two marks that bear its name.

use std::{fmt::Write as _, path::Path, process::Command};

use benches::median;

use crate::{
    Result,
    outcome::{Process, Side, agreement, spread},
};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/performance.md");

/// One process in one line, for those who wait.
pub(crate) fn line(process: &Process) -> String {
    let mut text = format!(
        "{}: load {:.2} s, cold {:.2} s",
        process.name,
        process.load_s,
        process.cold_s.unwrap_or(f64::NAN)
    );
    for answer in &process.answers {
        write!(
            text,
            "; first {:.3} s, {:.1} tok/s, {:.2} GB, {:.2} GB resident",
            answer.first_s,
            answer.decode,
            answer.peak_bytes / 1e9,
            answer.resident_bytes / 1e9
        )
        .expect("writing to a string");
    }
    text
}

/// Our side beside the other, if there is one.
pub(crate) fn render(folder: &Path, sides: &[Side]) -> String {
    let Some(ours) = sides.first() else { return String::new() };
    let answer = ours.processes.first().and_then(|process| process.answers.first());
    let (prompt, tokens) = answer.map_or((0.0, 0.0), |a| (a.prompt_tokens, a.tokens));
    let mut text = format!(
        "#### {}, {prompt} prompt tokens, {tokens} tokens, {}\n\n|  |",
        name(folder),
        ours.device()
    );
    for side in sides {
        write!(text, " {} |", side.name()).expect("writing to a string");
    }
    text.push_str(if sides.len() > 1 { " times better |\n|---|" } else { "\n|---|" });
    text.push_str(&"--:|".repeat(if sides.len() > 1 { sides.len() + 1 } else { 1 }));
    text.push('\n');
    let mut row = |what: &str, digits: usize, more: bool, of: &dyn Fn(&Side) -> Vec<f64>| {
        write!(text, "| {what} |").expect("writing to a string");
        for side in sides {
            let values = of(side);
            let (low, high) = spread(&values);
            write!(text, " {:.digits$} ({low:.digits$}-{high:.digits$}) |", median(&values))
                .expect("writing to a string");
        }
        if let [ours, theirs, ..] = sides {
            let (ours, theirs) = (median(&of(ours)), median(&of(theirs)));
            let ratio = if more { ours / theirs } else { theirs / ours };
            write!(text, " {ratio:.2} |").expect("writing to a string");
        }
        text.push('\n');
    };
    row("decode, tok/s", 1, true, &|side| side.warm(|a| a.decode));
    row("prompt with image, tok/s", 0, true, &|side| side.warm(|a| a.prompt_tokens / a.first_s));
    row("first token, s", 3, false, &|side| side.warm(|a| a.first_s));
    row("process start to first token, s", 2, false, &|side| {
        side.each(|process| process.cold_s.unwrap_or(f64::NAN))
    });
    row("loading, s", 2, false, &|side| side.each(|process| process.load_s));
    row("peak of MLX's memory, GB", 3, false, &|side| side.at_end(|a| a.peak_bytes / 1e9));
    row("peak of resident memory, GB", 3, false, &|side| side.at_end(|a| a.resident_bytes / 1e9));
    if let [ours, theirs, ..] = sides {
        let (common, total) = agreement(ours.words(), theirs.words());
        writeln!(text, "\nEqual greedy words from the first on: {common} of {total}.")
            .expect("writing to a string");
    }
    text
}

/// Replaces what is between the marks of the checkpoint in `folder`.
pub(crate) fn write(folder: &Path, table: &str) -> Result<()> {
    let [begin, end] =
        ["begin", "end"].map(|what| format!("<!-- generate {}: {what} -->\n", name(folder)));
    let document = std::fs::read_to_string(DOCUMENT)?;
    let (before, rest) = document
        .split_once(&begin)
        .ok_or_else(|| format!("docs/performance.md has no mark {}", begin.trim()))?;
    let (_, after) = rest.split_once(&end).ok_or("docs/performance.md has no second mark")?;
    let text = format!("{before}{begin}{}\n\n{table}\n{end}{after}", machine());
    std::fs::write(DOCUMENT, text)?;
    Ok(())
}

fn name(folder: &Path) -> String {
    folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Where and what was measured.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    format!(
        "Commit {} of {}, {} with {cores} cores, {}; load average {load} at the end.",
        said("git", &["describe", "--always", "--dirty", "--exclude", "*"]),
        said("date", &["+%Y-%m-%d"]),
        cpu.trim_start_matches([' ', '\t', ':']),
        said("uname", &["-sm"]),
    )
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output =
        Command::new(program).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let output = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).trim().to_owned()
}
