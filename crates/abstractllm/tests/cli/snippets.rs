//! What README and docs show works: commands are run, settings read, and Python compiled. Blocks of Rust
//! are run by the documentation tests.

mod markdown;
mod not_run;
mod shell;

use std::{
    collections::BTreeSet,
    env, fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use abstractllm::{Config, create_llm};

use self::{
    markdown::{Block, blocks, documents, text},
    not_run::{MAY_END_WITH, NOT_RUN, OTHER_NUMBERS},
    shell::{Line, Scratch, commands},
};
use crate::repository;

const LISTS: &str = "crates/abstractllm/tests/cli/snippets/not_run.rs";

fn is_shell(block: &Block) -> bool {
    block.language == "sh" || block.is_console()
}

fn shell_blocks() -> Vec<Block> {
    blocks().into_iter().filter(is_shell).collect()
}

/// Ends the test with all that is wrong, so that one run is enough to mend it.
#[track_caller]
fn none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n\n{}\n", wrong.join("\n\n"));
}

#[test]
fn every_command_is_run_or_listed_with_a_reason() {
    let listed: BTreeSet<&str> = NOT_RUN.iter().flat_map(|(_, lines)| *lines).copied().collect();
    let mut wrong = Vec::new();
    for block in shell_blocks() {
        let scratch = Scratch::new();
        for line in commands(&block).iter().filter(|line| !listed.contains(line.text.as_str())) {
            wrong.extend(
                try_out(&scratch, line)
                    .err()
                    .map(|what| format!("{}: `{}`\n{what}", line.place, line.text)),
            );
        }
    }
    none(&wrong);
}

/// Runs a command and compares what it prints with what is shown.
fn try_out(scratch: &Scratch, line: &Line) -> Result<(), String> {
    if line.text.starts_with("cargo test -p ") && !line.text.contains("--ignored") {
        // A part of the tests that this one belongs to; that there is such a part is checked below.
        return Ok(());
    }
    let runs = ["abstractllm ", "cargo run --release -p abstractllm -- ", "for ", "mkdir "];
    if !runs.iter().any(|start| line.text.starts_with(start)) {
        return Err(format!(
            "This is no command of our program, so it is not run here. Add the line, as it is quoted above, to \
             NOT_RUN in {LISTS}, under the reason that holds for it."
        ));
    }
    let run = scratch.run(line);
    let may = |code| MAY_END_WITH.iter().any(|known| (known.0, known.1) == (&line.text, code));
    if run.code != 0 && !may(run.code) {
        return Err(format!(
            "ended with {}, expected 0. Mend the document or the program; if the command cannot run on a machine \
             without network or GPU, add the line, as it is quoted above, to NOT_RUN in {LISTS}; if it needs \
             a file, make that in Scratch::new in snippets/shell.rs.\n{run:#?}",
            run.code
        ));
    }
    let shown = line.output.join("\n");
    let numbers = !OTHER_NUMBERS.contains(&line.text.as_str());
    let printed = run.stdout.trim_end();
    if !shown.is_empty() && comparable(&shown, numbers) != comparable(printed, numbers) {
        return Err(format!(
            "The document shows\n{shown}\nbut the program prints\n{printed}\nPut that into the document; if \
             numbers depend on the machine, add the line to OTHER_NUMBERS in {LISTS}."
        ));
    }
    Ok(())
}

