//! Video files against what `PyAV` 18 and Pillow 13 read of them, and files that are broken.
//! `tools/golden/video/files.py` writes what is expected.

use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};
use vision_preproc::{Error, Limits, RgbImage, VideoInfo, decode_video, probe_video};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/video").join(name)
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).unwrap()
}

fn cases() -> Vec<Value> {
    let text = String::from_utf8(read("files.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn frames(bytes: &[u8], indices: &[usize]) -> Result<Vec<RgbImage>, Error> {
    let mut frames = Vec::new();
    decode_video(bytes, &Limits::default(), indices, |frame| {
        frames.extend(frame.map(|frame| frame.to_image()));
        Ok::<(), Error>(())
    })?;
    Ok(frames)
}

fn all(info: &VideoInfo) -> Vec<usize> {
    (0..info.frames).collect()
}

/// Whether this build reads it.
fn reads(name: &str) -> bool {
    cfg!(feature = "h264") || !name.ends_with(".mp4")
}

#[test]
fn frames_are_those_of_pillow_and_pyav() {
    let mut count = 0;
    for case in cases() {
        let name = case["file"].as_str().unwrap();
        if !reads(name) {
            continue;
        }
        let bytes = read(name);
        let info = probe_video(&bytes).unwrap();
        assert_eq!(info.frames as u64, case["frames"].as_u64().unwrap(), "{name}");
        let size = serde_json::json!([info.size.width, info.size.height]);
        assert_eq!(size, case["size"], "{name}");
        let found = frames(&bytes, &all(&info)).unwrap();
        assert_eq!(found.len(), info.frames, "{name}");
        let webp = name.ends_with(".webp");
        if let Some(sums) = case["sums"].as_array() {
            // Of WebP, where the crate lays one frame over another, what is opaque may be one less.
            let exact = if webp { 1 } else { sums.len() };
            for (at, (frame, sum)) in found.iter().zip(sums).enumerate().take(exact) {
                let found: String = Sha256::digest(frame.pixels())
                    .iter()
                    .take(8)
                    .map(|byte| format!("{byte:02x}"))
                    .collect();
                assert_eq!(Some(found.as_str()), sum.as_str(), "{name}, frame {at}");
            }
        } else {
            assert_eq!(Some(info.fps), case["fps"].as_f64(), "{name}");
        }
        if case["pixels"].is_array() {
            // PyAV's colours are rounded in steps of their own.
            let (step, most) = if webp { (1, 1) } else { (5, 3) };
            let expected = case["pixels"].as_array().unwrap().iter();
            for (at, (frame, expected)) in found.iter().step_by(step).zip(expected).enumerate() {
                let rows = (4..frame.height() as usize).step_by(16);
                let found = rows.flat_map(|row| {
                    let row = frame.as_view().row(row);
                    let pixels = row.chunks_exact(3).skip(4).step_by(16);
                    pixels.flatten().copied().collect::<Vec<u8>>()
                });
                let pairs = found.zip(expected.as_array().unwrap());
                let off = pairs.map(|(a, b)| i64::from(a).abs_diff(b.as_i64().unwrap())).max();
                assert!(off.unwrap() <= most, "{name}, frame {}: {off:?}", at * step);
            }
        }
        // Some of them are those of all.
        let some: Vec<usize> = (1..info.frames).step_by(4).collect();
        for (&index, frame) in some.iter().zip(frames(&bytes, &some).unwrap()) {
            assert!(frame == found[index], "{name}, frame {index} by itself");
        }
        count += 1;
    }
    assert_eq!(count, if cfg!(feature = "h264") { 7 } else { 5 });
}

#[test]
fn rates_are_means() {
    // 600 ms for 6 frames, of which none is equally long.
    assert_eq!(probe_video(&read("moving.gif")).unwrap().fps, 10.0);
    assert_eq!(probe_video(&read("moving.webp")).unwrap().fps, 10.0);
}

#[test]
fn what_is_cut_off_is_an_error_or_the_frames_before() {
    for case in cases() {
        let name = case["file"].as_str().unwrap();
        let bytes = read(name);
        let step = bytes.len() / 97 + 1;
        for length in (0..bytes.len()).step_by(step) {
            let cut = &bytes[..length];
            if let Ok(info) = probe_video(cut) {
                let _ = frames(cut, &all(&info));
            }
        }
        if !reads(name) {
            let error = probe_video(&bytes).unwrap_err().to_string();
            assert!(error.contains("needs the feature `h264`"), "{error}");
        }
    }
}

/// One byte after the other is replaced; nothing may panic, hang, or take memory that the header does not speak of.
#[test]
fn broken_bytes_are_errors_or_other_frames() {
    for case in cases() {
        let name = case["file"].as_str().unwrap();
        let bytes = read(name);
        let step = (bytes.len() / 400).max(1);
        for at in (0..bytes.len()).step_by(step) {
            for value in [0, 0xff, bytes[at] ^ 0x10] {
                let mut broken = bytes.clone();
                broken[at] = value;
                let Ok(info) = probe_video(&broken) else { continue };
                if info.frames > 100 || info.size.pixels() > 1 << 20 {
                    continue;
                }
                let _ = frames(&broken, &all(&info));
            }
        }
    }
}

#[test]
fn others_are_named_with_what_is_read() {
    for (bytes, found) in [
        (&b"\x1aE\xdf\xa3...."[..], "Matroska or WebM"),
        (b"RIFF....AVI LIST", "AVI"),
        (b"\0\0\0\x1cftypavif", "HEIF or AVIF"),
        (b"\x89PNG\r\n\x1a\n", "PNG or APNG"),
        (b"", "no bytes at all"),
        (b"hello", "neither a known video"),
    ] {
        let error = probe_video(bytes).unwrap_err().to_string();
        assert!(error.contains(found) && error.contains("animated GIF or WebP"), "{error}");
    }
}

#[test]
fn limits_and_indices_are_checked_before_anything_is_decoded() {
    let bytes = read("moving.gif");
    let call = |limits: &Limits, indices: &[usize]| {
        decode_video(&bytes, limits, indices, |_| {
            panic!("a frame was decoded") as Result<(), Error>
        })
    };
    let default = Limits::default();
    let small = Limits { max_pixels: 64 * 48 - 1, ..default };
    assert!(matches!(call(&small, &[0]), Err(Error::Limit { .. })));
    let short = Limits { max_encoded_bytes: 10, ..default };
    assert!(matches!(call(&short, &[0]), Err(Error::Limit { .. })));
    for indices in [&[6][..], &[1, 1], &[2, 1]] {
        assert!(matches!(call(&default, indices), Err(Error::Shape { .. })), "{indices:?}");
    }
    // A caller can give up at any frame.
    let mut seen = 0;
    let error = decode_video(&bytes, &default, &[5], |_| {
        seen += 1;
        if seen == 2 {
            Err(Error::Shape { expected: "me".into(), found: "you".into() })
        } else {
            Ok(())
        }
    });
    assert_eq!((error.unwrap_err().to_string().as_str(), seen), ("expected me, found you", 2));
}

/// A table of a few bytes that speaks of four billion frames, and a size that is not that of the pictures.
#[cfg(feature = "h264")]
#[test]
fn headers_that_lie_are_errors() {
    let bytes = read("baseline.mp4");
    let find = |name: &[u8]| bytes.windows(4).rposition(|window| window == name).unwrap();
    let mut many = bytes.clone();
    // Version, number of entries, first chunk, and then the samples of a chunk.
    let at = find(b"stsc") + 4 + 8 + 4;
    many[at..at + 4].copy_from_slice(&u32::MAX.to_be_bytes());
    let error = probe_video(&many).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("frames in a file of"), "{source}");
    let mut wide = bytes.clone();
    let at = find(b"avc1") + 4 + 24;
    wide[at..at + 2].copy_from_slice(&4096_u16.to_be_bytes());
    let error = probe_video(&wide).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("the header says 4096x36, the pictures are 64x48"), "{source}");
}
