//! A full disk, on a file system that really is full. For a quantisation, by a limit on files, see `quantize`.

use std::fs;

use super::{answered, ask, disk::Disk, files};
use crate::{
    Run, case,
    hub::{COMMIT, Place, WEIGHTS, source},
    piped, program,
};

const FULL: &str = "No space left on device";

#[test]
fn a_download_to_a_full_disk_goes_on_when_there_is_room() {
    // The weights have 505 351 bytes.
    let Some(disk) = Disk::new("300k") else { return };
    let place = Place::new();
    let pull = || {
        let mut command = program(["models", "pull", "org/tiny"]);
        place.hub.set(&mut command, disk.path());
        disk.run(&command)
    };
    let failed = pull();
    failed.fails(1, FULL);
    assert!(failed.stderr.contains(".incomplete"), "it says which file: {failed:?}");
    let blobs = disk.outside("models--org--tiny/blobs");
    let [partial] = &files(&blobs, ".incomplete")[..] else { panic!("{failed:?}") };
    let there = partial.metadata().unwrap().len();
    assert!(there > 100_000, "{there} bytes came");
    disk.remount("size=4m");
    pull().ok();
    assert_eq!(place.hub.asked(), [None, Some(format!("bytes={there}-"))]);
    let snapshot = disk.outside("models--org--tiny/snapshots").join(COMMIT);
    let found =
        fs::read(blobs.join(fs::read_link(snapshot.join(WEIGHTS)).unwrap().file_name().unwrap()));
    assert!(found.unwrap() == fs::read(source().join(WEIGHTS)).unwrap());
}

#[test]
fn a_cache_on_a_full_disk_keeps_nothing_and_the_answer_is_right() {
    let Some(disk) = Disk::new("64k") else { return };
    let case = case("01-describe");
    let first = disk.run(&ask(&case, disk.path()));
    assert_eq!(answered(&first, &case), 0);
    assert!(first.stderr.contains("cannot write to the cache"), "it is said: {first:?}");
    let entries = disk.outside("v1");
    assert_eq!(files(&entries, ".partial").len(), 0, "what did not fit is gone");
    disk.remount("size=8m");
    answered(&disk.run(&ask(&case, disk.path())), &case);
    assert!(answered(&disk.run(&ask(&case, disk.path())), &case) > 0);
}

#[test]
fn a_session_on_a_full_disk_is_the_one_before() {
    let Some(disk) = Disk::new("256k") else { return };
    let file = disk.path().join("s.json");
    let say = |what: &str| -> Run {
        let chat = program(["chat", "-q", "-s", file.to_str().unwrap()]);
        piped(disk.enter(&chat), what)
    };
    let first = say("Hello\n");
    assert_eq!(first.code, 0, "{first:?}");
    let saved = || fs::read(disk.outside("s.json")).unwrap();
    let before = saved();
    let ballast = disk.fill(0);
    let failed = say("Hello\n");
    assert_eq!(failed.code, 1, "{failed:?}");
    assert!(failed.stderr.contains("s.json") && failed.stderr.contains(FULL), "{failed:?}");
    assert!(failed.stdout.starts_with("Hello!"), "the answer was shown: {failed:?}");
    assert_eq!(saved(), before);
    assert_eq!(fs::read_dir(disk.outside("")).unwrap().count(), 2, "nothing is left of the try");
    fs::remove_file(ballast).unwrap();
    assert_eq!(say("Hello\n").code, 0);
    let saved: serde_json::Value = serde_json::from_slice(&saved()).unwrap();
    assert_eq!(saved["turns"].as_array().unwrap().len(), 2);
}
