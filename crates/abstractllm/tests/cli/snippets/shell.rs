//! Command lines of documents, and a folder where they run.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::fs::symlink,
    path::Path,
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use super::markdown::Block;
use crate::{Run, program, repository};

/// A command, what is typed while it runs, and what it is said to print.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) place: String,
    pub(crate) text: String,
    input: String,
    pub(crate) output: Vec<String>,
}

/// Returns the commands of a block: all its lines, or those after `$`.
pub(crate) fn commands(block: &Block) -> Vec<Line> {
    let mut found: Vec<Line> = Vec::new();
    let mut unfinished = false;
    for (index, line) in block.lines.iter().enumerate() {
        let told = if block.is_console() {
            line.strip_prefix("$ ")
        } else {
            Some(line.trim()).filter(|line| !line.is_empty() && !line.starts_with('#'))
        };
        let typed = line.strip_prefix("> ").filter(|_| block.is_console());
        match (told, typed, found.last_mut()) {
            (Some(more), _, Some(last)) | (None, Some(more), Some(last)) if unfinished => {
                last.text += "\n";
                last.text += more.trim();
            }
            (Some(text), ..) => found.push(Line {
                place: format!("{}:{}", block.file, block.line + index + 1),
                text: without_comment(text).to_owned(),
                input: String::new(),
                output: Vec::new(),
            }),
            (None, Some(typed), Some(last)) => {
                last.input += typed;
                last.input += "\n";
            }
            (None, None, Some(last)) if block.is_console() => last.output.push(line.clone()),
            _ => {}
        }
        unfinished = found.last().is_some_and(|last| {
            last.text.ends_with('\\')
                || last.text.starts_with("for ") && !last.text.ends_with("done")
        });
    }
    found
}

fn without_comment(text: &str) -> &str {
    text.split_once(" # ").map_or(text, |(command, _)| command).trim()
}

/// A folder with what the documents name, where `abstractllm` is the program that was built.
pub(crate) struct Scratch(TempDir);

impl Scratch {
    pub(crate) fn new() -> Self {
        let scratch = Self(tempfile::tempdir().unwrap());
        let built = env!("CARGO_BIN_EXE_abstractllm");
        for folder in ["bin", "old", "new"] {
            scratch.link(built, &format!("{folder}/abstractllm"));
        }
        for name in ["models", "testdata"] {
            scratch.link(&repository(name), name);
        }
        scratch.link(&repository("testdata/preproc/photos/china.jpg"), "photo.jpg");
        scratch.link(&repository("models/tiny-vl/samples/scene.png"), "picture.png");
        scratch.link(&repository("testdata/video/moving.gif"), "moving.gif");
        write_picture(&scratch.path("photo.png"), 1344);
        // A small model answers to the names of the large ones.
        let small = repository("models/tiny-vl/4bit");
        scratch.link(&small, "Qwen2.5-VL-3B-Instruct-4bit");
        let cached = "hub/models--mlx-community--Qwen2.5-VL-3B-Instruct-4bit";
        scratch.link(&small, &format!("{cached}/snapshots/0123456789abcdef"));
        fs::create_dir_all(scratch.path(&format!("{cached}/refs"))).unwrap();
        fs::write(scratch.path(&format!("{cached}/refs/main")), "0123456789abcdef").unwrap();
        scratch
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn link(&self, target: &str, name: &str) {
        let path = self.path(name);
        fs::create_dir_all(Path::new(&path).parent().unwrap()).unwrap();
        symlink(fs::canonicalize(target).unwrap(), path).unwrap();
    }

    /// Returns a shell that runs `text` in this folder.
    fn shell(&self, text: &str) -> Command {
        // Takes the environment of the tests from where it is made.
        let like = program([""; 0]);
        let mut command = Command::new("sh");
        command.args(["-eu", "-c", text]).current_dir(self.0.path());
        for (name, value) in like.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
            .env("PATH", format!("{}:{}", self.path("bin"), env::var("PATH").unwrap()))
            .env("HF_HUB_CACHE", self.path("hub"))
            .env("HF_HUB_OFFLINE", "1")
            .env_remove("ABSTRACTLLM_API_KEY")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end; a server until it says where it listens.
    pub(crate) fn run(&self, line: &Line) -> Run {
        let text = line.text.replace("cargo run --release -p abstractllm -- ", "abstractllm ");
        if text.starts_with("abstractllm serve") {
            return serve(self.shell(&format!("exec {text} --port 0")));
        }
        let mut child = self.shell(&text).spawn().unwrap();
        // It may end before it has read everything.
        let _ = child.stdin.take().unwrap().write_all(line.input.as_bytes());
        child.wait_with_output().unwrap().into()
    }
}

fn serve(mut shell: Command) -> Run {
    let mut child: Child = shell.spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let (mut stdout, mut stderr) = (String::new(), String::new());
    reader.read_line(&mut stdout).unwrap();
    if let Some((before, after)) = stdout.split_once("127.0.0.1:") {
        let path = after.trim_start_matches(|c: char| c.is_ascii_digit());
        stdout = format!("{before}127.0.0.1:8080{path}");
    }
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    let code = child.wait().unwrap().code().unwrap_or(-1);
    Run { code, stdout, stderr }
}

/// Writes a grey PNG file of `side` x `side` pixels.
fn write_picture(path: &str, side: u32) {
    let mut encoder = png::Encoder::new(fs::File::create(path).unwrap(), side, side);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&vec![128; (side * side * 3) as usize]).unwrap();
}
