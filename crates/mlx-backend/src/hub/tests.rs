//! Downloads from a server on this machine that can do what servers do wrong.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::{client::Client, download_with};
use crate::{Error, Result};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the server has, and how it behaves.
#[derive(Default)]
struct Site {
    listing: Value,
    files: HashMap<String, Vec<u8>>,
    /// The token without which it answers 401.
    token: Option<&'static str>,
    /// The file that it sends from another server, by a redirect.
    redirected: Option<(&'static str, String)>,
    /// Answers 503 this many times.
    busy: usize,
    /// Cuts the connection after this many bytes of the body of a weight file, this many times.
    cut: Option<(usize, usize)>,
    ignores_ranges: bool,
    /// Each request: its path and its headers.
    requests: Vec<(String, HashMap<String, String>)>,
}

struct Server {
    url: String,
    site: Arc<Mutex<Site>>,
}

impl Server {
    fn start(site: Site) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let site = Arc::new(Mutex::new(site));
        let shared = Arc::clone(&site);
        // Ends with the test process; a connection at a time is what the client makes.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = answer(stream.unwrap(), &shared);
            }
        });
        Self { url, site }
    }

    fn download(&self, cache: &Path) -> Result<PathBuf> {
        self.download_with_token(cache, None)
    }

    fn download_with_token(&self, cache: &Path, token: Option<&str>) -> Result<PathBuf> {
        let client = Client::for_test(&self.url, token)?;
        download_with(&client, "org/model", "main", cache, &|_, _, _| {})
    }

    fn requests_of(&self, file: &str) -> Vec<HashMap<String, String>> {
        let site = self.site.lock().unwrap();
        site.requests.iter().filter(|(p, _)| p.ends_with(file)).map(|(_, h)| h.clone()).collect()
    }
}

fn answer(mut stream: TcpStream, site: &Mutex<Site>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or(Ok(String::new()))?;
    let path = first.split(' ').nth(1).unwrap_or("").to_owned();
    let mut headers = HashMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let mut site = site.lock().unwrap();
    site.requests.push((path.clone(), headers.clone()));
    let mut reply = |status: &str, extra: &str, body: &[u8], sent: usize| -> std::io::Result<()> {
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{extra}\r\n"
        )?;
        stream.write_all(&body[..sent.min(length)])
    };
    if site.busy > 0 {
        site.busy -= 1;
        return reply("503 Service Unavailable", "", b"", 0);
    }
    let bearer = site.token.map(|token| format!("Bearer {token}"));
    if bearer.is_some() && bearer.as_ref() != headers.get("authorization") {
        return reply("401 Unauthorized", "X-Error-Message: Access is restricted\r\n", b"", 0);
    }
    if path.starts_with("/api/") {
        let listing = site.listing.to_string();
        return match path == "/api/models/org/model/revision/main?blobs=true" {
            true => reply("200 OK", "", listing.as_bytes(), usize::MAX),
            false => reply("404 Not Found", "", b"", 0),
        };
    }
    let name = path.rsplit('/').next().unwrap_or("").to_owned();
    if let Some((redirected, to)) = &site.redirected
        && *redirected == name
    {
        let to = format!("Location: {to}/signed/{name}\r\n");
        return reply("302 Found", &to, b"", 0);
    }
    let Some(content) = site.files.get(&name).cloned() else {
        return reply("404 Not Found", "", b"", 0);
    };
    let from = headers
        .get("range")
        .and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok())
        .filter(|_| !site.ignores_ranges);
    let mut sent = usize::MAX;
    if name.ends_with(".safetensors")
        && let Some((bytes, times)) = &mut site.cut
        && *times > 0
    {
        *times -= 1;
        sent = *bytes;
    }
    match from {
        None => reply("200 OK", "", &content, sent),
        Some(from) if from >= content.len() => reply("416 Range Not Satisfiable", "", b"", 0),
        Some(from) => {
            let last = content.len() - 1;
            let range = format!("Content-Range: bytes {from}-{last}/{}\r\n", content.len());
            reply("206 Partial Content", &range, &content[from..], sent)
        }
    }
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn git_hash(content: &[u8]) -> String {
    let header = format!("blob {}\0", content.len());
    hex(&Sha1::new().chain_update(header).chain_update(content).finalize())
}

