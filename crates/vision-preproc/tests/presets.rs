//! Every preset against transformers on Pillow 12 and 13; `tools/golden/preproc/presets.py` wrote the expected sums.

use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};
use vision_preproc::{
    FrameProcessor, Frames, Limits, PRESETS, PassOrder, Patches, PixelBudget, Preprocessor,
    RgbImage, decode,
};

fn photo(file: &str) -> RgbImage {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/preproc/photos");
    decode(&std::fs::read(folder.join(file)).unwrap(), &Limits::default()).unwrap()
}

/// The first 16 digits of the SHA-256.
fn sum(values: &[f32]) -> String {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Sha256::digest(bytes)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn frames(processor: &FrameProcessor, image: &RgbImage) -> (Vec<usize>, Vec<f32>) {
    let Frames { values, count, size, rows, columns } = processor.process(image.as_view()).unwrap();
    assert_eq!((rows, columns), processor.tiles(image.size()).unwrap());
    assert_eq!(rows * columns + 1, count);
    assert_eq!(size, processor.frame_size());
    (vec![count, 3, size.height as usize, size.width as usize], values)
}

#[test]
fn presets_equal_transformers() {
    let expected = include_str!("../../../testdata/preproc/presets.jsonl");
    assert_eq!(expected.lines().count(), 7 * PRESETS.len());
    for line in expected.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let preprocessor = Preprocessor::preset(line["preset"].as_str().unwrap()).unwrap();
        let image = photo(line["file"].as_str().unwrap());
        for (order, key) in [(PassOrder::Pillow12, "pillow12"), (PassOrder::Pillow13, "pillow13")] {
            let (shape, values) = match preprocessor.clone() {
                Preprocessor::Patches(processor) => {
                    let processor = processor.with_pass_order(order);
                    let patches = processor.process(image.as_view(), &PixelBudget::default());
                    let Patches { values, grid } = patches.unwrap();
                    (vec![grid.patches(), processor.row_values()], values)
                }
                Preprocessor::Frames(processor) => {
                    frames(&processor.with_pass_order(order), &image)
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(line["shape"], Value::from(shape), "{line}");
            assert_eq!(sum(&values), line[key], "{key}: {line}");
        }
    }
}
