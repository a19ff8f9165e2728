//! The promises that every provider keeps, with a server that is not ours: that of mlx-vlm, which speaks
//! both protocols, and tiny-vl.
//!
//! It needs Python and, the first time, the network: `cargo test -p http-backend --test foreign -- --ignored`.
#![allow(clippy::print_stderr, reason = "a person reads why the test was skipped")]

use std::{
    fs::File,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use http_backend::{
    AnthropicOptions, AnthropicProvider, OpenAiOptions, OpenAiProvider, ServerOptions,
};
use llm_core::{Capabilities, Image, testing};
use python_env::Missing;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A server that ends with the test.
struct Served {
    process: Child,
    url: String,
    model: String,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn serve() -> Option<Served> {
    let peers = root().join("benches/peers");
    let (all, mlx) = (peers.join("requirements.txt"), peers.join("requirements-mlx.txt"));
    let lists: [(&Path, &[&str]); 2] = [(&all, &[]), (&mlx, &["--no-deps"])];
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mlx-vlm");
    let python = match python_env::python(&folder, &lists) {
        Ok(python) => python,
        Err(Missing::Unreachable(why)) => {
            eprintln!("SKIPPED: no foreign server: {why}");
            return None;
        }
        Err(Missing::Broken(why)) => panic!("{why}"),
    };
    let model = root().join("models/tiny-vl/full").canonicalize().unwrap();
    let model = model.to_str().expect("a path of this repository").to_owned();
    // Free now; nobody else is expected to take it within the second.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let process = Command::new(python)
        .args(["-m", "mlx_vlm.server", "--host", "127.0.0.1", "--model", &model, "--port"])
        .arg(address.port().to_string())
        .env("HF_HUB_OFFLINE", "1")
        .stdout(Stdio::null())
        .stderr(File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join("mlx-vlm/log")).unwrap())
        .spawn()
        .unwrap();
    let mut served = Served { process, url: format!("http://{address}/v1"), model };
    let started = Instant::now();
    while TcpStream::connect(address).is_err() {
        let ended = served.process.try_wait().unwrap();
        assert!(ended.is_none(), "the server ended: {ended:?}");
        assert!(started.elapsed() < Duration::from_secs(300), "the server does not listen");
        thread::sleep(Duration::from_millis(200));
    }
    Some(served)
}

/// What this server can do with this model: no tools, and its grammars need Metal.
fn capabilities(more: &str) -> Option<Capabilities> {
    let common = "streaming, async, system_prompt, multi_turn, max_tokens, vision, multiple_images";
    Some(format!("{common}, {more}").parse().unwrap())
}

#[test]
#[ignore = "needs Python and the network"]
fn both_providers_conform_with_a_foreign_server() {
    let Some(served) = serve() else { return };
    let server = || ServerOptions { base_url: Some(served.url.clone()), ..Default::default() };
    let with = testing::Conformance {
        prompt: "What can you do?".to_owned(),
        image: Image::Path(root().join("models/tiny-vl/samples/scene.png")),
    };
    let options = OpenAiOptions {
        server: server(),
        capabilities: capabilities("seed"),
        ..Default::default()
    };
    let openai = OpenAiProvider::new(&served.model, options).unwrap();
    testing::check(Arc::new(openai), &with);
    let options =
        AnthropicOptions { server: server(), capabilities: capabilities(""), ..Default::default() };
    let anthropic = AnthropicProvider::new(&served.model, options).unwrap();
    testing::check(Arc::new(anthropic), &with);
}
