//! The system refuses memory (`ulimit -v`): on a CPU, MLX does not look whether an allocation has failed, and the
//! process would end. So a request that would not fit is refused before it begins, and the next one is answered. In
//! a process of its own, whose address space is bounded.
#![cfg(target_os = "linux")]
#![allow(clippy::print_stdout, reason = "the child tells its parent by it")]

use std::{env, fs, path::Path, process::Command};

use futures_executor::block_on;
use llm_core::{ErrorKind, GenerateParams, Image, Provider, Request};
use mlx_backend::{CacheLimits, Caches, MemoryOptions, MemoryPolicy, MlxOptions, MlxProvider};
use rustix::process::{Resource, Rlimit, setrlimit};

const CHILD: &str = "ALLOCATION_FAILURE";
const DONE: &str = "the child came to its end";

/// Bytes of address space, which the limit counts.
fn virtual_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn bound(more: Option<u64>) {
    let current = more.map(|more| virtual_bytes() + more);
    setrlimit(Resource::As, Rlimit { current, maximum: None }).unwrap();
}

/// A picture of so many pixels each way, at full size: patches attend to all others.
fn picture(side: u32) -> Request {
    let pixels: Vec<u8> = (0..side * side * 3).map(|i| (i / 97) as u8).collect();
    let params = GenerateParams {
        max_tokens: Some(4),
        max_pixels: Some(12_845_056),
        ..GenerateParams::default()
    };
    Request::images([Image::rgb(side, side, pixels).unwrap()], "What is it?").with_params(params)
}

/// Not a test of its own: the process that the other test starts.
#[test]
#[ignore = "is run by the other test"]
fn child() {
    if env::var_os(CHILD).is_none() {
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-vl/full");
    let caches = Caches::new(CacheLimits::none());
    // As it is asked or not at all, rather than with smaller images.
    let memory = MemoryOptions { policy: MemoryPolicy::Reject, ..MemoryOptions::default() };
    let options = MlxOptions { caches, memory, ..MlxOptions::default() };
    let model = MlxProvider::load(path.to_str().unwrap(), options).unwrap();
    let small = || block_on(model.generate(picture(224)));
    let expected = small().unwrap().text;
    let large = || block_on(model.generate(picture(896)));
    let whole = large().unwrap().text;
    // Caches of MLX, of the allocator and of threads are warm: what is refused is what the request takes.
    let (mut answered, mut refused) = (0, 0);
    for mib in [16, 48, 96, 1024] {
        bound(Some(mib << 20));
        let answer = large();
        bound(None);
        match answer {
            Ok(answer) => {
                assert_eq!(answer.text, whole, "with {mib} MiB");
                answered += 1;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::OutOfMemory, "with {mib} MiB: {error}");
                refused += 1;
            }
        }
        assert_eq!(small().unwrap().text, expected, "after {mib} MiB");
    }
    println!("{answered} answered, {refused} refused");
    assert!(answered > 0 && refused > 0);
    println!("{DONE}");
}

#[test]
fn a_request_that_would_get_no_memory_is_refused_and_the_next_one_is_answered() {
    let output = Command::new(env::current_exe().unwrap())
        .args(["child", "--exact", "--ignored", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.contains(DONE), "{}: {said}", output.status);
}
