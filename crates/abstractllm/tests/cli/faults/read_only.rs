//! Folders that can be read and not written, also by root: a file system that is read-only.

use super::{answered, ask, disk::Disk};
use crate::{case, hub::Place, piped, program, repository};

const READ_ONLY: &str = "Read-only file system";

#[test]
fn a_cache_that_cannot_be_written_is_still_read() {
    let Some(disk) = Disk::new("8m") else { return };
    let (known, new) = (case("01-describe"), case("07-describe"));
    answered(&disk.run(&ask(&known, disk.path())), &known);
    disk.remount("ro");
    let again = disk.run(&ask(&known, disk.path()));
    assert!(answered(&again, &known) > 0, "{again:?}");
    let other = disk.run(&ask(&new, disk.path()));
    answered(&other, &new);
    assert!(other.stderr.contains("cannot write to the cache"), "it is said: {other:?}");
    // One that cannot even be made is an error before anything is loaded.
    let absent = disk.path().join("absent");
    disk.run(&ask(&known, &absent)).fails(1, READ_ONLY);
}

#[test]
fn a_model_in_a_cache_that_cannot_be_written_is_loaded() {
    let Some(disk) = Disk::new("8m") else { return };
    let place = Place::new();
    let with_hub = |arguments: &[&str]| {
        let mut command = program(arguments);
        place.hub.set(&mut command, disk.path());
        disk.run(&command)
    };
    with_hub(&["models", "pull", "org/tiny"]).ok();
    disk.remount("ro");
    let generate = ["generate", "-q", "--model", "org/tiny", "--max-tokens", "3", "--prompt", "Hi"];
    with_hub(&generate).ok();
    // Nothing is new, so nothing need be written.
    assert!(with_hub(&["models", "pull", "org/tiny"]).ok().contains("up to date"));
    with_hub(&["models", "rm", "--yes", "org/tiny"]).fails(1, READ_ONLY);
    with_hub(&generate).ok();
}

#[test]
fn what_cannot_be_written_is_said_with_its_name() {
    let Some(disk) = Disk::new("64m") else { return };
    let hello = || {
        let mut command = program(["generate", "-q", "--prompt", "Hello"]);
        command.env("ABSTRACTLLM_CACHE", disk.path());
        disk.run(&command)
    };
    disk.remount("ro");
    hello().fails(1, "cannot unpack the embedded model to ");
    hello().fails(1, READ_ONLY);
    disk.remount("rw");
    let answer = hello().ok().to_owned();
    disk.remount("ro");
    assert_eq!(hello().ok(), answer, "what is there is enough");

    let session = disk.path().join("s.json");
    let chat = program(["chat", "-q", "-s", session.to_str().unwrap()]);
    let failed = piped(disk.enter(&chat), "Hello\n");
    assert_eq!((failed.code, &failed.stdout), (1, &answer), "{failed:?}");
    assert!(failed.stderr.contains("s.json") && failed.stderr.contains(READ_ONLY), "{failed:?}");

    let source = repository("models/tiny-vl/full");
    let target = disk.path().join("packed");
    let packed = disk.run(&program(["quantize", &source, target.to_str().unwrap()]));
    packed.fails(1, "packed.incomplete");
    packed.fails(1, READ_ONLY);
}
