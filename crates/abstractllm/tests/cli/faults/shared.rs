//! Two programs that want the same at the same time. For entries of the disk cache in one process see
//! `caches::disk` of mlx-backend.

use std::{fs, process::Stdio};

use nix::sys::signal::Signal;

use super::{answered, ask, files, signal, until};
use crate::{
    Run, case,
    hub::{COMMIT, Place, WEIGHTS, source},
    program, repository, run,
};

#[test]
fn two_programs_share_a_cache() {
    let cases = [case("01-describe"), case("07-describe")];
    let folder = tempfile::tempdir().unwrap();
    for round in 0..2 {
        // Two for each question.
        let started: Vec<_> = cases
            .iter()
            .chain(&cases)
            .map(|case| (case, ask(case, folder.path()).spawn().unwrap()))
            .collect();
        for (case, child) in started {
            let cached = answered(&Run::from(child.wait_with_output().unwrap()), case);
            assert!(round == 0 || cached > 0, "what the first round wrote is used");
        }
    }
    assert_eq!(files(&folder.path().join("v1"), ".partial").len(), 0);
}

#[test]
fn two_programs_download_a_model_once() {
    let place = Place::new();
    let pull = || place.command(&["pull", "org/tiny"]).spawn().unwrap();
    let both = [pull(), pull()];
    for child in both {
        Run::from(child.wait_with_output().unwrap()).ok();
    }
    assert_eq!(place.hub.asked(), [None], "the weights came once");
    let snapshot = place.cache.path().join("models--org--tiny/snapshots").join(COMMIT);
    let found = fs::read(snapshot.join(WEIGHTS)).unwrap();
    assert!(found == fs::read(source().join(WEIGHTS)).unwrap());
}

#[test]
fn two_programs_do_not_pack_into_one_folder() {
    let folder = tempfile::tempdir().unwrap();
    let (source, target) = (repository("models/tiny-vl/full"), folder.path().join("packed"));
    let quantize = ["quantize", &source, target.to_str().unwrap()];
    let mut first = program(quantize).stdout(Stdio::null()).spawn().unwrap();
    let journal = folder.path().join("packed.incomplete/.progress");
    let begun = || fs::read(&journal).is_ok_and(|text| text.split(|b| *b == b'\n').count() > 10);
    until(&mut first, "a journal", begun);
    signal(&first, Signal::SIGSTOP);
    let second = run(quantize);
    signal(&first, Signal::SIGCONT);
    second.fails(1, "another process writes this folder");
    assert!(first.wait().unwrap().success());
    assert!(target.join("model.safetensors").exists());
}
