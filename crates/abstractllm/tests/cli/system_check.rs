//! `system-check`: a verdict on this machine, on which the other tests run.

use std::fs;

use crate::{program, run};

#[test]
fn this_machine_is_fine_and_says_why() {
    let run = run(["system-check", "--json"]);
    assert_eq!(run.code, 0, "{run:?}");
    let json = run.json();
    assert_eq!(json["ok"], true);
    let checks = json["checks"].as_array().unwrap();
    let details = |name: &str| {
        let check = checks.iter().find(|check| check["name"] == name);
        &check.unwrap_or_else(|| panic!("no check {name}"))["details"]
    };
    assert!(details("memory")["total_bytes"].as_u64() > Some(100 << 20));
    assert!(details("processor")["cpus"].as_u64() >= Some(1));
    assert!(details("computation")["answer"].as_str().unwrap().starts_with("Hello!"));
    assert!(details("embedded model")["path"].as_str().unwrap().contains("tiny-vl-"));
}

#[test]
fn a_cache_that_cannot_be_written_is_a_problem() {
    let folder = tempfile::tempdir().unwrap();
    // A file in the way stops even a user who may write anywhere.
    fs::write(folder.path().join("file"), "").unwrap();
    let cache = folder.path().join("file").join("cache");
    let output = program(["system-check"]).env("ABSTRACTLLM_CACHE", cache).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stdout}");
    assert!(stdout.contains("problem  cache"), "{stdout}");
    assert!(stdout.contains("problem  embedded model"), "{stdout}");
    assert!(stdout.contains("There is a problem"), "{stdout}");
}