/// 600 kB, so that it takes several reads.
fn weights() -> Vec<u8> {
    (0..600_000_u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect()
}

/// A repository with a model in one shard, and what a download has to leave out.
fn site() -> Site {
    let index = json!({"weight_map": {"a": "model-00001-of-00001.safetensors"}}).to_string();
    let small: [(&str, &[u8]); 4] = [
        ("config.json", b"{\"model_type\": \"x\"}"),
        ("tokenizer.json", b"{}"),
        ("chat_template.jinja", b"{{ messages }}"),
        ("model.safetensors.index.json", index.as_bytes()),
    ];
    let mut siblings: Vec<Value> = small
        .iter()
        .map(
            |(name, text)| json!({"rfilename": name, "blobId": git_hash(text), "size": text.len()}),
        )
        .collect();
    siblings.extend(["evil.py", "model.bin", "README.md"].map(|name| json!({"rfilename": name})));
    for name in ["model-00001-of-00001.safetensors", "other.safetensors"] {
        let sha256 = hex(&Sha256::digest(weights()));
        siblings.push(json!({"rfilename": name, "size": 600_000, "blobId": "0".repeat(40),
                             "lfs": {"sha256": sha256, "size": 600_000, "pointerSize": 134}}));
    }
    let mut files: HashMap<_, _> =
        small.iter().map(|(name, text)| ((*name).to_owned(), text.to_vec())).collect();
    files.insert("model-00001-of-00001.safetensors".to_owned(), weights());
    Site { listing: json!({"sha": COMMIT, "siblings": siblings}), files, ..Site::default() }
}

const SHARD: &str = "model-00001-of-00001.safetensors";

fn partial(cache: &Path) -> PathBuf {
    let name = format!("{}.incomplete", hex(&Sha256::digest(weights())));
    cache.join("models--org--model/blobs").join(name)
}

#[test]
fn a_model_arrives_in_the_layout_of_the_cache() {
    let server = Server::start(site());
    let cache = tempfile::tempdir().unwrap();
    let seen = Mutex::new(vec![]);
    let progress =
        |name: &str, done, total| seen.lock().unwrap().push((name.to_owned(), done, total));
    let client = Client::for_test(&server.url, None).unwrap();
    let snapshot = download_with(&client, "org/model", "main", cache.path(), &progress).unwrap();

    let folder = cache.path().join("models--org--model");
    assert_eq!(snapshot, folder.join("snapshots").join(COMMIT));
    assert_eq!(fs::read_to_string(folder.join("refs/main")).unwrap(), COMMIT);
    let mut names: Vec<_> = fs::read_dir(&snapshot)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let expected = [
        "chat_template.jinja",
        "config.json",
        SHARD,
        "model.safetensors.index.json",
        "tokenizer.json",
    ];
    assert_eq!(names, expected);
    assert_eq!(fs::read(snapshot.join(SHARD)).unwrap(), weights());
    let link = fs::read_link(snapshot.join("tokenizer.json")).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(git_hash(b"{}")));

    let seen = seen.into_inner().unwrap();
    let shard: Vec<_> = seen.iter().filter(|(name, ..)| name == SHARD).collect();
    assert!(shard.len() > 2 && shard.is_sorted_by_key(|(_, done, _)| *done), "{shard:?}");
    assert_eq!(shard.last().unwrap(), &&(SHARD.to_owned(), 600_000, 600_000));

    // What is there is not fetched again.
    server.download(cache.path()).unwrap();
    assert_eq!(server.requests_of(SHARD).len(), 1);
}

