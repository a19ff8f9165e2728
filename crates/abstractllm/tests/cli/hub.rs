//! A hub on this machine with one model, `org/tiny`, and a cache to download it to.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    thread,
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{Run, program, repository};

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub(crate) const WEIGHTS: &str = "model.safetensors";

/// A cache, and a hub with one model: `org/tiny`.
pub(crate) struct Place {
    pub(crate) cache: tempfile::TempDir,
    pub(crate) hub: Hub,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { cache: tempfile::tempdir().unwrap(), hub: Hub::start() }
    }

    /// Returns `abstractllm models` with `arguments`.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program(["models"].iter().chain(arguments));
        self.hub.set(&mut command, self.cache.path());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        self.command(arguments).output().unwrap().into()
    }
}

/// A server that remembers what was asked, and can stop in the middle of the weights.
pub(crate) struct Hub {
    url: String,
    site: Arc<Mutex<Site>>,
}

#[derive(Default)]
struct Site {
    /// The answer with the weights ends here, while the connection stays open.
    most_bytes: Option<usize>,
    /// The `Range` of each request for the weights.
    asked: Vec<Option<String>>,
}

impl Hub {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let site = Arc::<Mutex<Site>>::default();
        let shared = site.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let site = shared.clone();
                // A client that is gone needs no answer.
                thread::spawn(move || answer(stream.unwrap(), &site));
            }
        });
        Self { url, site }
    }

    /// Sets the environment of a program that uses this hub and the folder `cache`.
    pub(crate) fn set(&self, command: &mut Command, cache: &Path) {
        command.env("HF_HUB_CACHE", cache).env("HF_ENDPOINT", &self.url);
        for name in
            ["HF_HUB_OFFLINE", "HF_TOKEN", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]
        {
            command.env_remove(name);
        }
    }

    /// From now on, no more than `most_bytes` of the weights come in an answer.
    pub(crate) fn stop_after(&self, most_bytes: Option<usize>) {
        self.site.lock().unwrap().most_bytes = most_bytes;
    }

    /// Returns what was asked of the weights: the header `Range` of each request.
    pub(crate) fn asked(&self) -> Vec<Option<String>> {
        self.site.lock().unwrap().asked.clone()
    }
}

pub(crate) fn source() -> PathBuf {
    repository("testdata/golden/tiny_q4").into()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns where the weights are in `cache` while they are downloaded.
pub(crate) fn partial(cache: &Path) -> PathBuf {
    let hash = sha256(&fs::read(source().join(WEIGHTS)).unwrap());
    cache.join("models--org--tiny/blobs").join(format!("{hash}.incomplete"))
}

fn listing() -> Vec<u8> {
    let files = fs::read_dir(source()).unwrap().map(|entry| entry.unwrap().path());
    let siblings: Vec<Value> = files
        .map(|path| {
            let bytes = fs::read(&path).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap();
            json!({"rfilename": name, "lfs": {"sha256": sha256(&bytes), "size": bytes.len()}})
        })
        .collect();
    json!({"sha": COMMIT, "siblings": siblings}).to_string().into_bytes()
}

fn answer(mut stream: TcpStream, site: &Mutex<Site>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or(Ok(String::new()))?;
    let path = first.split(' ').nth(1).unwrap_or_default();
    let mut range = None;
    for line in lines {
        let line = line?.to_ascii_lowercase();
        range = range.or_else(|| line.strip_prefix("range: ").map(str::to_owned));
        if line.is_empty() {
            break;
        }
    }
    let file = path.strip_prefix(&format!("/org/tiny/resolve/{COMMIT}/"));
    let body = match file {
        _ if path == "/api/models/org/tiny/revision/main?blobs=true" => Some(listing()),
        Some(file) => fs::read(source().join(file)).ok(),
        None => None,
    };
    let (found, body) = (body.is_some(), body.unwrap_or_default());
    let from = range.as_deref().and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-'));
    let from = from.and_then(|from| from.parse::<usize>().ok()).filter(|&at| at < body.len());
    let status = match (found, from) {
        (false, _) => "404 Not Found".to_owned(),
        (true, None) => "200 OK".to_owned(),
        (true, Some(from)) => {
            let (last, all) = (body.len() - 1, body.len());
            format!("206 Partial Content\r\ncontent-range: bytes {from}-{last}/{all}")
        }
    };
    let body = &body[from.unwrap_or(0)..];
    let mut sent = body.len();
    if file == Some(WEIGHTS) {
        let mut site = site.lock().unwrap();
        site.asked.push(range);
        sent = site.most_bytes.unwrap_or(sent).min(sent);
    }
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n")?;
    stream.write_all(&body[..sent])?;
    if sent < length {
        // Until the client goes away.
        let _ = stream.read(&mut [0]);
    }
    Ok(())
}
