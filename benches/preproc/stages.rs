//! The stages of preprocessing by themselves, by criterion: `cargo xtask bench preproc`.
#![allow(missing_docs, reason = "a benchmark has no callers")]

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use vision_preproc::{
    Filter, ImageProcessor, Letterbox, LetterboxOptions, Limits, PassOrder, PixelBudget, Size,
    Workspace, decode, resize,
};

const PHOTOS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/preproc/photos");

fn main() {
    let mut criterion = Criterion::default().sample_size(20).configure_from_args();
    for file in ["retina_12_megapixels.jpg", "china.jpg", "chelsea.png", "astronaut.webp"] {
        decoding(&mut criterion, file);
    }
    for file in ["retina_12_megapixels.jpg", "china.jpg"] {
        pixels(&mut criterion, file);
    }
    criterion.final_summary();
}

fn photo(file: &str) -> Vec<u8> {
    std::fs::read(format!("{PHOTOS}/{file}")).expect("a photograph of testdata")
}

/// Throughput in pixels of the image.
fn decoding(criterion: &mut Criterion, file: &str) {
    let bytes = photo(file);
    let decoded = || decode(black_box(&bytes), &Limits::default()).expect("a sound file");
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(decoded().size().pixels()));
    group.bench_function(file, |bencher| bencher.iter(decoded));
    group.finish();
}

/// What happens to a decoded image; throughput in pixels of the source.
fn pixels(criterion: &mut Criterion, file: &str) {
    let image = decode(&photo(file), &Limits::default()).expect("a sound file");
    let view = image.as_view();
    let mut group = criterion.benchmark_group(file);
    group.throughput(Throughput::Elements(image.size().pixels()));
    let small = Size { width: 448, height: 336 };
    for filter in [Filter::Bilinear, Filter::Bicubic, Filter::Lanczos] {
        group.bench_function(format!("resize to 448x336, {filter:?}"), |bencher| {
            bencher.iter(|| resize(black_box(view), small, filter, PassOrder::default()));
        });
    }
    let canvas = Size { width: 448, height: 448 };
    let letterbox = Letterbox::new(canvas, LetterboxOptions::default()).expect("a sound canvas");
    let mut values = vec![0.0_f32; letterbox.value_count()];
    let mut workspace = Workspace::new();
    group.bench_function("letterbox into 448x448", |bencher| {
        bencher.iter(|| letterbox.process_into(black_box(view), &mut workspace, &mut values));
    });
    let config = r#"{"image_processor_type": "Qwen2VLImageProcessor"}"#;
    let processor = ImageProcessor::from_json(config).expect("a sound configuration");
    for max_pixels in [200_704, 1_003_520] {
        let budget = PixelBudget { max_pixels: Some(max_pixels), ..PixelBudget::default() };
        group.bench_function(format!("patches of at most {max_pixels} pixels"), |bencher| {
            bencher.iter(|| processor.process(black_box(view), &budget));
        });
    }
    group.finish();
}
