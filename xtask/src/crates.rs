//! How many crates each of ours brings into a program, as a table in the README.

use std::{collections::BTreeSet, fmt::Write, fs, process::Stdio};

use crate::ci::{Result, cargo, root};

/// The crates that are depended on, in the order of the README.
pub(crate) const OURS: &[&str] = &[
    "abstractllm",
    "llm-core",
    "vision-preproc",
    "mlx-backend",
    "http-backend",
    "media-loader",
    "llm-session",
    "llm-server",
    "perf-monitor",
];

/// Those that build where nothing of MLX can be had.
const WITHOUT_MLX: &[&str] = &["llm-core", "vision-preproc", "perf-monitor"];

const BEGIN: &str = "<!-- crates: begin -->\n";
const END: &str = "<!-- crates: end -->";

/// Checks the table of the README, or writes it, and that nothing of MLX reaches the crates that know nothing of it.
pub(crate) fn table(write: bool) -> Result {
    for name in WITHOUT_MLX {
        let mlx: Vec<String> = brought(name, &["--all-features"])?
            .into_iter()
            .filter(|name| name.starts_with("mlx-"))
            .collect();
        if !mlx.is_empty() {
            return Err(format!("{name} must build without MLX, but brings {}", mlx.join(", ")));
        }
    }
    let path = root().join("README.md");
    let shown = |e: std::io::Error| format!("{}: {e}", path.display());
    let text = fs::read_to_string(&path).map_err(shown)?;
    let new = with_table(&text, &rows()?)?;
    if write {
        fs::write(&path, new).map_err(shown)
    } else if new == text {
        Ok(())
    } else {
        Err("the table of crates in README.md is of another Cargo.lock; `cargo xtask crates` writes it".into())
    }
}

fn with_table(text: &str, rows: &str) -> Result<String> {
    let cut =
        text.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = cut.ok_or(
        "README.md: expected the marks `<!-- crates: begin -->` and `<!-- crates: end -->`",
    )?;
    Ok(format!("{before}{BEGIN}{rows}{END}{after}"))
}

fn rows() -> Result<String> {
    let mut table =
        "| crate | crates it brings | without default features | MLX |\n|---|--:|--:|---|\n"
            .to_owned();
    for name in OURS {
        let all = brought(name, &[])?;
        let bare = brought(name, &["--no-default-features"])?;
        let has_mlx = |brought: &BTreeSet<String>| brought.contains("mlx-sys");
        let mlx = match (has_mlx(&all), has_mlx(&bare)) {
            (true, true) => "yes",
            (true, false) => "by default",
            (false, _) => "no",
        };
        let _ = writeln!(table, "| `{name}` | {} | {} | {mlx} |", all.len(), bare.len());
    }
    Ok(table)
}

/// Returns the crates that end up in a program with the crate `name`, by name and version.
///
/// Those that only build it do not count, nor do those of other systems than Linux on x86-64, so that every machine
/// counts the same.
fn brought(name: &str, features: &[&str]) -> Result<BTreeSet<String>> {
    let mut command =
        cargo("tree --locked --edges normal --prefix none --target x86_64-unknown-linux-gnu");
    command.args(["--format", "{p}", "--package", name]).args(features).stderr(Stdio::inherit());
    let output = command.output().map_err(|e| format!("`cargo tree` could not be started: {e}"))?;
    if !output.status.success() {
        return Err(format!("`cargo tree --package {name}` failed ({})", output.status));
    }
    Ok(names(&String::from_utf8_lossy(&output.stdout), name))
}

/// Lines are such as `serde v1.0.218 (*)`; a crate in two versions is two.
fn names(tree: &str, but: &str) -> BTreeSet<String> {
    let name = |line: &str| {
        let mut words = line.split(' ');
        let (name, version) = (words.next()?, words.next()?);
        // Ours come in one version each; and MLX is asked for by its name.
        let own = line.contains(" (/") || name == "mlx-sys";
        Some(if own { name.to_owned() } else { format!("{name} {version}") })
    };
    tree.lines().filter_map(name).filter(|name| name != but).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_counts_once_and_two_versions_are_two() {
        let tree = "a v0.1.0 (/x/a)\nb v1.0.0\nb v2.0.0\nc v1.0.0 (proc-macro)\nb v1.0.0 (*)\nmlx-sys v0.7.0 (/x/m)\n\n";
        let found: Vec<String> = names(tree, "a").into_iter().collect();
        assert_eq!(found, ["b v1.0.0", "b v2.0.0", "c v1.0.0", "mlx-sys"]);
    }

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let text = format!("before\n{BEGIN}old\n{END}\nafter\n");
        assert_eq!(
            with_table(&text, "new\n").unwrap(),
            format!("before\n{BEGIN}new\n{END}\nafter\n")
        );
        assert!(with_table("no marks", "new\n").is_err());
    }
}
