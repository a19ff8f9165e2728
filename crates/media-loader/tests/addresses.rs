//! Addresses, served by a server on this machine.
#![cfg(feature = "http")]

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use llm_core::{ErrorKind, Image, Part, Request};
use media_loader::{Loader, LoaderOptions};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n0123456789abcdef";

/// Answers by path.
struct Site {
    address: String,
    requests: Arc<AtomicUsize>,
}

fn site() -> Site {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let requests = Arc::new(AtomicUsize::new(0));
    let (count, port) = (requests.clone(), listener.local_addr().unwrap().port());
    thread::spawn(move || {
        for connection in listener.incoming() {
            let (mut connection, count) = (connection.unwrap(), count.clone());
            thread::spawn(move || {
                let mut line = String::new();
                let mut reader = BufReader::new(connection.try_clone().unwrap());
                reader.read_line(&mut line).unwrap();
                let mut header = String::new();
                while reader.read_line(&mut header).unwrap() > 2 {
                    header.clear();
                }
                count.fetch_add(1, Ordering::SeqCst);
                let path = line.split([' ', '?']).nth(1).unwrap();
                let (head, body) = answer(path, port);
                let head = format!("HTTP/1.1 {head}\r\nconnection: close\r\n\r\n");
                let _ = connection.write_all(head.as_bytes());
                let _ = connection.write_all(&body);
                if path == "/slow.png" {
                    thread::sleep(Duration::from_secs(5));
                }
            });
        }
    });
    Site { address, requests }
}

fn answer(path: &str, port: u16) -> (String, Vec<u8>) {
    let typed =
        |kind: &str, body: &[u8]| (format!("200 OK\r\ncontent-type: {kind}"), body.to_vec());
    let moved = |to: String| (format!("302 Found\r\nlocation: {to}"), Vec::new());
    match path {
        "/a.png" => typed("image/png", PNG),
        "/t.csv" => typed("text/csv; charset=utf-8", b"x,y\n"),
        "/page" => typed("text/html", PNG),
        "/binary" => typed("application/octet-stream", PNG),
        "/false.png" => typed("image/png", b"<html>not found</html>"),
        "/vector" => typed("image/svg+xml", b"<svg/>"),
        "/large.png" => typed("image/png", &[PNG, &[0; 5000]].concat()),
        "/slow.png" => {
            ("200 OK\r\ncontent-type: image/png\r\ncontent-length: 99".into(), PNG.to_vec())
        }
        "/moved" => moved("/a.png".to_owned()),
        "/round" => moved("/round".to_owned()),
        "/named" => moved(format!("http://localhost:{port}/a.png")),
        "/file" => moved("file:///etc/passwd".to_owned()),
        _ => ("404 Not Found".into(), Vec::new()),
    }
}

fn loader() -> Loader {
    Loader::new(LoaderOptions {
        private_addresses: true,
        max_image_bytes: 4096,
        timeout: Duration::from_millis(800),
        ..LoaderOptions::default()
    })
}

#[test]
fn images_and_texts_are_fetched() {
    let site = site();
    let load = |path: &str| loader().load(&format!("http://{}{path}", site.address)).unwrap();
    let image = Part::Image(Image::encoded(PNG.to_vec()));
    for path in ["/a.png", "/moved", "/named"] {
        assert_eq!(load(path), std::slice::from_ref(&image), "{path}");
    }
    assert_eq!(load("/t.csv"), [Part::from("\nt.csv:\n```csv\nx,y\n```\n")]);
    let url = Image::url(format!("http://{}/a.png", site.address)).unwrap();
    let mut request = Request::images([url], "What is it?");
    loader().resolve(&mut request).unwrap();
    assert_eq!(request.messages[0].parts[0], image);
}

#[test]
fn what_is_not_wanted_is_refused() {
    let site = site();
    for (path, says) in [
        ("/missing", "the server answered 404"),
        ("/page", "the content is not of the type `text/html`"),
        (
            "/binary",
            "expected the content type of an image or a text, found `application/octet-stream`",
        ),
        ("/false.png", "the content is not of the type `image/png`"),
        ("/vector", "found `image/svg+xml`"),
        ("/large.png", "expected at most 4096 bytes, found more"),
        ("/slow.png", "nothing within 0.8 s"),
        ("/round", "more than 5 redirects"),
        ("/file", ""),
    ] {
        let url = format!("http://user:hunter2@{}{path}?key=secret", site.address);
        let error = loader().load(&url).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Image, "{path}: {error}");
        let text = error.chain();
        assert!(text.contains(says), "{path}: {text}");
        assert!(!text.contains("secret") && !text.contains("hunter2"), "{path}: {text}");
    }
}

#[test]
fn private_addresses_are_not_connected_to() {
    let site = site();
    let port = site.address.rsplit(':').next().unwrap();
    let guarded =
        Loader::new(LoaderOptions { private_addresses: false, ..LoaderOptions::default() });
    for host in [
        "127.0.0.1",
        "localhost",
        "127.1",
        "2130706433",
        "0x7f.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
    ] {
        let error = guarded.load(&format!("http://{host}:{port}/a.png")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Image, "{host}: {error}");
    }
    let error = guarded.load(&format!("http://{}/a.png", site.address)).unwrap_err();
    assert!(error.to_string().contains("leads to this machine or to a private network"), "{error}");
    assert_eq!(site.requests.load(Ordering::SeqCst), 0, "something was connected to");
}
