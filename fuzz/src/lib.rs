//! What several targets need.

use std::{
    cell::RefCell,
    fs,
    panic::{AssertUnwindSafe, catch_unwind, set_hook},
    path::PathBuf,
    process,
    sync::Once,
};

/// Returns the path of a file `name` that is of this process alone, in memory where there is such a folder.
pub fn scratch(name: &str) -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
    let folder = folder.join(format!("fuzz-{}", process::id()));
    fs::create_dir_all(&folder).expect("a folder for the test");
    folder.join(name)
}

/// Does `work`, in which a panic may be caught: the hook of libFuzzer would end the process before that. One
/// that is not caught ends it still.
pub fn with_caught_panics(work: impl FnOnce()) {
    thread_local! {
        static LAST: RefCell<String> = const { RefCell::new(String::new()) };
    }
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        set_hook(Box::new(|panic| drop(LAST.replace(panic.to_string()))));
    });
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        eprintln!("{}", LAST.take());
        process::abort();
    }
}
