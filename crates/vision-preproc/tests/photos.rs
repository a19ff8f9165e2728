//! Bit equality on photographs: with transformers 5.23.0 and mlx-vlm 0.7.10, on Pillow 12 and 13 each.
//!
//! `testdata/preproc/photos/expected.jsonl` has a line for each file and step; `tools/golden/preproc/photos.py` wrote it.

use std::path::PathBuf;

use serde_json::Value;
use sha2::{Digest, Sha256};
use vision_preproc::{
    Grid, ImageProcessor, Limits, PassOrder, PixelBudget, Rescale, RgbImage, decode, probe,
};

/// Lines of the file: 19 photographs, two versions of Pillow, and the RGB image or a library with a pixel limit.
const LINES: usize = 19 * 2 * (1 + 2 * 3);

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/preproc/photos")
}

/// Compares the recorded values first, since they say where a difference is, and then the checksum of all.
fn check(what: &str, line: &Value, len: usize, bytes: &[u8], value: impl Fn(usize) -> f32) {
    for sample in line["samples"].as_array().unwrap() {
        let place = sample[0].as_u64().unwrap() as usize;
        assert!(place < len, "{what}: value {place} of {len}");
        assert_eq!(
            value(place),
            sample[1].as_f64().unwrap() as f32,
            "{what}: value {place} of {len}"
        );
    }
    let sum: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(sum, line["sha256"], "{what}: SHA-256 of all values; the samples are equal");
}

fn check_values(what: &str, line: &Value, image: &RgbImage) {
    let (order, rescale) = (
        if line["pillow"] == 12 { PassOrder::Pillow12 } else { PassOrder::Pillow13 },
        if line["step"] == "mlx-vlm" { Rescale::MlxVlm } else { Rescale::Transformers },
    );
    let processor =
        ImageProcessor::from_json(r#"{"image_processor_type": "Qwen2VLImageProcessor"}"#)
            .unwrap()
            .with_pass_order(order)
            .with_rescale(rescale);
    let budget = PixelBudget { max_pixels: line["max_pixels"].as_u64(), ..PixelBudget::default() };
    let patches = processor.process(image.as_view(), &budget).unwrap();
    let [t, h, w] = [0, 1, 2].map(|axis| line["grid"][axis].as_u64().unwrap() as usize);
    assert_eq!(patches.grid, Grid { t, h, w }, "{what}");
    let bytes: Vec<u8> = patches.values.iter().flat_map(|value| value.to_le_bytes()).collect();
    check(what, line, patches.values.len(), &bytes, |place| patches.values[place]);
}

#[test]
fn photographs_equal_transformers_and_mlx_vlm() {
    let expected = std::fs::read_to_string(folder().join("expected.jsonl")).unwrap();
    assert_eq!(expected.lines().count(), LINES);
    // The lines of a file come together, so one image is held at a time.
    let mut current: Option<(String, RgbImage)> = None;
    for line in expected.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let file = line["file"].as_str().unwrap();
        if current.as_ref().is_none_or(|(name, _)| name != file) {
            let bytes = std::fs::read(folder().join(file)).unwrap();
            let image = decode(&bytes, &Limits::default()).unwrap();
            assert_eq!(probe(&bytes).unwrap().size(), image.size(), "{file}");
            current = Some((file.into(), image));
        }
        let image = &current.as_ref().unwrap().1;
        let what = format!("{file}, {}, Pillow {}", line["step"], line["pillow"]);
        if line["step"] == "rgb" {
            assert_eq!(line["width"], image.width(), "{what}");
            assert_eq!(line["height"], image.height(), "{what}");
            let pixels = image.pixels();
            check(&what, &line, pixels.len(), pixels, |place| pixels[place].into());
        } else {
            let what = format!("{what}, max_pixels {}", line["max_pixels"]);
            check_values(&what, &line, image);
        }
    }
}