#[test]
fn a_cut_connection_is_resumed_where_it_was_cut() {
    let server = Server::start(Site { cut: Some((100_000, 2)), busy: 2, ..site() });
    let cache = tempfile::tempdir().unwrap();
    let snapshot = server.download(cache.path()).unwrap();
    assert_eq!(fs::read(snapshot.join(SHARD)).unwrap(), weights());
    let ranges: Vec<_> =
        server.requests_of(SHARD).iter().map(|h| h.get("range").cloned()).collect();
    let expected = [None, Some("bytes=100000-".to_owned()), Some("bytes=200000-".to_owned())];
    assert_eq!(ranges, expected);
}

#[test]
fn a_run_that_was_broken_off_is_resumed_by_the_next() {
    let server = Server::start(site());
    let cache = tempfile::tempdir().unwrap();
    fs::create_dir_all(partial(cache.path()).parent().unwrap()).unwrap();
    fs::write(partial(cache.path()), &weights()[..250_000]).unwrap();
    let snapshot = server.download(cache.path()).unwrap();
    assert_eq!(fs::read(snapshot.join(SHARD)).unwrap(), weights());
    assert_eq!(server.requests_of(SHARD)[0]["range"], "bytes=250000-");
    assert!(!partial(cache.path()).exists());
}

#[test]
fn a_partial_file_that_cannot_be_continued_is_begun_again() {
    let whole = weights();
    let wrong = vec![7; 250_000];
    let long = vec![7; 700_000];
    let full = vec![7; 600_000];
    for (start, ignores_ranges) in [
        (&whole[..250_000], true),
        (&wrong[..], false),
        (&long[..], false),
        (&full[..], false),
        (&whole[..], false),
    ] {
        let server = Server::start(Site { ignores_ranges, ..site() });
        let cache = tempfile::tempdir().unwrap();
        fs::create_dir_all(partial(cache.path()).parent().unwrap()).unwrap();
        fs::write(partial(cache.path()), start).unwrap();
        let snapshot = server.download(cache.path()).unwrap();
        assert_eq!(fs::read(snapshot.join(SHARD)).unwrap(), whole, "{} bytes", start.len());
    }
}

#[test]
fn wrong_bytes_do_not_get_into_the_cache() {
    let mut tampered = weights();
    tampered[5] ^= 1;
    let longer = [weights(), vec![0]].concat();
    for (content, says) in [(tampered, "checksum is not"), (longer, "found more")] {
        let mut site = site();
        site.files.insert(SHARD.to_owned(), content);
        let server = Server::start(site);
        let cache = tempfile::tempdir().unwrap();
        let error = server.download(cache.path()).unwrap_err();
        assert!(matches!(error, Error::Download { .. }), "{error}");
        assert!(error.to_string().contains(says) && error.to_string().contains(SHARD), "{error}");
        let folder = cache.path().join("models--org--model");
        assert!(!folder.join("refs").exists() && !folder.join("snapshots").exists());
        assert!(partial(cache.path()).metadata().map_or(0, |m| m.len()) == 0);
    }
}

#[test]
fn a_server_that_never_sends_all_is_given_up() {
    let server = Server::start(Site { cut: Some((0, usize::MAX)), ..site() });
    let cache = tempfile::tempdir().unwrap();
    let error = server.download(cache.path()).unwrap_err().to_string();
    assert!(error.contains("(5 tries)") && error.contains(SHARD), "{error}");
    assert_eq!(server.requests_of(SHARD).len(), 5);
}

#[test]
fn a_server_that_sends_the_same_part_again_and_again_is_given_up() {
    let cut = Some((100_000, usize::MAX));
    let server = Server::start(Site { cut, ignores_ranges: true, ..site() });
    let cache = tempfile::tempdir().unwrap();
    let error = server.download(cache.path()).unwrap_err().to_string();
    assert!(error.contains("(5 tries)") && error.contains(SHARD), "{error}");
    assert_eq!(server.requests_of(SHARD).len(), 5);
}

