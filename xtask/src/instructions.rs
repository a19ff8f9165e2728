//! A gate that noise cannot break: instructions, counted by Callgrind, beside the counts in
//! `benches/instructions/counts.txt`.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::ci::{Result, cargo, root, run, target};

/// How much a count may grow. A rebuilt standard library or allocator moves counts by less.
const ALLOWED: f64 = 0.01;

/// Counts by the name of their case.
type Counts = BTreeMap<String, u64>;

/// Counts all cases; compares with the stored counts, or stores them if `store`.
pub(crate) fn gate(store: bool) -> Result {
    let Some(valgrind) = first_line(Command::new("valgrind").arg("--version")) else {
        eprintln!("xtask: SKIPPED the instruction counts: Valgrind is not installed");
        return Ok(());
    };
    // Other compilers and processors make other instructions of the same source.
    let tools = format!("{}, {valgrind}, {}", rustc()?, env::consts::ARCH);
    let stored = fs::read_to_string(path()).unwrap_or_default();
    let (stored_tools, stored) = parse(&stored);
    if !store && stored_tools != tools {
        eprintln!("xtask: SKIPPED the instruction counts: they are of {stored_tools}");
        eprintln!("xtask: this is {tools}; count both sides of a change here with --store");
        return Ok(());
    }
    run(&mut cargo("build --release -p instructions"))?;
    let counted = count_all()?;
    for (name, count) in &counted {
        let before = stored.get(name).copied();
        let change = before.map_or_else(
            || "new".to_owned(),
            |before| format!("{:+.2} %", (*count as f64 / before as f64 - 1.0) * 100.0),
        );
        eprintln!("{name:<44}{count:>14}{change:>10}");
    }
    if store {
        let lines = counted.iter().map(|(name, count)| format!("{count}\t{name}\n"));
        let text = format!("{tools}\n{}", lines.collect::<String>());
        return fs::write(path(), text).map_err(|e| format!("{}: {e}", path().display()));
    }
    judge(&stored, &counted)
}

/// Every stored case must be counted still, and none may have grown; a new one must be stored.
fn judge(stored: &Counts, counted: &Counts) -> Result {
    let mut wrong = Vec::new();
    for name in stored.keys().filter(|name| !counted.contains_key(*name)) {
        wrong.push(format!("`{name}` is gone"));
    }
    for (name, &count) in counted {
        match stored.get(name) {
            None => wrong.push(format!("`{name}` is not stored")),
            Some(&before) if count as f64 > before as f64 * (1.0 + ALLOWED) => {
                wrong.push(format!("`{name}` grew from {before} to {count}"));
            }
            Some(_) => {}
        }
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "instructions: {}\nxtask: if that is meant: cargo xtask bench instructions --store",
            wrong.join(", ")
        )),
    }
}

fn count_all() -> Result<Counts> {
    let program = target().join("release/instructions");
    let listed = Command::new(&program).output().map_err(|e| e.to_string())?;
    let names = String::from_utf8_lossy(&listed.stdout).into_owned();
    names.lines().map(|name| Ok((name.to_owned(), count(&program, name)?))).collect()
}

fn count(program: &Path, case: &str) -> Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*measured*"])
        .args([program.as_os_str(), case.as_ref()])
        .output()
        .map_err(|e| format!("cannot start Valgrind: {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    collected(&said)
        .filter(|&count| output.status.success() && count > 0)
        .ok_or_else(|| format!("Valgrind counted nothing of `{case}`:\n{said}"))
}

/// Finds the count in what Callgrind says at its end: `==123== Collected : 4567`.
fn collected(said: &str) -> Option<u64> {
    let line = said.lines().find(|line| line.contains("Collected :"))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// Reads the stored counts: a line of tools, then lines of count, tab and name.
fn parse(text: &str) -> (String, Counts) {
    let mut lines = text.lines();
    let tools = lines.next().unwrap_or("no tools").to_owned();
    let counts = lines.filter_map(|line| line.split_once('\t'));
    let counts = counts.filter_map(|(count, name)| Some((name.to_owned(), count.parse().ok()?)));
    (tools, counts.collect())
}

fn path() -> PathBuf {
    root().join("benches/instructions/counts.txt")
}

fn rustc() -> Result<String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    first_line(Command::new(rustc).arg("--version")).ok_or_else(|| "rustc does not run".to_owned())
}

fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(of: &[(&str, u64)]) -> Counts {
        of.iter().map(|&(name, count)| (name.to_owned(), count)).collect()
    }

    #[test]
    fn growth_is_refused_and_so_is_a_case_without_a_count() {
        let stored = counts(&[("a", 1000), ("b", 50)]);
        assert_eq!(judge(&stored, &counts(&[("a", 1010), ("b", 20)])), Ok(()));
        let grown = judge(&stored, &counts(&[("a", 1011), ("b", 50)])).unwrap_err();
        assert!(grown.contains("`a` grew from 1000 to 1011"), "{grown}");
        let other = judge(&stored, &counts(&[("a", 1000), ("c", 1)])).unwrap_err();
        assert!(other.contains("`b` is gone") && other.contains("`c` is not stored"), "{other}");
    }

    #[test]
    fn counts_are_read_as_they_are_written() {
        let (tools, counts) = parse("rustc 1, valgrind-3\n12\ta b/c, d\n7\te\n");
        assert_eq!(tools, "rustc 1, valgrind-3");
        assert_eq!(counts, self::counts(&[("a b/c, d", 12), ("e", 7)]));
        let said = "==7== \n==7== Events    : Ir\n==7== Collected : 4567\n==7== \n";
        assert_eq!(collected(said), Some(4567));
        assert_eq!(collected("==7== nothing\n"), None);
    }
}
