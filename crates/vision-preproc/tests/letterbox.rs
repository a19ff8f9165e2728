//! Letterboxing against Pillow and NumPy; `tools/golden/preproc/letterbox.py` wrote the expected sums.

use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};
use vision_preproc::{
    ChannelOrder, Filter, Letterbox, LetterboxOptions, Limits, PassOrder, RgbImage, Size,
    Workspace, decode, letterbox,
};

const EXPECTED: &str = include_str!("../../../testdata/preproc/letterbox.jsonl");

/// The first 16 digits of the SHA-256.
fn sum(bytes: impl AsRef<[u8]>) -> String {
    Sha256::digest(bytes)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sum_of_values(values: &[f32]) -> String {
    sum(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
}

/// The bytes of a photograph and its upright pixels.
fn photo(file: &str) -> (Vec<u8>, RgbImage) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/preproc/photos");
    let bytes = std::fs::read(folder.join(file)).unwrap();
    let image = decode(&bytes, &Limits::default()).unwrap();
    (bytes, image)
}

fn three<T>(list: &Value, item: impl Fn(&Value) -> T) -> [T; 3] {
    [0, 1, 2].map(|at| item(&list[at]))
}

fn options(case: &Value) -> LetterboxOptions {
    LetterboxOptions {
        filter: match case["filter"].as_str().unwrap() {
            "box" => Filter::Box,
            "bilinear" => Filter::Bilinear,
            "hamming" => Filter::Hamming,
            "bicubic" => Filter::Bicubic,
            "lanczos" => Filter::Lanczos,
            other => panic!("filter {other}"),
        },
        enlarge: case["enlarge"].as_bool().unwrap(),
        color: three(&case["color"], |value| value.as_u64().unwrap() as u8),
        mean: three(&case["mean"], |value| value.as_f64().unwrap() as f32),
        std: three(&case["std"], |value| value.as_f64().unwrap() as f32),
        ..LetterboxOptions::default()
    }
}

#[test]
fn photographs_equal_pillow_and_numpy() {
    assert_eq!(EXPECTED.lines().count(), 1 + 7 * 4 * 2);
    let mut workspace = Workspace::new();
    let mut current = None;
    for line in EXPECTED.lines().skip(1) {
        let line: Value = serde_json::from_str(line).unwrap();
        let case = &line["case"];
        let file = case["file"].as_str().unwrap();
        if current.as_ref().is_none_or(|(name, _)| name != file) {
            current = Some((file.to_owned(), photo(file)));
        }
        let (_, (encoded, image)) = current.as_ref().unwrap();
        let image = image.as_view();
        let side = |at: usize| case["canvas"][at].as_u64().unwrap() as u32;
        let canvas = Size { width: side(0), height: side(1) };
        for (pass_order, key) in
            [(PassOrder::Pillow12, "pillow12"), (PassOrder::Pillow13, "pillow13")]
        {
            let expected = &line[key];
            let options = LetterboxOptions { pass_order, ..options(case) };
            let chw = Letterbox::new(canvas, options).unwrap();
            let hwc = LetterboxOptions { channels: ChannelOrder::Hwc, ..options };
            let hwc = Letterbox::new(canvas, hwc).unwrap();
            let rgb = chw.image(image);
            assert_eq!(sum(rgb.pixels()), expected["rgb"], "{key}, bytes of {case}");
            // The caller's buffer holds something else before, as it does when it is used again.
            let mut values = vec![f32::NAN; chw.value_count()];
            chw.process_into(image, &mut workspace, &mut values).unwrap();
            assert_eq!(sum_of_values(&values), expected["chw"], "{key}, CHW of {case}");
            let mut values = hwc.process(image);
            assert_eq!(sum_of_values(&values), expected["hwc"], "{key}, HWC of {case}");
            values.fill(f32::NAN);
            let placement = hwc.process_into(&encoded[..], &mut workspace, &mut values).unwrap();
            assert_eq!(placement, hwc.placement(image.size()), "{key}, {case}");
            assert_eq!(sum_of_values(&values), expected["hwc"], "{key}, from the file, {case}");
        }
    }
}

/// 20 000 shapes up to 4096, from the top bits of a linear congruential generator.
#[test]
fn placements_equal_pillow() {
    let mut state = 1_u32;
    let mut side = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 20) + 1
    };
    let mut bytes = Vec::new();
    for _ in 0..20_000 {
        let [width, height] = [side(), side()];
        let canvas = Size { width: side(), height: side() };
        let placement = letterbox(Size { width, height }, canvas);
        let size = placement.size;
        for value in [size.width, size.height, placement.left, placement.top] {
            bytes.extend(value.to_le_bytes());
        }
    }
    let line: Value = serde_json::from_str(EXPECTED.lines().next().unwrap()).unwrap();
    assert_eq!(sum(bytes), line["sum"]);
}
