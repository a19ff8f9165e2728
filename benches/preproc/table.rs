//! The tables of docs/performance.md, between two marks.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use benches::median;

use crate::Result;
use crate::compare::Agreement;
use crate::job::Job;
use crate::run::Outcome;

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/performance.md");
const BEGIN: &str = "<!-- preproc: begin -->\n";
const END: &str = "<!-- preproc: end -->\n";

/// One table: the peers of a job, quickest first.
pub(crate) fn render(job: Job, image: &Path, rounds: usize, outcomes: &[Outcome]) -> String {
    let image = image.file_stem().map(|stem| stem.to_string_lossy().replace('_', " "));
    let what = match job {
        Job::Letterbox { side } => format!("Letterbox {side} x {side}"),
        Job::Fast { side } => format!("Letterbox {side} x {side}, reduced decoding"),
        Job::Qwen { max_pixels } => format!("Qwen2.5-VL, at most {max_pixels} pixels"),
    };
    let mut rows: Vec<_> = outcomes
        .iter()
        .map(|outcome| (median(&outcome.times), minimum(&outcome.times), outcome))
        .collect();
    rows.sort_by(|a, b| a.0.total_cmp(&b.0));
    let ours = rows.iter().find(|row| row.2.ours).map_or(f64::NAN, |row| row.0);
    let mut text = format!(
        "#### {what}, {}\n\n| {rounds} rounds | median ms | minimum ms | times ours | memory added, MB | equal to the \
         reference |\n|---|--:|--:|--:|--:|---|\n",
        image.unwrap_or_default()
    );
    for (median, minimum, outcome) in rows {
        let name =
            if outcome.ours { format!("**{}**", outcome.name) } else { outcome.name.clone() };
        let memory =
            outcome.memory.map_or_else(String::new, |bytes| format!("{:.0}", bytes as f64 / 1e6));
        let agreement = match outcome.agreement {
            Agreement::Equal => "every bit".to_owned(),
            Agreement::Levels { psnr, .. } if matches!(job, Job::Fast { .. }) => {
                format!("{psnr:.1} dB")
            }
            Agreement::Levels { equal, largest, .. } => {
                format!("{:.1} % of the levels, within {largest}", equal * 100.0)
            }
        };
        let ratio = median / ours;
        writeln!(
            text,
            "| {name} | {median:.1} | {minimum:.1} | {ratio:.2} | {memory} | {agreement} |"
        )
        .expect("writing to a string");
    }
    text.push('\n');
    text
}

/// Replaces what is between the marks.
pub(crate) fn write(tables: &str) -> Result<()> {
    let document = std::fs::read_to_string(DOCUMENT)?;
    let (before, rest) = document.split_once(BEGIN).ok_or("docs/performance.md has no mark")?;
    let (_, after) = rest.split_once(END).ok_or("docs/performance.md has no second mark")?;
    let text = format!("{before}{BEGIN}{}\n\n{tables}{END}{after}", machine());
    std::fs::write(DOCUMENT, text)?;
    Ok(())
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

fn minimum(times: &[f64]) -> f64 {
    times.iter().copied().fold(f64::INFINITY, f64::min)
}
