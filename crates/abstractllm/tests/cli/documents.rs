//! `completions` and `man`: what shells and readers of manuals get.

use std::{collections::BTreeSet, process::Command};

use crate::run;

/// The commands that `--help` lists.
fn commands() -> BTreeSet<String> {
    let help = run(["--help"]);
    let lines = help.ok().lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = lines.take_while(|line| !line.is_empty());
    // What stands further right goes on with the line before.
    let names = lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    names
        .filter(|name| !name.is_empty())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

#[test]
fn shells_complete_every_command() {
    let commands = commands();
    assert!(commands.contains("describe") && commands.contains("completions"), "{commands:?}");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let run = run(["completions", shell]);
        let script = run.ok();
        for wanted in commands.iter().map(String::as_str).chain(["max-tokens", "memory-limit"]) {
            assert!(script.contains(wanted), "{shell} lacks {wanted}");
        }
    }
    run(["completions", "tcl"]).fails(2, "possible values: bash");
}

#[test]
fn bash_takes_the_completions() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("abstractllm");
    std::fs::write(&script, run(["completions", "bash"]).ok()).unwrap();
    // What bash does when TAB is pressed after `abstractllm sys`.
    let ask = "source $0; COMP_WORDS=(abstractllm sys); COMP_CWORD=1; \
               _abstractllm abstractllm sys abstractllm; echo ${COMPREPLY[@]}";
    let output = Command::new("bash").args(["--norc", "-c", ask]).arg(script).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "system-check", "{output:?}");
}

#[test]
fn there_is_a_page_for_every_command() {
    let main_page = run(["man"]);
    let page = main_page.ok();
    assert!(page.contains(".TH abstractllm 1") && page.contains("abstractllm\\-describe(1)"));

    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("deep/man1");
    run(["man", "--dir", folder.to_str().unwrap()]).ok();
    for name in commands() {
        let path = folder.join(format!("abstractllm-{name}.1"));
        let page = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        assert!(page.contains(&format!(".TH abstractllm-{name} 1")), "{page}");
        assert!(page.contains("\\-\\-quiet"), "{name}: global options are missing");
    }
    let nested = std::fs::read_to_string(folder.join("abstractllm-report-compare.1")).unwrap();
    assert!(nested.contains("\\fBabstractllm report compare\\fR"), "{nested}");

    let listed = run(["man", "--dir", folder.to_str().unwrap(), "--json"]).json();
    let pages = listed["pages"].as_array().unwrap();
    assert_eq!(pages.len(), std::fs::read_dir(&folder).unwrap().count());
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    run(["man", "--dir", file.to_str().unwrap()]).fails(1, "cannot write pages into");
}
