//! Conversations, from a pipe and at a terminal.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use nix::{
    pty::openpty,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::{case, program, repository, run_with_stdin};

const HELLO: &str = "Hello! Show me an image and I will describe it.";

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn each_piped_line_is_a_message() {
    let run = run_with_stdin(&["chat", "-q"], "Hello\n\nThanks\n");
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    assert_eq!(run.stdout.lines().next(), Some(HELLO));
    assert_eq!(run.stdout.lines().count(), 2);
}

#[test]
fn images_and_what_was_said_stay() {
    let case = case("01-describe");
    let dir = tempfile::tempdir().unwrap();
    let saved = dir.path().join("s.json");
    let saved = saved.to_str().unwrap();
    let said = format!(
        "/image {}\n{}\nWhat color is the background?\n/undo\n/save {saved}\n/system\n",
        case.images[0], case.prompt
    );
    let run = run_with_stdin(&["chat", "-q", "--json"], &said);
    assert_eq!(run.code, 0, "{run:?}");
    let told = lines(&run.stdout);
    assert_eq!(told[0]["event"], "command");
    assert_eq!(told[0]["image"]["format"], "png");
    assert_eq!((&told[1]["event"], &told[1]["text"]), (&json!("answer"), &json!(case.answer)));
    assert_eq!(told[1]["images"].as_array().unwrap().len(), 1);
    // The picture was said before, and is still seen.
    assert!(told[2]["text"].as_str().unwrap().contains("yellow"), "{run:?}");
    assert!(told[2]["usage"]["cached_tokens"].as_u64().unwrap() > 64);
    assert_eq!(told[3]["undone"], true);
    assert_eq!((&told[4]["saved"], &told[4]["turns"]), (&json!(saved), &json!(1)));
    assert_eq!(told[5]["system"], Value::Null);
    // Another program goes on, from another folder and without the picture.
    let said = format!("/load {saved}\nWhat color is the background?\n");
    let run = run_with_stdin(&["chat", "-q", "--json"], &said);
    assert_eq!(lines(&run.stdout)[1]["text"], told[2]["text"], "{run:?}");
}

#[test]
fn a_session_is_kept_after_each_turn() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("s.json");
    let path = file.to_str().unwrap();
    let turns = || {
        let saved: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        (saved["turns"].as_array().unwrap().len(), saved["system"].clone())
    };
    let run = run_with_stdin(&["chat", "-q", "-s", path, "--system", "Be kind."], "Hello\n");
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(turns(), (1, json!("Be kind.")));
    let run = run_with_stdin(&["chat", "-q", "-s", path], "Thanks\n/nonsense\nHello\n");
    run_failed(&run, "there is no command /nonsense");
    // What came before the mistake is kept, and what came after was not said.
    assert_eq!(turns(), (2, json!("Be kind.")));
    fs::write(&file, "{}").unwrap();
    let run = run_with_stdin(&["chat", "-q", "-s", path], "Hello\n");
    run_failed(&run, "expected a saved conversation");
    assert_eq!(fs::read(&file).unwrap(), b"{}");
}

#[track_caller]
fn run_failed(run: &crate::Run, says: &str) {
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stderr.starts_with("error: ") && run.stderr.contains(says), "{run:?}");
}

#[test]
fn ctrl_c_stops_the_answer_and_not_the_program() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("s.json");
    // An answer that goes on until the context is full, as in `interrupts`.
    let arguments = ["chat", "-q", "--frequency-penalty", "-2", "--max-tokens", "4000", "-s"];
    let mut child = program(arguments).arg(&file).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    for _ in 0..2 {
        stdin.write_all(b"What is the capital of France?\n").unwrap();
        stdout.read_exact(&mut [0; 5]).unwrap();
        kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
        let mut rest = String::new();
        stdout.read_line(&mut rest).unwrap();
        assert!(rest.len() < 2000, "{rest}");
    }
    drop(stdin);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let saved: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let text = &saved["turns"][0]["messages"][1]["parts"][0]["text"];
    assert!(text.as_str().unwrap().starts_with("Hello"), "{saved}");
    assert_eq!(saved["turns"].as_array().unwrap().len(), 2);
}

/// A terminal with a program in it.
struct Terminal {
    keys: File,
    seen: std::sync::mpsc::Receiver<Vec<u8>>,
    text: String,
}

impl Terminal {
    /// Waits until `text` is shown, after what was waited for before.
    #[track_caller]
    fn shows(&mut self, text: &str) {
        let began = Instant::now();
        loop {
            if let Some(at) = self.text.find(text) {
                self.text.drain(..at + text.len());
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{text:?} not in {:?}", self.text);
            if let Ok(more) = self.seen.recv_timeout(Duration::from_millis(100)) {
                self.text.push_str(&String::from_utf8_lossy(&more));
            }
        }
    }
}

#[test]
fn a_person_has_a_prompt_history_and_completion() {
    let cache = tempfile::tempdir().unwrap();
    let pty = openpty(None, None).unwrap();
    let side = || File::from(pty.slave.try_clone().unwrap());
    let mut child = program(["chat"])
        .env("ABSTRACTLLM_CACHE", cache.path())
        .env("TERM", "xterm")
        .stdin(side())
        .stdout(side())
        .stderr(side())
        .spawn()
        .unwrap();
    drop(pty.slave);
    let keys = File::from(pty.master);
    let mut screen = keys.try_clone().unwrap();
    let (sender, seen) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(n @ 1..) = screen.read(&mut bytes) {
            let _ = sender.send(bytes[..n].to_vec());
        }
    });
    let mut terminal = Terminal { keys, seen, text: String::new() };
    terminal.shows("/help lists the commands");
    terminal.shows("> ");
    terminal.keys.write_all(b"Hello\r").unwrap();
    terminal.shows(HELLO);
    terminal.shows("> ");
    // A mistake is told, and the conversation goes on.
    terminal.keys.write_all(b"/image no.png\r").unwrap();
    terminal.shows("error: image no.png");
    terminal.shows("> ");
    // Ctrl-C at the prompt, a command by its beginning, a message from the history, Ctrl-D.
    terminal.keys.write_all(b"half a li\x03").unwrap();
    terminal.shows("Ctrl-D or /exit ends");
    terminal.shows("> ");
    terminal.keys.write_all(b"/und\t\r").unwrap();
    terminal.shows("the last turn is taken back");
    terminal.shows("> ");
    terminal.keys.write_all(b"\x1b[A\x1b[A\x1b[A\r").unwrap();
    terminal.shows(HELLO);
    terminal.shows("> ");
    terminal.keys.write_all(b"\x04").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let history = fs::read_to_string(cache.path().join("chat-history")).unwrap();
    assert!(history.lines().any(|line| line == "Hello"), "{history}");
}

#[test]
fn mistakes_are_told_before_a_model_is_loaded() {
    let image = repository("testdata/no-such.png");
    let run = run_with_stdin(&["chat", "--image", &image, "--model", "no/such"], "Hello\n");
    run_failed(&run, "no-such.png");
    let run = run_with_stdin(&["chat", "--temperature", "3", "--model", "no/such"], "Hello\n");
    run_failed(&run, "temperature must be within 0..=2");
}
