//! Ctrl-C and readers that go away.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::program;

/// An answer that goes on until the context is full: asked what it cannot know and rewarded for
/// repeating itself, tiny-vl never comes to an end.
const ENDLESS: &[&str] = &[
    "generate",
    "-q",
    "--prompt",
    "What is the capital of France?",
    "--frequency-penalty",
    "-2",
    "--max-tokens",
    "4000",
];

fn spawn(more: &[&str]) -> Child {
    program(ENDLESS.iter().chain(more)).spawn().unwrap()
}

fn interrupt(child: &Child) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
}

#[test]
fn the_text_so_far_is_kept() {
    let mut child = spawn(&[]);
    let mut stdout = child.stdout.take().unwrap();
    let mut text = vec![0; 5];
    stdout.read_exact(&mut text).unwrap();
    let asked = Instant::now();
    interrupt(&child);
    stdout.read_to_end(&mut text).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "interrupted\n");
    let text = String::from_utf8(text).unwrap();
    assert!(text.starts_with("Hello") && text.ends_with('\n'), "{text}");
    // The whole would be thousands of tokens.
    assert!(text.len() < 2000 && asked.elapsed() < Duration::from_secs(5), "{text}");
}

#[test]
fn json_holds_the_text_so_far_and_says_that_it_was_cut() {
    let mut child = spawn(&["--json", "--stream"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let is_text = |line: &str| line.starts_with(r#"{"event":"text""#);
    lines.find(|line| is_text(line.as_ref().unwrap())).unwrap().unwrap();
    interrupt(&child);
    let last: Value = serde_json::from_str(&lines.last().unwrap().unwrap()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!((&last["event"], &last["error"]["kind"]), (&"error".into(), &"cancelled".into()));
    assert!(last["text"].as_str().unwrap().starts_with('H'), "{last}");
    assert!(last["finish_reason"].is_null());
}

#[test]
fn the_second_one_ends_a_program_that_cannot_write() {
    let (reader, writer) = io::pipe().unwrap();
    let mut filler = writer.try_clone().unwrap();
    let mut child = program(ENDLESS).stdout(writer).spawn().unwrap();
    let mut reader = BufReader::with_capacity(1, reader);
    // The answer has begun.
    reader.read_exact(&mut [0]).unwrap();
    // From here on nobody reads, and the pipe is full.
    let filling = thread::spawn(move || filler.write_all(&vec![b'.'; 1 << 20]));
    thread::sleep(Duration::from_millis(300));
    interrupt(&child);
    thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "nothing blocked, so this test shows nothing");
    interrupt(&child);
    let asked = Instant::now();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(asked.elapsed() < Duration::from_secs(2));
    drop(reader);
    assert_eq!(filling.join().unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn before_the_answer_the_first_one_ends_the_program() {
    // Reading the prompt: nothing has begun that could be kept.
    let child = program(["generate", "-q"]).stdin(Stdio::piped()).spawn().unwrap();
    thread::sleep(Duration::from_millis(500));
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success());
    assert!(output.stdout.is_empty());
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let mut child = spawn(&[]);
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 5]).unwrap();
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}
