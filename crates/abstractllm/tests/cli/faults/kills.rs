//! `kill -9` in the middle: what was there before is there, and the next try goes on. For a quantisation see
//! `quantize`.

use std::{
    fs,
    io::Write,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, Stdio},
};

use super::{answered, ask, files, kill_9, until};
use crate::{
    Run, case,
    hub::{COMMIT, Place, WEIGHTS, partial, source},
    memory::write_bitmap,
    program, run_with_stdin,
};

#[test]
fn a_download_that_was_killed_goes_on_where_it_was() {
    let place = Place::new();
    let partial = partial(place.cache.path());
    let there = || partial.metadata().map_or(0, |file| file.len());
    for more in [100_000, 150_000] {
        let before = there();
        place.hub.stop_after(Some(more));
        let mut child = place.command(&["pull", "org/tiny"]).spawn().unwrap();
        until(&mut child, "more of the file", || there() == before + more as u64);
        kill_9(child);
        assert_eq!(there(), before + more as u64, "what came is kept");
        // A part of a model is none.
        assert!(place.run(&["info", "org/tiny"]).ok().contains("its download was broken off"));
    }
    place.hub.stop_after(None);
    place.run(&["pull", "org/tiny"]).ok();
    let from = |at: &str| Some(format!("bytes={at}-"));
    assert_eq!(place.hub.asked(), [None, from("100000"), from("250000")]);
    let snapshot = place.cache.path().join("models--org--tiny/snapshots").join(COMMIT);
    let found = fs::read(snapshot.join(WEIGHTS)).unwrap();
    assert!(found == fs::read(source().join(WEIGHTS)).unwrap());
    assert!(!partial.exists());
}

#[test]
fn a_cache_that_was_being_written_when_the_program_was_killed_gives_no_wrong_answer() {
    let case = case("01-describe");
    let folder = tempfile::tempdir().unwrap();
    let entries = folder.path().join("v1");

    // The kernel kills a program that writes beyond this length: in the middle of an entry.
    let whole = ask(&case, folder.path());
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -f 8; exec \"$@\"", "sh"]);
    limited.arg(whole.get_program()).args(whole.get_args());
    limited.envs(whole.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let ended = limited.output().unwrap();
    let sigxfsz = nix::sys::signal::Signal::SIGXFSZ as i32;
    assert_eq!(ended.status.signal(), Some(sigxfsz), "{ended:?}");
    assert_eq!(files(&entries, ".partial").len(), 1, "the part of an entry");
    assert_eq!(files(&entries, ".safetensors").len(), 0);

    // By us, while it writes one entry after the other.
    for count in 1..=3 {
        let mut child = ask(&case, folder.path()).spawn().unwrap();
        until(&mut child, "entries", || files(&entries, ".safetensors").len() >= count);
        kill_9(child);
    }
    let next: Run = ask(&case, folder.path()).output().unwrap().into();
    answered(&next, &case);
    let last: Run = ask(&case, folder.path()).output().unwrap().into();
    assert!(answered(&last, &case) > 0, "entries are used: {last:?}");
}

#[test]
fn a_session_that_was_being_saved_when_the_program_was_killed_is_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let picture = folder.path().join("picture.bmp");
    write_bitmap(&picture, 2000);
    let saves = folder.path().join("saves");
    fs::create_dir(&saves).unwrap();
    let file = saves.join("s.json");
    let name = file.to_str().unwrap();
    let said = format!("/image {}\nDescribe this image.\n", picture.display());
    run_ok(&run_with_stdin(&["chat", "-q", "-s", name], said));
    let before = fs::read(&file).unwrap();
    let count = || fs::read_dir(&saves).unwrap().count();
    let mut caught = 0;
    for _ in 0..20 {
        let mut child = program(["chat", "-q", "-s", name]).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"Hello\n").unwrap();
        until(&mut child, "a save", || count() > 1 || changed(&file, &before));
        kill_9(child);
        if count() > 1 {
            // What was being written is left, which is how we know that it was.
            caught += 1;
            assert!(!changed(&file, &before), "the old session is whole");
            let left = fs::read_dir(&saves).unwrap().flatten().map(|entry| entry.path());
            left.filter(|path| *path != file).for_each(|path| fs::remove_file(path).unwrap());
        }
        if caught == 2 {
            break;
        }
        fs::write(&file, &before).unwrap();
    }
    assert!(caught > 0, "never caught in the middle");
    run_ok(&run_with_stdin(&["chat", "-q", "-s", name], "Hello\n"));
    let saved: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(saved["turns"].as_array().unwrap().len(), 2);
}

fn changed(file: &Path, before: &[u8]) -> bool {
    fs::metadata(file).unwrap().len() != before.len() as u64
}

#[track_caller]
fn run_ok(run: &Run) {
    assert_eq!(run.code, 0, "{run:?}");
}

#[test]
fn the_embedded_model_that_was_being_unpacked_when_the_program_was_killed_is_unpacked_again() {
    let cache = tempfile::tempdir().unwrap();
    let hello = || {
        let mut command = program(["generate", "-q", "--prompt", "Hello"]);
        command.env("ABSTRACTLLM_CACHE", cache.path());
        command
    };
    let mut child = hello().spawn().unwrap();
    let begun = || {
        let folders = fs::read_dir(cache.path()).unwrap().flatten();
        folders.flat_map(|folder| fs::read_dir(folder.path().join("fresh"))).flatten().count() > 0
    };
    until(&mut child, "a folder that is being written", begun);
    kill_9(child);
    let again: Run = hello().output().unwrap().into();
    assert_eq!(again.ok(), "Hello! Show me an image and I will describe it.\n");
}
