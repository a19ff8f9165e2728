//! The rows of a table in a document, each with a command in its last column.

use std::{
    fs,
    process::{Command, Stdio},
};

use crate::ci::{Result, root};

/// A table between `<!-- begin MARK -->` and `<!-- end MARK -->`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    /// What it is called on the command line.
    pub(super) name: &'static str,
    document: &'static str,
    mark: &'static str,
}

/// All tables, in the order in which they are run.
pub(super) const TABLES: [Table; 3] = [
    Table { name: "families", document: "model-support.md", mark: "models" },
    Table { name: "faults", document: "faults.md", mark: "faults" },
    Table { name: "fuzz", document: "fuzzing.md", mark: "fuzz" },
];

/// A row.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) table: &'static str,
    /// The first column.
    pub(super) what: String,
    pub(super) command: String,
}

/// Reads the rows of `table`.
///
/// # Errors
/// If there is no such table, or one of its rows has no command.
pub(super) fn rows(table: &Table) -> Result<Vec<Row>> {
    let path = root().join("docs").join(table.document);
    let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let (begin, end) =
        (format!("<!-- begin {} -->", table.mark), format!("<!-- end {} -->", table.mark));
    let inside = text.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end));
    let inside = inside.ok_or_else(|| format!("{}: no {begin} with its end", path.display()))?.0;
    // After head and rule.
    inside
        .lines()
        .filter(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| {
            row(table, line)
                .ok_or_else(|| format!("{}: no command at the end of {line}", path.display()))
        })
        .collect()
}

fn row(table: &Table, line: &str) -> Option<Row> {
    let cells: Vec<&str> = line.trim().trim_matches('|').split(" | ").map(str::trim).collect();
    let (what, command) = (cells.first()?, cells.last()?);
    let command = command.strip_prefix('`')?.strip_suffix('`')?;
    Some(Row { table: table.name, what: (*what).to_owned(), command: command.to_owned() })
}

impl Row {
    pub(super) fn is_test(&self) -> bool {
        self.command.contains("cargo test ")
    }

    fn is_fuzzing(&self) -> bool {
        self.command.contains(" fuzz run ")
    }

    /// Returns the folders that the command needs: where a fuzzer keeps what it found.
    pub(super) fn folders(&self) -> Vec<String> {
        let words = self.command.split(' ');
        words.filter(|word| word.starts_with("fuzz/corpus/")).map(str::to_owned).collect()
    }

    /// Returns what this machine lacks for the command; `None` if it can run.
    pub(super) fn missing(&self) -> Option<String> {
        if !self.is_fuzzing() {
            return None;
        }
        let runs = |arguments: &[&str]| {
            let mut command = Command::new("cargo");
            command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        if !runs(&["+nightly", "--version"]) {
            return Some("no nightly compiler: `rustup toolchain install nightly`".to_owned());
        }
        let installed = runs(&["+nightly", "fuzz", "--version"]);
        (!installed).then(|| "no cargo-fuzz: `cargo install cargo-fuzz`".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_row_names_what_there_is() {
        for table in &TABLES {
            let rows = rows(table).unwrap();
            assert!(!rows.is_empty(), "{table:?}");
            for row in rows {
                if let Err(wrong) = check(&row.command) {
                    panic!("docs/{}: `{}`: {wrong}", table.document, row.command);
                }
            }
        }
    }

    /// Checks that a test, or a fuzz target, of this name exists.
    fn check(command: &str) -> Result {
        let words: Vec<&str> = command.split(' ').filter(|word| !word.contains('=')).collect();
        match words[..] {
            ["cargo", "+nightly", "fuzz", "run", target, ..] => {
                let path = root().join(format!("fuzz/targets/{target}.rs"));
                path.exists().then_some(()).ok_or(format!("no {}", path.display()))
            }
            ["cargo", "test", "-p", package, ref rest @ ..] => {
                let source = root().join("crates").join(package);
                let rest = match rest {
                    ["--features", _, rest @ ..] => rest,
                    rest => rest,
                };
                let (folder, filter) = match *rest {
                    ["--lib", ref rest @ ..] => (source.join("src"), rest),
                    ["--test", name, ref rest @ ..] => (source.join("tests").join(name), rest),
                    _ => return Err("expected --lib or --test".to_owned()),
                };
                let tests = tests(&folder);
                let filter = filter.first().filter(|word| !word.starts_with("--")).unwrap_or(&"");
                match tests.iter().any(|test| test.contains(filter)) {
                    true => Ok(()),
                    false => Err(format!("no test {filter:?} among {tests:#?}")),
                }
            }
            _ => Err("expected a test or a fuzz target".to_owned()),
        }
    }

    /// Returns the names of the tests in the file `path`.rs, or in the files of the folder `path`.
    fn tests(path: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let file = path.with_extension("rs");
        match file.exists() && !path.join("main.rs").exists() {
            true => tests_of_file(&file, "", &mut found),
            false => tests_of_folder(path, "", &mut found),
        }
        found
    }

    fn tests_of_folder(folder: &Path, module: &str, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let inner = format!("{module}{stem}::");
            if path.is_dir() {
                tests_of_folder(&path, &inner, found);
            } else if ["main", "mod", "lib"].contains(&stem.as_str()) {
                tests_of_file(&path, module, found);
            } else {
                tests_of_file(&path, &inner, found);
            }
        }
    }

    fn tests_of_file(file: &Path, module: &str, found: &mut Vec<String>) {
        let text = fs::read_to_string(file).unwrap_or_default();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if line.trim() != "#[test]" {
                continue;
            }
            // Between the attribute and the function may be others.
            let Some(line) = lines.by_ref().find(|line| line.trim().starts_with("fn ")) else {
                break;
            };
            let name = line.trim().strip_prefix("fn ").and_then(|rest| rest.split('(').next());
            let inner = if line.starts_with(' ') { "tests::" } else { "" };
            found.extend(name.map(|name| format!("{module}{inner}{name}")));
        }
    }

    #[test]
    fn a_row_ends_with_its_command() {
        let found = row(&TABLES[1], "| a fault | what | `cargo test -p a --lib b` |").unwrap();
        assert_eq!(
            (found.what.as_str(), found.command.as_str()),
            ("a fault", "cargo test -p a --lib b")
        );
        assert!(row(&TABLES[1], "| a fault | what | none |").is_none());
    }

    #[test]
    fn a_name_that_no_test_has_is_found() {
        assert!(check("cargo test -p mlx-backend --test caches a_file_that_is_replaced").is_ok());
        assert!(check("cargo test -p mlx-backend --lib caches::disk").is_ok());
        for wrong in [
            "cargo test -p mlx-backend --test caches no_such_test",
            "cargo test -p mlx-backend --test none",
            "cargo +nightly fuzz run none --fuzz-dir fuzz",
            "true",
        ] {
            assert!(check(wrong).is_err(), "{wrong}");
        }
    }
}
