//! Runs the command of every row of the tables of families, faults and fuzz targets in docs.

mod row;

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use self::row::{Row, TABLES, rows};
use crate::ci::{Result, root, target};

/// How a row went.
#[derive(Clone, Debug, PartialEq)]
enum Outcome {
    Green,
    Skipped(String),
    Red(String),
}

/// Runs the rows that `options` leave, and fails if any is red.
pub(crate) fn all(options: &[&str]) -> Result {
    let options = Options::read(options)?;
    let mut chosen = Vec::new();
    for table in TABLES.iter().filter(|table| options.only.is_none_or(|only| only == table.name)) {
        chosen.extend(rows(table)?);
    }
    let logs = target().join("verify");
    fs::create_dir_all(&logs).map_err(|e| format!("{}: {e}", logs.display()))?;
    let mut done: Vec<(&Row, Outcome, Duration)> = Vec::new();
    for (i, row) in chosen.iter().enumerate() {
        // Some rows share a command.
        if let Some((_, outcome, _)) = done.iter().find(|(other, ..)| other.command == row.command)
        {
            done.push((row, outcome.clone(), Duration::ZERO));
            continue;
        }
        eprintln!("xtask: [{}/{}] {}: {}", i + 1, chosen.len(), row.table, row.what);
        eprintln!("xtask: {}", row.command);
        let started = Instant::now();
        let log = logs.join(format!("{:02}.log", i + 1));
        let outcome = run(row, &options, &log)?;
        let time = started.elapsed();
        eprintln!("xtask: {} ({:.1} s)", word(&outcome), time.as_secs_f64());
        done.push((row, outcome, time));
    }
    let path = logs.join("table.md");
    let table = table(&done);
    fs::write(&path, &table).map_err(|e| format!("{}: {e}", path.display()))?;
    eprintln!("\n{table}\nxtask: this is in {}", path.display());
    let count = |which: fn(&Outcome) -> bool| done.iter().filter(|(_, o, _)| which(o)).count();
    let red = count(|outcome| matches!(outcome, Outcome::Red(_)));
    let skipped = count(|outcome| matches!(outcome, Outcome::Skipped(_)));
    let green = done.len() - red - skipped;
    eprintln!("xtask: {green} green, {skipped} skipped, {red} red");
    match red {
        0 => Ok(()),
        _ => Err(format!("{red} of {} rows are red", done.len())),
    }
}

#[derive(Debug, Default)]
struct Options<'a> {
    only: Option<&'a str>,
    fuzz_seconds: Option<u32>,
    soak_seconds: Option<u32>,
}

impl<'a> Options<'a> {
    fn read(options: &[&'a str]) -> Result<Self> {
        let mut read = Self::default();
        let names = TABLES.map(|table| table.name);
        for pair in options.chunks(2) {
            match *pair {
                ["--only", name] if names.contains(&name) => read.only = Some(name),
                ["--only", name] => {
                    return Err(format!("--only: expected {}, found {name:?}", names.join(", ")));
                }
                ["--fuzz-seconds", text] => read.fuzz_seconds = Some(seconds(pair[0], text)?),
                ["--soak-seconds", text] => read.soak_seconds = Some(seconds(pair[0], text)?),
                _ => return Err(format!("verify: cannot read {:?}", pair.join(" "))),
            }
        }
        Ok(read)
    }
}

fn seconds(option: &str, text: &str) -> Result<u32> {
    text.parse().map_err(|_| format!("{option}: expected seconds, found {text:?}"))
}

/// Runs the command of `row` as it stands in the document, but for how long it takes.
fn run(row: &Row, options: &Options<'_>, log: &Path) -> Result<Outcome> {
    if let Some(reason) = row.missing() {
        return Ok(Outcome::Skipped(reason));
    }
    let mut text = row.command.clone();
    if let Some(seconds) = options.fuzz_seconds {
        text = text.replace("-max_total_time=600", &format!("-max_total_time={seconds}"));
    }
    for folder in row.folders() {
        corpus(&folder)?;
    }
    let io = |e: std::io::Error| format!("{}: {e}", log.display());
    let mut file = File::create(log).map_err(io)?;
    writeln!(file, "$ {text}").map_err(io)?;
    let mut command = Command::new("sh");
    command.args(["-c", &text]).current_dir(root()).stdin(Stdio::null());
    // Tests say on stderr what they skip.
    command.env("RUST_TEST_NOCAPTURE", "1");
    command.envs(options.soak_seconds.map(|seconds| ("SOAK_SECONDS", seconds.to_string())));
    command.stderr(file.try_clone().map_err(io)?).stdout(file);
    let status = command.status().map_err(|e| format!("`{text}` could not be started: {e}"))?;
    let said = String::from_utf8_lossy(&fs::read(log).map_err(io)?).into_owned();
    let outcome = judge(row, status.success(), &said);
    if matches!(outcome, Outcome::Red(_)) {
        let lines: Vec<&str> = said.lines().collect();
        eprintln!("{}", lines[lines.len().saturating_sub(30)..].join("\n"));
    }
    Ok(outcome)
}

/// Makes the `folder` in which a fuzzer keeps what it found; a new one begins with what is kept of it in
/// `fuzz/corpora`.
fn corpus(folder: &str) -> Result {
    let path = root().join(folder);
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(&path).map_err(|e| format!("{folder}: {e}"))?;
    let archive = folder.replacen("fuzz/corpus/", "fuzz/corpora/", 1) + ".tar.xz";
    if !root().join(&archive).exists() {
        return Ok(());
    }
    let mut command = Command::new("tar");
    command.args(["-xf", &archive, "-C", "fuzz/corpus"]).current_dir(root());
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{archive}: tar failed ({status})")),
        Err(error) => Err(format!("tar could not be started: {error}")),
    }
}

