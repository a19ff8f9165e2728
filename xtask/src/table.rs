//! What criterion measured, as one table.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde_json::Value;

use crate::ci::{Result, target};

/// Writes `target/criterion/table.md` with what was measured since `started`, and shows it.
pub(crate) fn write(started: SystemTime) -> Result {
    let folder = target().join("criterion");
    let mut estimates = Vec::new();
    find(&folder, &mut estimates);
    let fresh = |path: &PathBuf| {
        fs::metadata(path).and_then(|data| data.modified()).is_ok_and(|changed| changed >= started)
    };
    let mut rows: Vec<_> =
        estimates.iter().filter(|path| fresh(path)).filter_map(|path| row(path)).collect();
    if rows.is_empty() {
        // Such as with `--list`, or with a filter that nothing passed.
        eprintln!("xtask: nothing was measured");
        return Ok(());
    }
    rows.sort();
    let head = "| bench | median | 95 % interval | throughput |\n|---|--:|--:|--:|\n";
    let table = rows.iter().fold(head.to_owned(), |table, row| table + row);
    let path = folder.join("table.md");
    fs::write(&path, &table).map_err(|e| format!("{}: {e}", path.display()))?;
    eprintln!("{table}\nxtask: this is in {}", path.display());
    Ok(())
}

/// Criterion puts the latest run of each bench into `new/estimates.json`.
fn find(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            find(&path, found);
        } else if path.ends_with("new/estimates.json") {
            found.push(path);
        }
    }
}

fn row(estimates: &Path) -> Option<String> {
    let read =
        |path: &Path| -> Option<Value> { serde_json::from_slice(&fs::read(path).ok()?).ok() };
    line(&read(&estimates.with_file_name("benchmark.json"))?, &read(estimates)?)
}

fn line(bench: &Value, estimates: &Value) -> Option<String> {
    let name = bench["full_id"].as_str()?.replace('|', "\\|");
    let median = &estimates["median"];
    let nanoseconds = median["point_estimate"].as_f64()?;
    let interval = &median["confidence_interval"];
    let [low, high] = ["lower_bound", "upper_bound"].map(|bound| interval[bound].as_f64());
    let mut line = format!("| {name} | {} |", time(nanoseconds));
    let _ = write!(line, " {} to {} |", time(low?), time(high?));
    // Such as `{"Elements": 307200}`.
    let throughput = bench["throughput"].as_object().and_then(|of| of.iter().next());
    let rate = throughput.and_then(|(unit, count)| {
        let per_second = count.as_f64()? / nanoseconds * 1e9;
        Some(format!("{:.4} M {}/s", per_second * 1e-6, unit.to_lowercase()))
    });
    let _ = writeln!(line, " {} |", rate.unwrap_or_default());
    Some(line)
}

fn time(nanoseconds: f64) -> String {
    match nanoseconds {
        ns if ns >= 1e9 => format!("{:.3} s", ns * 1e-9),
        ns if ns >= 1e6 => format!("{:.3} ms", ns * 1e-6),
        ns if ns >= 1e3 => format!("{:.3} µs", ns * 1e-3),
        ns => format!("{ns:.3} ns"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_bench_becomes_a_row() {
        let estimates = json!({"median": {
            "point_estimate": 2_000_000.0,
            "confidence_interval": {"lower_bound": 999.5, "upper_bound": 2.5e9},
        }});
        let bench = json!({"full_id": "a|b/c", "throughput": {"Elements": 4000}});
        let expected = "| a\\|b/c | 2.000 ms | 999.500 ns to 2.500 s | 2.0000 M elements/s |\n";
        assert_eq!(line(&bench, &estimates).as_deref(), Some(expected));
        let plain = json!({"full_id": "d", "throughput": null});
        assert!(line(&plain, &estimates).unwrap().ends_with("2.500 s |  |\n"));
        assert_eq!(line(&plain, &json!({})), None);
    }
}
