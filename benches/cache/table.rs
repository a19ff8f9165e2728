//! The table, and its place in docs/performance.md.

use std::{fmt::Write as _, path::Path};

use crate::{
    Result,
    run::{Conversation, Side},
};

const BEGIN: &str = "<!-- cache: begin -->";
const END: &str = "<!-- cache: end -->";

/// Returns the table of all sides, ours first.
pub(crate) fn render(sides: &[Side]) -> String {
    let mut text = String::new();
    let rounds = sides[0].runs.len();
    let tokens = sides[0].runs[0].prompt_tokens;
    let _ = writeln!(
        text,
        "| {rounds} rounds, prompts of {} and {} tokens | turn 1, ms | turn 2, ms | turn 2, spread | turn 2, times ours | \
         reused in turn 2 | peak memory, MB |\n|---|--:|--:|--:|--:|--:|--:|",
        tokens[0], tokens[1]
    );
    let ours = median(&sides[0], |run| run.first_s[1]);
    for side in sides {
        let [first, second] = [0, 1].map(|turn| median(side, |run| run.first_s[turn]) * 1e3);
        let times = side.runs.iter().map(|run| run.first_s[1] * 1e3);
        let (low, high) = times.fold((f64::MAX, 0f64), |(l, h), t| (l.min(t), h.max(t)));
        let reused = side.runs[0].cached_tokens[1].map_or("not said".to_owned(), |n| n.to_string());
        let peak = median(side, |run| run.peak_bytes as f64) / 1e6;
        let name = if side.name.starts_with("abstractllm") {
            format!("**{}**", side.name)
        } else {
            side.name.clone()
        };
        let _ = writeln!(
            text,
            "| {name} | {first:.0} | {second:.1} | {low:.1} to {high:.1} | {:.1} | {reused} | {peak:.0} |",
            second / 1e3 / ours
        );
    }
    text
}

fn median(side: &Side, value: impl Fn(&Conversation) -> f64) -> f64 {
    let mut values: Vec<f64> = side.runs.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Puts `table` under `title` into docs/performance.md, in place of an older one with that title.
pub(crate) fn write(title: &str, table: &str) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/performance.md");
    let page = std::fs::read_to_string(&path)?;
    let (before, rest) = page.split_once(BEGIN).ok_or("docs/performance.md has no place for it")?;
    let (section, after) = rest.split_once(END).ok_or("docs/performance.md has no place for it")?;
    let heading = format!("#### {title}\n");
    let mut parts: Vec<String> =
        section.split("#### ").skip(1).map(|part| format!("#### {}\n", part.trim_end())).collect();
    let new = format!("{heading}\n{table}");
    match parts.iter_mut().find(|part| part.starts_with(&heading)) {
        Some(part) => *part = new,
        None => parts.push(new),
    }
    std::fs::write(path, format!("{before}{BEGIN}\n{}{END}{after}", parts.join("\n")))?;
    Ok(())
}
