//! `--adapter`, with adapters of tiny-vl that mlx-vlm made, and what it answers with them.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{
    program, repository, run, run_with_stdin,
    serve::{end, request, start},
};

fn folder(name: &str) -> String {
    repository(&format!("testdata/adapters/tiny-vl/{name}"))
}

/// What mlx-vlm answers to `Who are you?` with an adapter, or with none.
fn expected(adapter: Option<&str>) -> String {
    let all: Value = serde_json::from_slice(&fs::read(folder("expected.json")).unwrap()).unwrap();
    let answers = all["answers"].as_array().unwrap();
    let found = answers.iter().find(|answer| {
        let of = (&answer["checkpoint"], &answer["adapter"], &answer["question"]);
        of == (&json!("full"), &json!(adapter), &json!("text"))
    });
    found.unwrap()["text"].as_str().unwrap().to_owned()
}

const ASK: [&str; 6] = ["generate", "-q", "--max-tokens", "48", "--prompt", "Who are you?"];

#[test]
fn the_adapter_answers() {
    let words = folder("words");
    let (base, changed) = (expected(None), expected(Some("words")));
    assert_ne!(base, changed);
    assert_eq!(run(ASK).ok().trim_end(), base);
    let found = run(ASK.iter().chain(&["--json", "--adapter", &words])).json();
    assert_eq!((&found["text"], &found["adapter"]), (&json!(changed), &json!("words")));
    assert_eq!(found["model"], "tiny-vl");

    // By the name that a file gives it, which does not answer unless it is asked for.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("settings.toml");
    fs::write(&file, format!("[mlx.adapters]\nmine = {words:?}\n")).unwrap();
    let with_file = |more: &[&str]| {
        let mut program = program(ASK.iter().chain(more));
        let output = program.env("ABSTRACTLLM_CONFIG", &file).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(with_file(&[]).trim_end(), base);
    for more in [&["--adapter", "mine"], &["--set", "adapter=mine"]] {
        assert_eq!(with_file(more).trim_end(), changed);
    }
}

#[test]
fn a_conversation_goes_on_without_it_after_another_model() {
    let arguments = ["chat", "-q", "--max-tokens", "48", "--adapter", &folder("words")];
    let run = run_with_stdin(&arguments, "Who are you?\n/clear\n/model tiny-vl\nWho are you?\n");
    let (changed, base) = (expected(Some("words")), expected(None));
    assert_eq!(run.stdout, format!("{changed}\n{base}\n"), "{run:?}");
}

#[test]
fn what_cannot_be_is_refused() {
    let (words, eyes) = (folder("words"), folder("eyes"));
    for (more, says) in [
        (vec!["--adapter", &words, "--adapter", &eyes], "give one; found `words` and `eyes`"),
        (vec!["--adapter", "no/such"], "no/such"),
        (vec!["--adapter", &words, "--provider", "openai"], "an option of the provider mlx"),
        (vec!["--adapter", &words, "--set", "adapter=x"], "--adapter and --set adapter"),
        (vec!["--set", "adapter=x"], "`adapter`: expected a name of `adapters`"),
    ] {
        run(ASK.iter().copied().chain(more)).fails(1, says);
    }
    let named = format!("tiny-vl={words}");
    run(["serve", "--adapter", &named]).fails(2, "`tiny-vl` would be the name of the model");
}

#[test]
fn a_server_has_each_adapter_as_a_model() {
    let more = ["--adapter", &folder("words"), "--adapter", &format!("looks={}", folder("eyes"))];
    let (child, address, _stdout) = start(&more);
    let head = |what: &str| format!("{what} HTTP/1.1\r\nhost: localhost");
    let models = request(&address, &head("GET /v1/models"), "");
    let body = models.split("\r\n\r\n").nth(1).unwrap();
    let models: Value = serde_json::from_str(body).unwrap();
    let names: Vec<&str> =
        models["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(names, ["tiny-vl", "looks", "words"]);

    let ask = |model: &str| {
        let head = head("POST /v1/chat/completions") + "\r\ncontent-type: application/json";
        let body = json!({"model": model, "max_tokens": 48, "messages": [{"role": "user", "content": "Who are you?"}]});
        let reply = request(&address, &head, &body.to_string());
        let reply: Value = serde_json::from_str(reply.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert_eq!(reply["model"], model, "{reply}");
        reply["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
    };
    // At once, and one after the other.
    std::thread::scope(|scope| {
        for (model, adapter) in
            [("tiny-vl", None), ("words", Some("words")), ("looks", Some("eyes"))]
        {
            scope.spawn(move || assert_eq!(ask(model), expected(adapter), "{model}"));
        }
    });
    assert_eq!(ask("tiny-vl"), expected(None));
    assert_eq!(ask("words"), expected(Some("words")));
    assert_eq!(end(child, Signal::SIGTERM), Some(0));
}
