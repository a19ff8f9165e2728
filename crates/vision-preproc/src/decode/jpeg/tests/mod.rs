//! The baseline decoder against libjpeg, bit for bit.

mod encoder;

use std::path::{Path, PathBuf};

use super::oracle::{all, by_libjpeg, by_rows};
use super::*;
use crate::Format;
use crate::decode::rows;
use encoder::{Options, Random};

const REDUCTIONS: [Reduction; 4] =
    [Reduction::Whole, Reduction::Half, Reduction::Quarter, Reduction::Eighth];

fn by_baseline(bytes: &[u8], level: Level) -> Result<Vec<u8>, baseline::Irregular> {
    reduced(bytes, Reduction::Whole, level)
}

fn reduced(
    bytes: &[u8],
    reduction: Reduction,
    level: Level,
) -> Result<Vec<u8>, baseline::Irregular> {
    let mut decoder = baseline::Decoder::open(bytes, reduction, level, Box::default())?;
    let (width, height) = decoder.size();
    let read = |out: &mut [u8]| Ok(decoder.read(out)?);
    all(read, reduction.apply(Size { width, height })).map_err(|_| baseline::Irregular)
}

/// Every JPEG file in `testdata`.
fn fixtures() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata");
    let mut folders = vec![root];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "jpg") {
                files.push(path);
            }
        }
    }
    files.sort();
    assert!(files.len() > 20, "fixtures are missing: {files:?}");
    files
}

#[test]
fn fixtures_are_equal_at_every_level() {
    let mut taken = 0;
    for path in fixtures() {
        let bytes = std::fs::read(&path).unwrap();
        let expected = by_libjpeg(&bytes);
        assert!(by_rows(&bytes) == expected, "{}", path.display());
        for level in Level::available() {
            if let Ok(found) = by_baseline(&bytes, level) {
                taken += 1;
                assert!(Ok(found) == expected, "{}, {level:?}", path.display());
            }
        }
    }
    assert!(taken >= 15 * Level::available().count(), "only {taken} were baseline");
}

#[test]
fn random_coefficients_in_random_codes_are_equal_at_every_level() {
    let mut random = Random::new(1);
    for round in 0..300 {
        let options = Options::random(&mut random);
        let bytes = encoder::file(&options, &mut random);
        let expected = by_libjpeg(&bytes).expect("a valid file");
        for level in Level::available() {
            let found = by_baseline(&bytes, level);
            assert!(found.is_ok_and(|found| found == expected), "{round}, {level:?}: {options:?}");
        }
    }
}

/// A reduced image is made in the same way at every level, whatever is in the file.
#[test]
fn reduced_images_are_equal_at_every_level() {
    let mut random = Random::new(5);
    // Miri, which knows no libjpeg, sees the decoder here.
    let (rounds, reductions) = if cfg!(miri) { (1, 2) } else { (200, 4) };
    for round in 0..rounds {
        let mut options = Options::random(&mut random);
        if cfg!(miri) {
            (options.width, options.height) = (20, 37);
        }
        let bytes = encoder::file(&options, &mut random);
        for &reduction in &REDUCTIONS[..reductions] {
            let expected = reduced(&bytes, reduction, Level::SCALAR).expect("a valid file");
            for level in Level::available() {
                let found = reduced(&bytes, reduction, level).expect("a valid file");
                assert!(found == expected, "{round}, {reduction:?}, {level:?}: {options:?}");
            }
        }
    }
}

/// An image of flat blocks is not changed but for its size, up to its edges.
#[test]
fn a_reduced_image_of_flat_blocks_has_their_colours() {
    let mut random = Random::new(6);
    for factors in [0, 0x11] {
        for (width, height) in [(1, 1), (16, 8), (17, 33), (100, 70), (3, 64), (5, 5)] {
            let options = Options {
                width,
                height,
                factors,
                restart_interval: 3,
                density: 0,
                size: 5,
                step: 4,
                fair_codes: true,
            };
            let bytes = encoder::file(&options, &mut random);
            let whole = by_libjpeg(&bytes).expect("a valid file");
            for &reduction in &REDUCTIONS {
                let found = reduced(&bytes, reduction, Level::detect()).expect("a baseline file");
                let divisor = reduction.divisor() as usize;
                let across = width.div_ceil(divisor);
                for (at, pixel) in found.as_chunks::<3>().0.iter().enumerate() {
                    let (x, y) = (at % across * divisor, at / across * divisor);
                    let expected = &whole[(y * width + x) * 3..][..3];
                    assert_eq!(pixel, expected, "{options:?}, {reduction:?}, {x}, {y}");
                }
            }
        }
    }
}

