//! `serve` as a program: where it listens, whom it lets in, and how it ends. What it answers is tested
//! with OpenAI's client.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{program, run};

pub(crate) fn start(arguments: &[&str]) -> (Child, String, BufReader<std::process::ChildStdout>) {
    let mut child = program(["serve", "-q", "--port", "0"].iter().chain(arguments))
        .env_remove("ABSTRACTLLM_API_KEY")
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("tiny-vl can be asked at http://").unwrap();
    (child, address.strip_suffix("/v1").unwrap().to_owned(), stdout)
}

pub(crate) fn request(address: &str, head: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    write!(stream, "{head}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
        .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply
}

pub(crate) fn end(mut child: Child, signal: Signal) -> Option<i32> {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
    child.wait().unwrap().code()
}

#[test]
fn it_answers_this_machine_and_ends_when_told() {
    let (child, address, _stdout) = start(&[]);
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    let models =
        |host: &str| request(&address, &format!("GET /v1/models HTTP/1.1\r\nhost: {host}"), "");
    assert!(models("localhost").contains(r#""id":"tiny-vl""#));
    // A web page whose name was pointed here.
    assert!(models("evil.example").starts_with("HTTP/1.1 403"));
    // A web page that sends what browsers send without asking.
    let simple =
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain";
    assert!(request(&address, simple, "{}").starts_with("HTTP/1.1 415"));
    // Another server on the same port is told at once, not after a model was loaded.
    let port = address.rsplit_once(':').unwrap().1;
    run(["serve", "--port", port, "--model", "no/such"]).fails(1, "cannot listen at 127.0.0.1");
    assert_eq!(end(child, Signal::SIGINT), Some(0));
}

#[test]
fn others_need_a_key() {
    let refused = program(["serve", "--host", "0.0.0.0", "--port", "0"])
        .env_remove("ABSTRACTLLM_API_KEY")
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(told.contains("would need no key") && told.contains("--without-key"), "{told}");

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys");
    std::fs::write(&file, "\n first \nsecond\n").unwrap();
    let (child, address, _stdout) =
        start(&["--host", "0.0.0.0", "--api-key-file", file.to_str().unwrap()]);
    let address = address.replace("0.0.0.0", "127.0.0.1");
    let models = |key: &str| {
        let head = format!("GET /v1/models HTTP/1.1\r\nhost: any\r\nauthorization: Bearer {key}");
        request(&address, &head, "")
    };
    assert!(models("second").starts_with("HTTP/1.1 200"));
    assert!(models("third").starts_with("HTTP/1.1 401"));
    assert_eq!(end(child, Signal::SIGTERM), Some(0));

    std::fs::write(&file, "\n").unwrap();
    run(["serve", "--api-key-file", file.to_str().unwrap()]).fails(1, "there is no key in it");
}
