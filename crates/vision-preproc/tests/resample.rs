//! All filters against Pillow 12 and 13, on noise of many shapes; `tools/golden/preproc/resample.py` made the lines.

use sha2::{Digest, Sha256};
use vision_preproc::{Filter, PassOrder, RgbImage, Size, resize};

/// The source of a line: the top bytes of a linear congruential generator that is seeded with the shape.
fn noise(width: u32, height: u32) -> RgbImage {
    let mut state = width * 65_536 + height;
    let pixels = (0..width * height * 3).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    });
    RgbImage::new(width, height, pixels.collect()).unwrap()
}

#[test]
fn every_filter_equals_pillow_in_both_pass_orders() {
    let expected = include_str!("../../../testdata/preproc/resample.txt");
    assert_eq!(expected.lines().count(), 5 * 49);
    let mut orders_differ = 0;
    for line in expected.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let filter = match fields[0] {
            "box" => Filter::Box,
            "bilinear" => Filter::Bilinear,
            "hamming" => Filter::Hamming,
            "bicubic" => Filter::Bicubic,
            "lanczos" => Filter::Lanczos,
            other => panic!("filter {other}"),
        };
        let side = |field: usize| fields[field].parse().unwrap();
        let source = noise(side(1), side(2));
        let size = Size { width: side(3), height: side(4) };
        for (order, sum) in [(PassOrder::Pillow12, fields[5]), (PassOrder::Pillow13, fields[6])] {
            let result = resize(source.as_view(), size, filter, order).unwrap();
            let found = Sha256::digest(result.pixels());
            let found: String = found[..8].iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(found, sum, "{order:?}: {line}");
        }
        orders_differ += usize::from(fields[5] != fields[6]);
    }
    assert!(orders_differ > 10, "the order decides the result of {orders_differ} lines only");
}
