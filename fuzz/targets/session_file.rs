//! Any bytes as the file of a conversation: what is accepted and written again says the same.
#![no_main]

use std::{fs, path::PathBuf, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use llm_session::Session;

static SCRATCH: LazyLock<PathBuf> = LazyLock::new(|| fuzz::scratch("chat.json"));

fuzz_target!(|bytes: &[u8]| {
    let path = &*SCRATCH;
    fs::write(path, bytes).expect("a file for the test");
    let session = match Session::load(path) {
        Err(error) => return assert!(!error.to_string().is_empty()),
        Ok(session) => session,
    };
    session.save(path).expect("it can be written");
    let written = fs::read(path).expect("it was written");
    let again = Session::load(path).expect("what was written is read");
    assert_eq!(again.turns().len(), session.turns().len());
    again.save(path).expect("it can be written again");
    assert!(fs::read(path).expect("it was written") == written, "another conversation");
});
