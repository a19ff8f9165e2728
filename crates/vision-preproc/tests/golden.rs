//! Bit equality with Pillow 12 and 13 and with mlx-vlm 0.7.10 on lossless pictures.

use std::path::Path;

use vision_preproc::{
    Filter, ImageProcessor, Limits, PassOrder, Patches, PixelBudget, Rescale, RgbImage, decode,
    resize,
};

fn picture(name: &str) -> RgbImage {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/preproc");
    decode(&std::fs::read(folder.join(name)).unwrap(), &Limits::default()).unwrap()
}

/// FNV-1a, 64 bits.
fn checksum(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

fn values(all: &[Patches]) -> u64 {
    checksum(all.iter().flat_map(|p| &p.values).flat_map(|value| value.to_le_bytes()))
}

#[test]
fn bicubic_equals_pillow_in_both_pass_orders() {
    for (source, result) in [("a_220x150", "a_resized_224x140"), ("b_130x180", "b_resized_140x168")]
    {
        let image = picture(&format!("{source}.png"));
        for (order, version) in [(PassOrder::Pillow12, 12), (PassOrder::Pillow13, 13)] {
            let expected = picture(&format!("{result}_pillow{version}.png"));
            let found = resize(image.as_view(), expected.size(), Filter::Bicubic, order).unwrap();
            assert!(found == expected, "{source}, Pillow {version}");
        }
    }
}

#[test]
fn pixel_values_equal_mlx_vlm() {
    let config = r#"{"image_processor_type": "Qwen2VLImageProcessor", "max_pixels": 12845056}"#;
    let processor = ImageProcessor::from_json(config).unwrap().with_rescale(Rescale::MlxVlm);
    let process =
        |image: &RgbImage| processor.process(image.as_view(), &PixelBudget::default()).unwrap();
    let (a, b) = (picture("a_220x150.png"), picture("b_130x180.png"));
    let rows = a.pixels().chunks_exact(220 * 3);
    let flipped = rows.flat_map(|row| row.as_chunks::<3>().0.iter().rev().flatten().copied());
    let flipped = RgbImage::new(220, 150, flipped.collect()).unwrap();
    assert_eq!(values(&[process(&a)]), 0x4771_b024_071e_2281, "one_image");
    assert_eq!(values(&[process(&a), process(&b)]), 0x9186_766b_648c_6921, "two_images");
    assert_eq!(values(&[process(&flipped)]), 0x97b7_b986_a30b_7209, "one_image_flipped");
}

/// Every line of the manifest: file, width, height, checksum of Pillow's RGB, checksum of transformers' values.
#[test]
fn every_format_equals_pillow_and_transformers() {
    let processor =
        ImageProcessor::from_json(r#"{"image_processor_type": "Qwen2VLImageProcessor"}"#).unwrap();
    let manifest = include_str!("../../../testdata/preproc/formats/manifest.txt");
    assert!(manifest.lines().count() > 30, "the manifest is cut");
    for line in manifest.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let image = picture(&format!("formats/{}", fields[0]));
        assert_eq!(format!("{} {}", image.width(), image.height()), fields[1..3].join(" "));
        let sum = checksum(image.pixels().iter().copied());
        assert_eq!(format!("{sum:016x}"), fields[3], "pixels of {}", fields[0]);
        let patches = processor.process(image.as_view(), &PixelBudget::default()).unwrap();
        assert_eq!(format!("{:016x}", values(&[patches])), fields[4], "values of {}", fields[0]);
    }
}