/// Damage that is found after rows were handed out: the whole image is decoded instead, or the error is that of it.
#[test]
fn a_damaged_file_is_not_reduced() {
    let mut random = Random::new(7);
    let mut again = 0;
    for _ in 0..300 {
        let mut bytes = encoder::file(&Options::random(&mut random), &mut random);
        damage(&mut bytes, &mut random);
        let half = Reduction::Half;
        let expected = reduced(&bytes, half, Level::detect()).or_else(|_| by_libjpeg(&bytes));
        let mut calls = 0;
        let mut read = |rows: &mut rows::Rows<'_>, _| {
            calls += 1;
            let size = rows.size();
            Ok(all(|out| rows.read(out), size)?)
        };
        let scratch = &mut rows::Scratch::default();
        let found = rows::with_rows(&bytes, Format::Jpeg, half, scratch, &mut read);
        assert!(found.map_err(|reason| reason.to_string()) == expected);
        again += usize::from(calls == 2);
    }
    assert!(again > 20, "{again} were decoded again");
}

#[test]
fn memory_of_one_file_serves_the_next() {
    let mut random = Random::new(4);
    let mut scratch = Box::default();
    for _ in 0..50 {
        let options = Options::random(&mut random);
        let bytes = encoder::file(&options, &mut random);
        // Some of the files are left before their end.
        let rows = random.pick(&[options.height, options.height / 2]);
        let expected = by_libjpeg(&bytes).expect("a valid file");
        let reduction = random.pick(&REDUCTIONS);
        let expected = match reduction {
            Reduction::Whole => expected,
            _ => reduced(&bytes, reduction, Level::detect()).expect("valid"),
        };
        let decoder = baseline::Decoder::open(&bytes, reduction, Level::detect(), scratch);
        let mut decoder = decoder.expect("valid");
        let mut out = vec![0; options.width.div_ceil(reduction.divisor() as usize) * 3];
        for expected in expected.chunks(out.len()).take(rows) {
            assert_eq!(decoder.read(&mut out).expect("valid"), 1);
            assert!(out == expected, "{options:?}");
        }
        scratch = decoder.into_scratch();
    }
}

/// All small sizes, which have the special cases of upsampling.
#[test]
fn sizes_are_equal() {
    let mut random = Random::new(2);
    for factors in [0, 0x11, 0x21, 0x12, 0x22] {
        for (width, height) in (1..=34).flat_map(|w| [1, 2, 3, 8, 9, 16, 17, 33].map(|h| (w, h))) {
            let options = Options {
                width,
                height,
                factors,
                restart_interval: 0,
                density: 8,
                size: 5,
                step: 16,
                fair_codes: true,
            };
            let bytes = encoder::file(&options, &mut random);
            let expected = by_libjpeg(&bytes).expect("a valid file");
            let found = by_baseline(&bytes, Level::detect()).expect("a baseline file");
            assert!(found == expected, "{options:?}");
        }
    }
}

/// Damaged files: the same pixels as by libjpeg alone, or the same error.
#[test]
fn damage_changes_nothing_but_who_decodes() {
    let (taken, failed) = damaged(3, 1500, 40_000);
    assert!(taken > 100 && failed > 100, "{taken} taken, {failed} failed");
}

/// The same for as long as one wants to wait: `cargo test --release -p vision-preproc --lib damage -- --ignored`.
#[test]
#[ignore = "takes some minutes"]
fn much_damage_changes_nothing_but_who_decodes() {
    for seed in 100..200 {
        let (taken, failed) = damaged(seed, 1500, 300_000);
        assert!(taken > 100 && failed > 100, "{seed}: {taken} taken, {failed} failed");
    }
}

/// Compares `rounds` damaged files, made from fixtures of less than `most_bytes` and from random ones; returns how many
/// the baseline decoder took, and how many were errors.
fn damaged(seed: u64, rounds: usize, most_bytes: usize) -> (usize, usize) {
    let mut files: Vec<Vec<u8>> = fixtures()
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .filter(|bytes| bytes.len() < most_bytes)
        .collect();
    let mut random = Random::new(seed);
    for _ in 0..40 {
        let options = Options::random(&mut random);
        files.push(encoder::file(&options, &mut random));
    }
    let (mut taken, mut failed) = (0, 0);
    for round in 0..rounds {
        let mut bytes = files[random.below(files.len())].clone();
        damage(&mut bytes, &mut random);
        let expected = by_libjpeg(&bytes);
        assert!(by_rows(&bytes) == expected, "seed {seed}, round {round}");
        failed += usize::from(expected.is_err());
        taken += usize::from(by_baseline(&bytes, Level::detect()).is_ok());
    }
    (taken, failed)
}

fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(3) {
        let at = 2 + random.below(bytes.len() - 2);
        let len = random.below(8).min(bytes.len() - at);
        match random.below(7) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => bytes[at] = 0xff,
            3 => bytes.truncate(at.max(4)),
            4 => drop(bytes.drain(at..at + len)),
            5 => bytes.insert(at, random.pick(&[0, 0xff, 0xd0, 0xd9, 0x55])),
            _ => {
                let copied = bytes[at..at + len].to_vec();
                let to = 2 + random.below(bytes.len() - 2);
                bytes.splice(to..to, copied);
            }
        }
        if bytes.len() < 16 {
            return;
        }
    }
}
