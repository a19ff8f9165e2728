//! `--memory-limit`: what is said about it, and what is done.

use std::{fs, path::Path};

use crate::run;

/// Writes a bitmap of `side` x `side` pixels, without rows of padding if `side` is a multiple of 4.
pub(crate) fn write_bitmap(path: &Path, side: u32) {
    let bytes = 54 + side * side * 3;
    let mut file = b"BM".to_vec();
    for number in [bytes, 0, 54, 40, side, side, 24 << 16 | 1, 0, side * side * 3, 2835, 2835, 0, 0]
    {
        file.extend(number.to_le_bytes());
    }
    file.extend((0..side * side * 3).map(|i| (i / 997) as u8));
    fs::write(path, file).unwrap();
}

#[test]
fn a_picture_that_would_not_fit_is_made_smaller_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.bmp");
    write_bitmap(&path, 896);
    let picture = path.to_str().unwrap();
    let check = |limit: &[&str]| {
        let common =
            ["check-image", "--json", "--model", "tiny-vl", "--max-pixels", "12845056", picture];
        run(common.iter().chain(limit)).json()["images"][0]["memory"].clone()
    };
    let free = check(&[]);
    assert_eq!((&free["fits"], &free["stage"]), (&true.into(), &"vision".into()));
    let terms = free["terms"].as_array().unwrap();
    let bytes = |name: &str| {
        let term = terms.iter().find(|term| term["name"] == name).unwrap();
        term["bytes"].as_u64().unwrap()
    };
    assert_eq!(bytes("patches on the device"), 4096 * 588 * 4);
    let required = free["required_bytes"].as_u64().unwrap();
    assert!(required > bytes("weights") + bytes("tower activations"), "{free}");

    let limit = (required * 85 / 100).to_string();
    let limited = check(&["--memory-limit", &limit]);
    assert_eq!((&limited["fits"], &limited["bound"]), (&false.into(), &"the memory limit".into()));
    assert_eq!(limited["available_bytes"].to_string(), limit);
    assert!(limited["fit"]["max_pixels"].as_u64().unwrap() < 896 * 896, "{limited}");

    let describe = ["describe", picture, "--max-pixels", "12845056", "--max-tokens", "2", "--json"];
    let memory = ["--memory-limit", &limit];
    let fitted = run(describe.iter().chain(&memory));
    assert_eq!(fitted.code, 0, "{fitted:?}");
    assert!(fitted.stderr.contains("note: images were made smaller"), "{fitted:?}");
    let json = fitted.json();
    let notice = &json["notices"][0];
    assert_eq!(notice["kind"], "smaller_images");
    let max_pixels = notice["max_pixels"].as_u64().unwrap();
    let tokens = json["usage"]["image_tokens"].as_u64().unwrap();
    assert!(tokens < 1024 && tokens * 784 <= max_pixels, "{json}");

    let refused = run(describe.iter().chain(&memory).chain(&["--memory-policy", "reject"]));
    assert_eq!(refused.code, 1, "{refused:?}");
    assert_eq!(refused.json()["error"]["kind"], "out_of_memory");
    let message = refused.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains(&format!("({limit} bytes)")), "{message}");
    assert!(message.contains("the largest part is"), "{message}");
    assert!(refused.stderr.contains("hint: free memory"), "{refused:?}");
}

#[test]
fn a_model_that_does_not_fit_is_not_loaded() {
    let run = run(["generate", "--prompt", "Hello", "--memory-limit", "1MiB"]);
    run_says(&run, "the largest part is weights");
    // Smaller steps and smaller images would not help.
    assert!(!run.stderr.contains("made smaller"), "{run:?}");
}

#[track_caller]
fn run_says(run: &crate::Run, says: &str) {
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stderr.contains(says), "expected {says:?}: {run:?}");
}