fn judge(row: &Row, success: bool, said: &str) -> Outcome {
    if !success {
        return Outcome::Red("failed".to_owned());
    }
    if row.is_test() && passed(said) == 0 {
        return Outcome::Red("no test has this name".to_owned());
    }
    let skipped = said.lines().find_map(|line| line.split_once("SKIPPED").map(|(_, why)| why));
    match skipped {
        Some(why) => Outcome::Skipped(why.trim_start_matches([':', ' ']).trim().to_owned()),
        None => Outcome::Green,
    }
}

/// Returns how many tests passed, by what Cargo printed.
fn passed(said: &str) -> u32 {
    let results = said.lines().filter_map(|line| line.split_once("test result: ok. "));
    results.filter_map(|(_, rest)| rest.split_once(" passed")?.0.parse::<u32>().ok()).sum()
}

fn word(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Green => "green".to_owned(),
        Outcome::Skipped(why) => format!("SKIPPED: {why}"),
        Outcome::Red(why) => format!("RED: {why}"),
    }
}

fn table(done: &[(&Row, Outcome, Duration)]) -> String {
    let mut table = "| table | row | outcome | seconds |\n|---|---|---|--:|\n".to_owned();
    for (row, outcome, time) in done {
        let seconds = time.as_secs_f64();
        table += &format!("| {} | {} | {} | {seconds:.1} |\n", row.table, row.what, word(outcome));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(command: &str) -> Row {
        Row { table: "faults", what: "a fault".to_owned(), command: command.to_owned() }
    }

    #[test]
    fn what_ran_nothing_is_red_and_what_was_skipped_says_why() {
        let test = row("cargo test -p a --lib b");
        let ran = "test b ... ok\ntest result: ok. 1 passed; 0 failed; 0 ignored";
        assert_eq!(judge(&test, true, ran), Outcome::Green);
        assert_eq!(judge(&test, false, ran), Outcome::Red("failed".to_owned()));
        let none = "test result: ok. 0 passed; 0 failed; 0 ignored";
        assert_eq!(judge(&test, true, none), Outcome::Red("no test has this name".to_owned()));
        let skipped = format!("SKIPPED: no network\n{ran}");
        assert_eq!(judge(&test, true, &skipped), Outcome::Skipped("no network".to_owned()));
        let done = [(&test, Outcome::Green, Duration::from_millis(1500))];
        assert!(table(&done).ends_with("| faults | a fault | green | 1.5 |\n"));
    }

    #[test]
    fn options_are_read() {
        let read = Options::read(&["--only", "fuzz", "--fuzz-seconds", "5"]).unwrap();
        assert_eq!((read.only, read.fuzz_seconds), (Some("fuzz"), Some(5)));
        for bad in [&["--only"][..], &["--only", "all"], &["--fuzz-seconds", "x"], &["x", "y"]] {
            assert!(Options::read(bad).is_err(), "{bad:?}");
        }
    }
}
