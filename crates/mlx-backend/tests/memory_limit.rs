//! Photos of 12 and 24 megapixels under a memory limit: each request runs in a process of its own,
//! whose peak the kernel tells.
#![cfg(target_os = "linux")]
#![allow(clippy::print_stdout, reason = "the child tells its parent by it")]

#[allow(dead_code, reason = "not every test uses all of it")]
mod common;

use std::{
    env,
    fs::{self, File},
    io::BufWriter,
    path::Path,
    process::Command,
};

use futures_executor::block_on;
use llm_core::{ErrorKind, GenerateParams, Image, Notice, Provider, Request};
use mlx_backend::{ByteSize, MemoryOptions, MemoryPolicy, MlxOptions, MlxProvider};
use serde::{Deserialize, Serialize};

/// What the child is asked.
#[derive(Debug, Serialize, Deserialize)]
struct Question {
    model: String,
    photo: String,
    limit_bytes: u64,
    /// Bytes that the process holds besides.
    ballast_bytes: usize,
    reject: bool,
}

/// What it found.
#[derive(Debug, Serialize, Deserialize)]
struct Outcome {
    /// Absent if it was refused.
    image_tokens: Option<usize>,
    /// Of the notice.
    max_pixels: Option<u64>,
    error: Option<String>,
    /// Peak of the resident set.
    peak_bytes: u64,
}

const QUESTION: &str = "MEMORY_LIMIT_QUESTION";
const MARK: &str = "outcome: ";

/// Not a test of its own: the process that [`ask`] starts.
#[test]
#[ignore = "is run by the other tests"]
fn child() {
    let Ok(question) = env::var(QUESTION) else { return };
    let question: Question = serde_json::from_str(&question).unwrap();
    let ballast = vec![1u8; question.ballast_bytes];
    let policy = if question.reject { MemoryPolicy::Reject } else { MemoryPolicy::Fit };
    let memory = MemoryOptions { limit_bytes: Some(question.limit_bytes), policy };
    let model =
        MlxProvider::load(&question.model, MlxOptions { memory, ..MlxOptions::default() }).unwrap();
    let params = GenerateParams {
        max_pixels: Some(12_845_056),
        max_tokens: Some(2),
        ..GenerateParams::default()
    };
    let request = Request::images([Image::Path(question.photo.into())], "What is this?");
    let answer = block_on(model.generate(request.with_params(params)));
    let mut outcome =
        Outcome { image_tokens: None, max_pixels: None, error: None, peak_bytes: peak_bytes() };
    match answer {
        Ok(response) => {
            outcome.image_tokens = Some(response.completion.usage.image_tokens);
            for notice in response.notices {
                if let Notice::SmallerImages { max_pixels, .. } = notice {
                    outcome.max_pixels = Some(max_pixels);
                }
            }
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error:?}");
            outcome.error = Some(error.to_string());
        }
    }
    assert_eq!(std::hint::black_box(&ballast).len(), question.ballast_bytes);
    println!("{MARK}{}", serde_json::to_string(&outcome).unwrap());
}

fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn ask(question: &Question) -> Outcome {
    let output = Command::new(env::current_exe().unwrap())
        .args(["child", "--exact", "--ignored", "--nocapture"])
        .env(QUESTION, serde_json::to_string(question).unwrap())
        .output()
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let outcome = stdout.lines().find_map(|line| line.split_once(MARK)).map(|(_, json)| json);
    let errors = String::from_utf8_lossy(&output.stderr);
    let outcome = outcome.unwrap_or_else(|| panic!("{stdout}\n{errors}"));
    serde_json::from_str(outcome).unwrap()
}

/// Writes a picture of soft waves.
fn write_photo(path: &Path, width: u32, height: u32) {
    let mut encoder = png::Encoder::new(BufWriter::new(File::create(path).unwrap()), width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::Fast);
    let mut pixels = Vec::with_capacity(width as usize * height as usize * 3);
    for y in 0..height {
        let down = (y as f32 * 0.004).sin();
        for x in 0..width {
            let across = (x / 16) as f32 * 0.05;
            let wave = (across.sin() + down) * 60.0 + 128.0;
            pixels.extend([wave as u8, 255 - wave as u8, (x ^ y) as u8 / 8]);
        }
    }
    encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
}

/// Asks about `photos` (width, height) with either policy, at most 12 845 056 pixels, and
/// `limit_bytes` of memory, of which `ballast_bytes` are held already.
fn prove(sizes: common::Sizes, photos: &[(u32, u32)], limit_bytes: u64, ballast_bytes: usize) {
    let folder = tempfile::tempdir().unwrap();
    common::write_checkpoint(sizes, folder.path());
    for &(width, height) in photos {
        let photo = folder.path().join("photo.png");
        write_photo(&photo, width, height);
        let ask = |reject| {
            let [model, photo] = [folder.path(), &photo].map(|p| p.to_str().unwrap().to_owned());
            ask(&Question { model, photo, limit_bytes, ballast_bytes, reject })
        };
        let refused = ask(true);
        let error = refused.error.clone().unwrap();
        let fitted = ask(false);
        println!(
            "{width}x{height}, limit {}: answered with {} image tokens, at most {} pixels, peak {}; {error}",
            ByteSize(limit_bytes),
            fitted.image_tokens.unwrap(),
            fitted.max_pixels.unwrap(),
            ByteSize(fitted.peak_bytes),
        );
        assert!(error.contains(&format!("({limit_bytes} bytes)")), "{error}");
        assert!(refused.peak_bytes < limit_bytes, "{refused:?}");
        assert!(fitted.peak_bytes < limit_bytes, "{fitted:?}");
        // It made use of what there was.
        assert!(fitted.peak_bytes > limit_bytes / 2, "{fitted:?}");
    }
}

#[test]
fn fit_answers_within_the_limit_and_reject_refuses() {
    let sizes = common::Sizes {
        depth: 2,
        vision_hidden: 320,
        vision_inner: 856,
        vision_heads: 4,
        layers: 2,
        hidden: 256,
        inner: 688,
        heads: 4,
    };
    prove(sizes, &[(4000, 3000)], 400 << 20, 0);
}

/// With a tower as wide as that of the published models, two blocks of it, and memory held in place
/// of the other layers; takes minutes.
#[test]
#[ignore = "takes minutes"]
fn so_they_do_at_full_size_within_4_gib() {
    let sizes = common::Sizes {
        depth: 2,
        vision_hidden: 1280,
        vision_inner: 3420,
        vision_heads: 16,
        layers: 2,
        hidden: 2048,
        inner: 11_008,
        heads: 16,
    };
    prove(sizes, &[(4000, 3000), (6000, 4000)], 4 << 30, 2_300_000_000);
}
