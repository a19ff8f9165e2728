//! `--report`, `report show` and `report compare`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use crate::{hostile, repository, run};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A report whose operation `work` took `seconds`, once for each.
fn report(seconds: impl IntoIterator<Item = f64>) -> Value {
    let operations = seconds.into_iter().map(|duration| {
        json!({
            "name": "work", "duration": duration, "memory_start": 1, "memory_peak": 1 << 20,
            "memory_end": 1, "cpu_percent": 100.0, "gpu_metrics": null,
        })
    });
    json!({
        "schema_version": 1,
        "operations": operations.collect::<Vec<_>>(),
        "summary": {"total_duration": 1.0, "peak_memory": 1 << 20, "average_cpu": 100.0},
    })
}

/// Around `center`, within a tenth; another `seed` gives other values.
fn noisy(center: f64, seed: u32) -> impl Iterator<Item = f64> {
    (0..30)
        .map(move |n| center * (0.95 + 0.1 * f64::from((n * 7919 + seed * 104_729) % 997) / 997.0))
}

fn file(dir: &TempDir, name: &str, content: impl ToString) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, content.to_string()).unwrap();
    path
}

#[test]
fn a_report_is_written_shown_in_every_form_and_equal_to_itself() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("run.json");
    let image = repository("models/tiny-vl/samples/scene.png");
    let answer = run(["describe", "-q", &image, "--report", text(&path)]);
    assert_eq!((answer.code, answer.stderr.as_str()), (0, ""), "without --monitor nothing is said");

    for (form, begins, holds) in [
        ("terminal", "2 operations", "decode_step"),
        ("markdown", "#", "| decode_step |"),
        ("html", "<!DOCTYPE html>", "<svg"),
        ("prometheus", "# HELP", r#"perf_monitor_phase_duration_seconds_count{phase="load"} 1"#),
        ("trace", "{", r#""traceEvents""#),
        ("json", "{", r#""schema_version": 1"#),
    ] {
        let printed = run(["report", "show", text(&path), "--format", form]);
        assert_eq!((printed.code, printed.stderr.as_str()), (0, ""), "{form}");
        assert!(printed.stdout.starts_with(begins), "{form}: {printed:?}");
        assert!(printed.stdout.contains(holds), "{form}: {printed:?}");
        let target = dir.path().join(form);
        let written = run(["report", "show", text(&path), "--format", form, "-o", text(&target)]);
        assert_eq!((written.code, written.stdout.as_str()), (0, ""), "{form}");
        if form != "terminal" {
            assert_eq!(fs::read_to_string(&target).unwrap(), printed.stdout, "{form}");
        }
    }

    let same = run(["report", "compare", text(&path), text(&path), "--format", "json"]);
    assert_eq!((same.code, same.stderr.as_str()), (0, ""), "{same:?}");
    let series = same.json()["series"].as_array().unwrap().clone();
    let of = |name: &str| series.iter().find(|s| s["name"] == name).unwrap()["verdict"].clone();
    assert_eq!(of("phase decode_step seconds"), "same");
    assert_eq!(of("operation describe seconds"), "too_few");
}

#[test]
fn what_json_prints_with_monitor_can_be_shown() {
    let dir = tempdir().unwrap();
    let answer = run(["generate", "-q", "--prompt", "Who are you?", "--json", "--monitor"]).stdout;
    let path = file(&dir, "answer.json", &answer);
    let shown = run(["report", "show", text(&path)]);
    assert_eq!(shown.code, 0, "{shown:?}");
    assert!(shown.stdout.contains("generate"), "{shown:?}");
}

#[test]
fn a_failed_answer_leaves_a_report_too() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("run.json");
    let image = hostile("truncated.png");
    run(["describe", "-q", &image, "--report", text(&path)]).fails(1, "cannot decode PNG");
    let shown = run(["report", "show", text(&path)]);
    assert!(shown.code == 0 && shown.stdout.contains("describe"), "{shown:?}");
}

#[test]
fn a_slowdown_is_exit_code_1_and_noise_is_not() {
    let dir = tempdir().unwrap();
    let before = file(&dir, "before.json", report(noisy(1.0, 1)));
    let compare = |after: &Path, limit: &str| {
        run(["report", "compare", text(&before), text(after), "--fail-over", limit])
    };
    let noise = file(&dir, "noise.json", report(noisy(1.0, 5)));
    let same = compare(&noise, "0%");
    assert_eq!((same.code, same.stderr.as_str()), (0, ""), "{same:?}");
    assert!(same.stdout.contains("same"), "{same:?}");

    let slow = file(&dir, "slow.json", report(noisy(1.2, 5)));
    let regressed = compare(&slow, "5%");
    assert_eq!(regressed.code, 1, "{regressed:?}");
    assert_eq!(regressed.stderr, "error: 1 of 2 series grew by more than 5 %, beyond noise\n");
    let first = regressed.stdout.lines().nth(1).unwrap();
    assert!(first.starts_with("operation work seconds") && first.ends_with("regression"));
    assert_eq!(compare(&slow, "30%").code, 0, "within what is allowed");
    let improved = run(["report", "compare", text(&slow), text(&before)]);
    assert!(improved.code == 0 && improved.stdout.contains("improvement"), "{improved:?}");
    let markdown = ["report", "compare", text(&before), text(&slow), "--format", "markdown"];
    assert!(run(markdown).stdout.contains("**regression**"));
}

#[test]
fn folders_are_runs_and_each_run_is_one_value() {
    let dir = tempdir().unwrap();
    let runs = |name: &str, center: f64, busy: Option<u32>| {
        let folder = dir.path().join(name);
        fs::create_dir(&folder).unwrap();
        for n in 0..6 {
            let center = if busy == Some(n) { 5.0 } else { center };
            let path = folder.join(format!("{n}.json"));
            fs::write(path, report(noisy(center, n)).to_string()).unwrap();
        }
        fs::write(folder.join("notes.txt"), "no report").unwrap();
        folder
    };
    let before = runs("before", 1.0, None);
    let compare = |after: &Path| run(["report", "compare", text(&before), text(after)]);
    let once_busy = compare(&runs("busy", 1.0, Some(3)));
    assert_eq!(once_busy.code, 0, "{once_busy:?}");
    let slow = compare(&runs("slow", 1.2, None));
    assert_eq!(slow.code, 1, "{slow:?}");
    assert!(slow.stdout.contains("regression"), "{slow:?}");
}

#[test]
fn files_that_are_no_reports_are_named() {
    let dir = tempdir().unwrap();
    let good = file(&dir, "good.json", report(noisy(1.0, 1)));
    let folder = dir.path().join("empty");
    fs::create_dir(&folder).unwrap();
    for (path, says) in [
        (dir.path().join("none.json"), "No such file"),
        (file(&dir, "empty.json", ""), "found nothing"),
        (file(&dir, "text.json", "to be or not to be"), "found no JSON"),
        (file(&dir, "other.json", "{\"text\": \"A cat.\"}"), "without `schema_version`"),
        (file(&dir, "newer.json", "{\"schema_version\": 2}"), "schema_version 1 to 1, found 2"),
        (file(&dir, "damaged.json", "{\"schema_version\": 1}"), "missing field `operations`"),
        (file(&dir, "nothing.json", report([])), "nothing was measured"),
        (PathBuf::from(hostile("header_only.jpg")), "found no text"),
        (folder.clone(), "no report (*.json) in the folder"),
    ] {
        let name = path.file_name().unwrap().to_str().unwrap();
        for pair in [[&good, &path], [&path, &good]] {
            let compared = run(["report", "compare", text(pair[0]), text(pair[1])]);
            compared.fails(1, says);
            assert!(compared.stderr.contains(name), "{name} is not named: {compared:?}");
        }
    }
    run(["report", "show", text(&folder)]).fails(1, "Is a directory");
    let few = file(&dir, "few.json", report([1.0, 1.1]));
    let compared = run(["report", "compare", text(&good), text(&few)]);
    assert_eq!(compared.code, 1, "a gate that judged nothing has not passed: {compared:?}");
    assert!(compared.stderr.starts_with("error: nothing can be judged"), "{compared:?}");
    assert!(compared.stdout.contains("too few values"), "{compared:?}");
}

#[test]
fn a_report_that_cannot_be_written_is_refused_before_anything_is_loaded() {
    let dir = tempdir().unwrap();
    let image = repository("models/tiny-vl/samples/scene.png");
    let into = |path: &Path| run(["describe", "-q", &image, "--report", text(path)]);
    into(dir.path()).fails(1, "it is a folder");
    into(&dir.path().join("none/run.json")).fails(1, "its folder does not exist");
}

#[test]
fn a_difference_of_machines_is_noted() {
    let dir = tempdir().unwrap();
    let on = |cpus: u64| {
        let mut report = report(noisy(1.0, 1));
        report["environment"] = json!({
            "os": "linux", "arch": "x86_64", "cpus": cpus, "memory_total": 8u64 << 30,
            "monitor_version": "0.1.0", "started_at": 0.0, "elapsed": 1.0,
        });
        file(&dir, &format!("{cpus}.json"), report)
    };
    let noted = run(["report", "compare", text(&on(2)), text(&on(16))]);
    assert_eq!(noted.code, 0, "{noted:?}");
    assert!(noted.stderr.contains("different machines"), "{noted:?}");
    let quiet = run(["report", "compare", "-q", text(&on(2)), text(&on(16))]);
    assert_eq!(quiet.stderr, "");
}

#[test]
fn a_limit_without_its_sign_is_exit_code_2() {
    for arguments in [
        &["report", "compare", "a.json", "b.json", "--fail-over", "5"][..],
        &["report", "compare", "a.json"],
        &["report", "show", "a.json", "--format", "pdf"],
        &["report"],
    ] {
        let run = run(arguments);
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{run:?}");
    }
}
