//! `Mode::Fast` beside `Mode::Exact` on the photographs: how much noise there is, and that nothing else changes.

use std::path::PathBuf;

use vision_preproc::{
    Filter, Letterbox, LetterboxOptions, Limits, Mode, PRESETS, PixelBudget, Preprocessor, Size,
    Workspace, decode, probe,
};

/// What the documentation promises, in dB.
const LEAST_PSNR: f64 = 48.0;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/preproc/photos")
}

/// The JPEG photographs with their names.
fn photographs() -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "jpg"))
        .map(|path| (path.file_name().unwrap().display().to_string(), std::fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

/// Peak signal-to-noise ratio of two images of levels 0 to 255.
fn psnr(exact: &[f32], fast: &[f32]) -> f64 {
    assert_eq!(exact.len(), fast.len());
    let squares = exact.iter().zip(fast).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2));
    let mean = squares.sum::<f64>() / exact.len() as f64;
    10.0 * (255.0 * 255.0 / mean).log10()
}

/// The bytes of a picture that is scaled to `size`.
fn scaled(bytes: &[u8], size: Size, filter: Filter, mode: Mode) -> Vec<f32> {
    let options = LetterboxOptions { filter, rescale_factor: 1.0, mode, ..Default::default() };
    let letterbox = Letterbox::new(size, options).unwrap();
    letterbox.process_bytes(bytes, &mut Workspace::new()).unwrap()
}

/// Every photograph at the smallest size for each of the reductions and at sizes between.
#[test]
fn photographs_have_little_noise() {
    let (mut checked, mut least) = (0, f64::INFINITY);
    for (name, bytes) in photographs() {
        let size = probe(&bytes).unwrap().size();
        for shrunk in [4.25, 5.0, 6.0, 8.0, 9.0, 10.0, 12.0, 16.0, 24.0, 32.0] {
            let side = |side| (f64::from(side) / shrunk) as u32;
            let target = Size { width: side(size.width), height: side(size.height) };
            // Icons have too few samples for a mean to say much.
            if target.width.min(target.height) < 24 {
                continue;
            }
            for filter in [Filter::Bicubic, Filter::Lanczos, Filter::Bilinear] {
                let [exact, fast] =
                    [Mode::Exact, Mode::Fast].map(|mode| scaled(&bytes, target, filter, mode));
                if name.contains("progressive") {
                    assert!(exact == fast, "{name} was reduced");
                    continue;
                }
                assert!(exact != fast, "{name} at 1/{shrunk} was not reduced");
                let psnr = psnr(&exact, &fast);
                assert!(psnr >= LEAST_PSNR, "{name}, 1/{shrunk}, {filter:?}: {psnr:.2} dB");
                (checked, least) = (checked + 1, least.min(psnr));
            }
        }
    }
    assert!(checked > 100, "{checked} were checked, the least has {least:.2} dB");
}

/// Every preset with the largest photograph, and one that is turned by EXIF: the same shapes, and little noise. The values
/// of patches are brought back to levels by the largest scale that a preset has, so that noise is not underestimated.
#[test]
fn presets_have_a_fast_mode() {
    let mut reduced = 0;
    for (name, bytes) in photographs() {
        if !["retina_12_megapixels.jpg", "flower_exif_6.jpg"].contains(&name.as_str()) {
            continue;
        }
        for preset in PRESETS {
            let [exact, fast] = [Mode::Exact, Mode::Fast].map(|mode| {
                let workspace = &mut Workspace::new();
                match Preprocessor::preset(preset).unwrap().with_mode(mode) {
                    Preprocessor::Patches(processor) => {
                        let budget =
                            PixelBudget { min_pixels: Some(3136), max_pixels: Some(10_000) };
                        processor.process_bytes(&bytes, &budget, workspace).unwrap().values
                    }
                    Preprocessor::Frames(processor) => {
                        processor.process_bytes(&bytes, workspace).unwrap().values
                    }
                    _ => panic!("another kind of preset"),
                }
            });
            // The standard deviations of all presets are between 0.26 and 0.5.
            let levels =
                |values: &[f32]| values.iter().map(|v| v * 0.5 * 255.0).collect::<Vec<_>>();
            let psnr = psnr(&levels(&exact), &levels(&fast));
            assert!(psnr >= LEAST_PSNR, "{name}, {preset}: {psnr:.2} dB");
            reduced += usize::from(exact != fast);
        }
    }
    // Three of Qwen for both files; CLIP and SigLIP for the large one.
    assert!(reduced >= 10, "{reduced} were reduced");
}

/// `process_bytes` of frames is decoding and then `process`, whatever the orientation.
#[test]
fn frames_of_a_file_are_those_of_its_pixels() {
    for (name, bytes) in photographs() {
        let image = decode(&bytes, &Limits::default()).unwrap();
        for preset in PRESETS {
            let Preprocessor::Frames(processor) = Preprocessor::preset(preset).unwrap() else {
                continue;
            };
            let expected = processor.process(image.as_view()).unwrap();
            let found = processor.process_bytes(&bytes, &mut Workspace::new()).unwrap();
            assert!(found == expected, "{name}, {preset}");
        }
    }
}