fn comparable(text: &str, numbers: bool) -> String {
    if numbers {
        return text.to_owned();
    }
    let words =
        text.split_whitespace().filter(|word| !word.starts_with(|c: char| c.is_ascii_digit()));
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn the_lists_have_no_line_that_the_docs_have_not() {
    let shown: BTreeSet<String> =
        shell_blocks().iter().flat_map(commands).map(|line| line.text).collect();
    let listed = NOT_RUN.iter().flat_map(|(_, lines)| *lines).copied();
    let others = MAY_END_WITH.iter().map(|known| known.0).chain(OTHER_NUMBERS.iter().copied());
    let gone = listed.chain(others).filter(|line| !shown.contains(*line));
    let wrong: Vec<String> = gone
        .map(|line| format!("`{line}` is in no document any more; remove it from {LISTS}"))
        .collect();
    none(&wrong);
}

#[test]
fn every_block_is_of_a_language_that_is_tested() {
    let mut wrong = Vec::new();
    let docs = fs::read_to_string(repository("crates/abstractllm/src/docs.rs")).unwrap();
    for block in blocks() {
        let language = block.language.split(',').next().unwrap();
        match language {
            "rust" if !docs.contains(&format!("include_str!(\"../../../{}\")", block.file)) => {
                wrong.push(format!(
                    "{}: Rust that nothing compiles; include the document in crates/abstractllm/src/docs.rs",
                    block.place()
                ));
            }
            "rust" | "text" | "toml" | "json" | "python" => {}
            _ if is_shell(&block) => {}
            _ => wrong.push(format!(
                "{}: a block of {language:?}; expected rust, sh, console (commands after `$ `), toml, json, python, \
                 or text for what is none of these",
                block.place()
            )),
        }
    }
    none(&wrong);
}

/// Commands in running text, too, name packages, tests, benches, examples and tasks that exist.
#[test]
fn commands_of_cargo_name_what_there_is() {
    let tasks = text("xtask/src/main.rs");
    let mut wrong = Vec::new();
    let mut seen = 0;
    for document in documents() {
        let text = text(&document);
        let parts = text.split(['`', '\n']).map(|part| part.split(" # ").next().unwrap().trim());
        for command in parts.filter(|part| part.contains("cargo ")) {
            let words: Vec<&str> = command.split_whitespace().collect();
            let after = |name: &str| words.windows(2).find(|two| two[0] == name).map(|two| two[1]);
            if let Some(task) = after("xtask") {
                seen += 1;
                if !tasks.contains(&format!("\n  {task}")) {
                    wrong.push(format!(
                        "{document}: `{command}`: no such task in xtask/src/main.rs"
                    ));
                }
            }
            let Some(package) = after("-p") else { continue };
            for (option, folder) in
                [("--test", "tests"), ("--bench", "benches"), ("--example", "examples")]
            {
                let Some(name) = after(option) else { continue };
                seen += 1;
                let path = repository(&format!("crates/{package}/{folder}/{name}"));
                if ![".rs", "/main.rs"].iter().any(|end| Path::new(&(path.clone() + end)).exists())
                {
                    wrong.push(format!("{document}: `{command}`: no {path}.rs"));
                }
            }
        }
    }
    assert!(seen > 20, "{seen} commands were found");
    none(&wrong);
}

#[test]
fn settings_are_read_and_manifests_resolve() {
    let folder = tempfile::tempdir().unwrap();
    for block in blocks().iter().filter(|block| ["toml", "json"].contains(&block.language.as_str()))
    {
        let (place, text) = (block.place(), block.text());
        if text.contains("[patch.crates-io]") {
            resolve(&place, &text);
            continue;
        }
        let path = folder.path().join(format!("settings.{}", block.language));
        // The tests do not run in the root of the repository.
        let text = text.replace("\"testdata/", &format!("\"{}/", repository("testdata")));
        fs::write(&path, &text).unwrap();
        let tables = ["mlx", "openai", "anthropic"];
        for provider in tables.iter().filter(|name| text.contains(&format!("[{name}]"))) {
            let config = Config::read(&path, provider).unwrap_or_else(|e| panic!("{place}: {e}"));
            create_llm(provider, config).unwrap_or_else(|e| panic!("{place}: {provider}: {e}"));
        }
    }
}

/// Lets Cargo resolve a package with this manifest, with the checkout in place of the repository on the web.
fn resolve(place: &str, manifest: &str) {
    let folder = tempfile::tempdir().unwrap();
    let mut text = "[package]\nname = \"scratch\"\nedition = \"2024\"\n".to_owned();
    for line in manifest.lines() {
        let name = line.split(" = ").next().unwrap();
        let path = repository(&format!("crates/{name}"));
        let web = "git = \"https://github.com/abstractllm/abstractllm\"";
        text += &line.replace(web, &format!("path = {path:?}"));
        text += "\n";
    }
    fs::create_dir(folder.path().join("src")).unwrap();
    fs::write(folder.path().join("src/lib.rs"), "").unwrap();
    fs::write(folder.path().join("Cargo.toml"), text).unwrap();
    fs::copy(repository("Cargo.lock"), folder.path().join("Cargo.lock")).unwrap();
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output =
        Command::new(cargo).args(["tree", "--offline"]).current_dir(&folder).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{place}: {said}");
    let patched = !manifest.contains("[dependencies]") || !said.contains("was not used");
    assert!(patched, "{place}: {said}");
}

#[test]
fn python_compiles() {
    for block in blocks().iter().filter(|block| block.language == "python") {
        let compile = "import sys; compile(sys.stdin.read(), sys.argv[1], 'exec')";
        let mut child = Command::new("python3")
            .args(["-c", compile, &block.place()])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the build needs python3 too");
        child.stdin.take().unwrap().write_all(block.text().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
