//! The official Python client of OpenAI against `abstractllm serve`.
//!
//! The client is installed below `target` the first time. Only where the package index cannot be
//! reached is this test skipped, and says so.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use python_env::Missing;
use serde_json::Value;
use tempfile::TempDir;

const KEY: &str = "sk-of-the-test";

/// A program that serves; ended when this is dropped.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(arguments: &[&str], key: Option<&str>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_abstractllm"));
        command.args(["serve", "-q", "--json", "--port", "0"]).args(arguments);
        command.env("ABSTRACTLLM_CACHE", concat!(env!("CARGO_TARGET_TMPDIR"), "/cache"));
        command.env_remove("RUST_LOG").env_remove("ABSTRACTLLM_API_KEY");
        command.envs(key.map(|key| ("ABSTRACTLLM_API_KEY", key)));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"));
        assert_eq!(ready["event"], "ready");
        Self { child, url: ready["url"].as_str().unwrap().to_owned() }
    }

    /// Asks the program to end, and returns its exit code.
    fn end(mut self) -> Option<i32> {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        let asked = Instant::now();
        let status = self.child.wait().unwrap();
        assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
        status.code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Only a test that fails comes here with a program that runs.
        let _ = self.child.kill();
    }
}

/// Returns tiny-vl with a chat template that knows tools; its own has none.
fn with_tools() -> TempDir {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(root.join("models/tiny-vl/full")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    let template = fs::read_to_string(root.join("testdata/chat/hermes.jinja")).unwrap();
    let template = serde_json::json!({"chat_template": template}).to_string();
    fs::write(dir.path().join("chat_template.json"), template).unwrap();
    dir
}

#[test]
fn the_official_client_is_served() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openai");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("openai-client");
    let python = match python_env::python(&folder, &[(&here.join("requirements.txt"), &[])]) {
        Ok(python) => python,
        Err(Missing::Unreachable(why)) => {
            // Not captured as `eprintln` is: whoever runs the tests should see it.
            let message = format!("\nSKIPPED the test with OpenAI's client: {why}\n");
            std::io::stderr().write_all(message.as_bytes()).unwrap();
            return;
        }
        Err(Missing::Broken(why)) => panic!("{why}"),
    };
    let anywhere = ["--fetch-images", "--allow-private-addresses"];
    let open = Server::start(&[&anywhere[..], &["--alias", "gpt-4o"]].concat(), None);
    let keyed = Server::start(&["--max-body", "100kB", "--fetch-images"], Some(KEY));
    let model = with_tools();
    let tools = Server::start(&["--model", model.path().to_str().unwrap()], None);
    let output = Command::new(python)
        .arg(here.join("client.py"))
        .args([&open.url, &keyed.url, KEY, &tools.url])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/scenes"))
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert_eq!(open.end(), Some(0));
    assert_eq!(keyed.end(), Some(0));
    assert_eq!(tools.end(), Some(0));
}
