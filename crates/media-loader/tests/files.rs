//! What a person writes, and what it becomes.

use std::{fs, path::Path};

use llm_core::{ErrorKind, Image, Message, Part, Request};
use media_loader::{Loader, LoaderOptions};

/// The first bytes of a PNG file, and enough after them to be told from other base64.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n0123456789abcdef";

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.png", "b.png", "two words.png"] {
        fs::write(folder.path().join(name), PNG).unwrap();
    }
    fs::write(folder.path().join("t.csv"), "x,y\n1,2\n").unwrap();
    fs::write(folder.path().join("notes[1].txt"), "one").unwrap();
    fs::write(folder.path().join("bad.bin"), b"\xff\xfe\x00").unwrap();
    folder
}

fn image(path: &Path) -> Part {
    Part::Image(Image::Path(path.to_owned()))
}

fn csv() -> Part {
    Part::from("\nt.csv:\n```csv\nx,y\n1,2\n```\n")
}

#[test]
fn every_source_is_known_by_what_it_is() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let loader = Loader::default();
    let load = |source: &str| loader.load(source).unwrap();
    assert_eq!(load(&at("a.png")), [image(&folder.path().join("a.png"))]);
    assert_eq!(load(&at("t.csv")), [csv()]);
    let both = ["a.png", "b.png"].map(|name| image(&folder.path().join(name)));
    assert_eq!(load(&at("?.png")), both);
    assert_eq!(load(&at("notes[1].txt")), [Part::from("\nnotes[1].txt:\n```txt\none\n```\n")]);
    let words = image(&folder.path().join("two words.png"));
    for url in ["file://", "file:", "file://localhost"] {
        let url = format!("{url}{}", at("two words.png").replace(' ', "%20"));
        assert_eq!(load(&url), std::slice::from_ref(&words), "{url}");
    }
    // The bytes of PNG, by `base64`.
    let base64 = "iVBORw0KGgowMTIzNDU2Nzg5YWJjZGVm";
    let encoded = Part::Image(Image::encoded(PNG.to_vec()));
    assert_eq!(load(base64), std::slice::from_ref(&encoded));
    assert_eq!(load(&format!("data:image/png;base64,{base64}")), [encoded]);
}

#[test]
fn what_cannot_be_loaded_is_named() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let small =
        LoaderOptions { max_image_bytes: 8, max_text_bytes: 4, max_files: 1, ..Default::default() };
    let closed = LoaderOptions { files: false, addresses: false, ..Default::default() };
    let (default, small, closed) = (Loader::default(), Loader::new(small), Loader::new(closed));
    let (missing, none) = (at("missing.png"), at("*.jpg"));
    for (loader, source, kind, says) in [
        (&default, missing.as_str(), ErrorKind::Io, "missing.png: "),
        (&default, none.as_str(), ErrorKind::InvalidRequest, "*.jpg: no such file"),
        (&default, &at("bad.bin"), ErrorKind::InvalidRequest, "expected an image or a text"),
        (&default, folder.path().to_str().unwrap(), ErrorKind::Io, "cannot read"),
        (&default, "file://elsewhere/a", ErrorKind::InvalidRequest, "expected file:///path"),
        (&default, "data:text/plain,a", ErrorKind::Image, "expected a data URL of an image"),
        (&default, "***", ErrorKind::InvalidRequest, "not a pattern of files"),
        (&small, &at("a.png"), ErrorKind::InvalidRequest, "at most 8 bytes"),
        (&small, &at("t.csv"), ErrorKind::InvalidRequest, "at most 4 bytes"),
        (&closed, &at("a.png"), ErrorKind::InvalidRequest, "not allowed here"),
        (&closed, &at("*.png"), ErrorKind::InvalidRequest, "not allowed here"),
        (&closed, "file:///etc/passwd", ErrorKind::InvalidRequest, "not allowed here"),
        (&closed, "https://example.org/a.png", ErrorKind::Image, "not allowed here"),
    ] {
        let error = loader.load(source).unwrap_err();
        assert_eq!(error.kind(), kind, "{source}: {error}");
        assert!(error.to_string().contains(says), "{source}: {error}");
    }
    let many = LoaderOptions { max_files: 1, ..Default::default() };
    let error = Loader::new(many).load(&at("*.png")).unwrap_err();
    assert!(error.to_string().ends_with("more than 1 files"), "{error}");
}

#[test]
fn references_in_a_prompt_become_parts_in_their_place() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let loader = Loader::default();
    let prompt =
        format!("Compare @{} with (@{}), and read @{}.", at("a.png"), at("b.png"), at("t.csv"));
    let expected = [
        Part::from("Compare "),
        image(&folder.path().join("a.png")),
        Part::from(" with ("),
        image(&folder.path().join("b.png")),
        Part::from("), and read "),
        csv(),
        Part::from("."),
    ];
    assert_eq!(loader.prompt(&prompt).unwrap(), expected);
    let quoted = format!("@\"{}\"?", at("two words.png"));
    let expected = [image(&folder.path().join("two words.png")), Part::from("?")];
    assert_eq!(loader.prompt(&quoted).unwrap(), expected);
}

#[test]
fn what_is_no_reference_stays_text() {
    let loader = Loader::default();
    for (prompt, expected) in [
        ("Ask @alice, or me@example.org.", "Ask @alice, or me@example.org."),
        ("Write @@notes.txt here", "Write @notes.txt here"),
        ("5 @ 2 euros", "5 @ 2 euros"),
        ("@", "@"),
        ("", ""),
    ] {
        let expected: Vec<Part> =
            [expected].into_iter().filter(|text| !text.is_empty()).map(Part::from).collect();
        assert_eq!(loader.prompt(prompt).unwrap(), expected, "{prompt}");
    }
    let error = loader.prompt("What is in @phtoo.png?").unwrap_err();
    assert!(error.to_string().starts_with("cannot read phtoo.png"), "{error}");
    let error = loader.prompt("What is in @\"a b").unwrap_err();
    assert_eq!(error.to_string(), "expected a closing quote after @\"a b");
}

#[test]
fn a_request_without_addresses_is_left_as_it_is() {
    let request = Request::new([Message::user([Part::image_file("no-such.png"), "x".into()])]);
    let mut resolved = request.clone();
    Loader::default().resolve(&mut resolved).unwrap();
    assert_eq!(resolved, request);
}
