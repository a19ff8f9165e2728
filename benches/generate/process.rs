//! One process of one side, from its start to its end.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use serde_json::Value;

use crate::{
    Result,
    outcome::{Answer, Process},
};

/// Runs `program`, which prints the lines that worker.rs describes.
pub(crate) fn run(program: &Path, arguments: &[&str], log: &Path) -> Result<Process> {
    let started = Instant::now();
    let mut process = Process::default();
    lines(program, arguments, log, |line| read(line, started, &mut process))?;
    Ok(process)
}

/// Takes what a line of worker.rs says into `process`, which was started at `started`.
fn read(line: &Value, started: Instant, process: &mut Process) {
    let number = |key: &str| line[key].as_f64();
    if let Some(name) = line["name"].as_str() {
        process.name = name.to_owned();
        process.device = line["device"].as_str().unwrap_or_default().to_owned();
        process.load_s = number("load_s").unwrap_or(f64::NAN);
    } else if line["first"] == true {
        process.cold_s.get_or_insert_with(|| started.elapsed().as_secs_f64());
    } else if let Some(text) = line["text"].as_str() {
        process.answers.push(Answer {
            prompt_tokens: number("prompt_tokens").unwrap_or(f64::NAN),
            tokens: number("tokens").unwrap_or(f64::NAN),
            first_s: number("first_s").unwrap_or(f64::NAN),
            decode: number("decode_tokens_per_s").unwrap_or(f64::NAN),
            peak_bytes: number("peak_bytes").unwrap_or(f64::NAN),
            resident_bytes: number("resident_bytes").unwrap_or(f64::NAN),
            words: text.split_whitespace().map(str::to_owned).collect(),
        });
    }
}

/// Runs `program` and hands each line of JSON that it prints to `take`.
pub(crate) fn lines(
    program: &Path,
    arguments: &[&str],
    log: &Path,
    mut take: impl FnMut(&Value),
) -> Result<()> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(log)?)
        .spawn()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    let output = BufReader::new(child.stdout.take().ok_or("a process without output")?);
    for line in output.lines() {
        // Libraries of the other side print what is no JSON.
        if let Ok(line) = serde_json::from_str::<Value>(&line?) {
            take(&line);
        }
    }
    let status = child.wait()?;
    if !status.success() {
        let said = std::fs::read_to_string(log).unwrap_or_default();
        let said: Vec<&str> = said.lines().rev().take(12).collect();
        let said: Vec<&str> = said.into_iter().rev().collect();
        return Err(
            format!("{} ended with {status}:\n{}", program.display(), said.join("\n")).into()
        );
    }
    Ok(())
}