#[test]
fn a_token_opens_what_is_gated_and_is_not_shown() {
    let server = Server::start(Site { token: Some("hf_good"), ..site() });
    let cache = tempfile::tempdir().unwrap();
    let error = server.download(cache.path()).unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    assert!(error.to_string().contains("set HF_TOKEN"), "{error}");
    assert!(error.to_string().contains("Access is restricted"), "{error}");

    let error = server.download_with_token(cache.path(), Some("hf_bad")).unwrap_err();
    assert!(error.to_string().contains("may not read it"), "{error}");
    assert!(!format!("{error} {error:?}").contains("hf_bad"), "{error:?}");

    server.download_with_token(cache.path(), Some("hf_good")).unwrap();
}

#[test]
fn another_server_does_not_get_the_token() {
    let other = Server::start(site());
    let server = Server::start(Site {
        token: Some("hf_good"),
        redirected: Some((SHARD, other.url.clone())),
        ..site()
    });
    let cache = tempfile::tempdir().unwrap();
    let snapshot = server.download_with_token(cache.path(), Some("hf_good")).unwrap();
    assert_eq!(fs::read(snapshot.join(SHARD)).unwrap(), weights());
    assert!(server.requests_of(SHARD)[0].contains_key("authorization"));
    let there = other.requests_of(SHARD);
    assert_eq!(there.len(), 1);
    assert!(!there[0].contains_key("authorization"), "{there:?}");
}

#[test]
fn what_the_hub_lacks_is_said() {
    let server = Server::start(site());
    let client = Client::for_test(&server.url, None).unwrap();
    let cache = tempfile::tempdir().unwrap();
    let error =
        download_with(&client, "org/none", "main", cache.path(), &|_, _, _| {}).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    assert!(error.to_string().contains("`org/none`"), "{error}");

    let mut no_weights = site();
    no_weights.listing = json!({"sha": COMMIT, "siblings": [{"rfilename": "model.bin"}]});
    let error = Server::start(no_weights).download(cache.path()).unwrap_err().to_string();
    assert!(error.contains("it holds *.bin"), "{error}");

    let mut no_shard = site();
    let siblings = no_shard.listing["siblings"].as_array_mut().unwrap();
    siblings.retain(|file| file["rfilename"] != SHARD);
    let error = Server::start(no_shard).download(cache.path()).unwrap_err().to_string();
    assert!(error.contains(&format!("names `{SHARD}`")), "{error}");
}

#[test]
fn a_name_that_leaves_the_folder_is_refused() {
    let mut evil = site();
    let siblings = evil.listing["siblings"].as_array_mut().unwrap();
    siblings.push(json!({"rfilename": "../../evil.json", "blobId": "0".repeat(40), "size": 1}));
    let cache = tempfile::tempdir().unwrap();
    let error = Server::start(evil).download(cache.path()).unwrap_err().to_string();
    assert!(error.contains("\"../../evil.json\" leaves the folder"), "{error}");
    assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 0);
}

#[test]
fn an_unreachable_server_is_an_error_that_names_it() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let client = Client::for_test(&url, None).unwrap();
    let cache = tempfile::tempdir().unwrap();
    let error =
        download_with(&client, "org/model", "main", cache.path(), &|_, _, _| {}).unwrap_err();
    assert!(matches!(error, Error::Download { .. }), "{error}");
    assert!(error.to_string().contains(&url) && error.to_string().contains("tries"), "{error}");
}

#[test]
fn two_downloads_at_once_fetch_each_file_once() {
    let server = Server::start(site());
    let cache = tempfile::tempdir().unwrap();
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| server.download(cache.path()).unwrap());
        }
    });
    assert_eq!(server.requests_of(SHARD).len(), 1);
}
