//! Preprocessing of photographs. Which kernels run is what the machine has, and Callgrind knows none beyond AVX2.

use std::hint::black_box;

use vision_preproc::{
    Filter, ImageProcessor, Letterbox, LetterboxOptions, Limits, PassOrder, PixelBudget, RgbImage,
    Size, Workspace, decode, resize,
};

use crate::Case;

pub(crate) const CASES: &[Case] = &[
    ("preproc/decode china.jpg", || decoding("china.jpg")),
    ("preproc/decode chelsea.png", || decoding("chelsea.png")),
    ("preproc/resize to 448x336, bicubic", || {
        let image = photo("china.jpg");
        let size = Size { width: 448, height: 336 };
        Box::new(move || {
            let resized = resize(image.as_view(), size, Filter::Bicubic, PassOrder::default());
            drop(black_box(resized.expect("a size above zero")));
        })
    }),
    ("preproc/letterbox into 448x448", || {
        let image = photo("china.jpg");
        let canvas = Size { width: 448, height: 448 };
        let letterbox = Letterbox::new(canvas, LetterboxOptions::default()).expect("a canvas");
        let mut values = vec![0.0; letterbox.value_count()];
        let mut workspace = Workspace::new();
        Box::new(move || {
            letterbox
                .process_into(image.as_view(), &mut workspace, &mut values)
                .expect("a sound image");
            black_box(&mut values);
        })
    }),
    ("preproc/patches of at most 200704 pixels", || {
        let image = photo("china.jpg");
        let config = r#"{"image_processor_type": "Qwen2VLImageProcessor"}"#;
        let processor = ImageProcessor::from_json(config).expect("a sound configuration");
        let budget = PixelBudget { max_pixels: Some(200_704), ..PixelBudget::default() };
        Box::new(move || {
            drop(black_box(processor.process(image.as_view(), &budget).expect("a sound image")));
        })
    }),
];

fn decoding(file: &'static str) -> Box<dyn FnMut()> {
    let bytes = read(file);
    Box::new(move || drop(black_box(decode(&bytes, &Limits::default()).expect("a sound file"))))
}

fn photo(file: &str) -> RgbImage {
    decode(&read(file), &Limits::default()).expect("a sound file")
}

fn read(file: &str) -> Vec<u8> {
    const PHOTOS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/preproc/photos");
    std::fs::read(format!("{PHOTOS}/{file}")).expect("a photograph of testdata")
}
