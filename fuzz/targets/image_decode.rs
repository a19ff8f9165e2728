//! Any bytes as an image file: no panic, and every way through the crate gives the same pixels.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vision_preproc::{
    ImageProcessor, Letterbox, LetterboxOptions, Limits, Mode, PixelBudget, Size, Workspace,
    decode, probe,
};

/// Small, so that an input takes milliseconds.
const LIMITS: Limits = Limits { max_encoded_bytes: 1 << 20, max_pixels: 1 << 18, max_aspect: 200 };

const CONFIG: &str = r#"{"image_processor_type": "Qwen2VLImageProcessor"}"#;

fuzz_target!(|bytes: &[u8]| {
    // The baseline decoder against libjpeg, whatever is wrong with the file.
    vision_preproc::fuzzing::compare_jpeg_decoders(bytes, LIMITS.max_pixels);

    let info = probe(bytes);
    let image = decode(bytes, &LIMITS);
    if let Ok(image) = &image {
        let info = info.expect("what is decoded has a header");
        assert_eq!(info.size(), image.size());
    }

    let workspace = &mut Workspace::new();
    let processor =
        ImageProcessor::from_json(CONFIG).expect("a sound configuration").with_limits(LIMITS);
    let budget = PixelBudget { min_pixels: Some(3136), max_pixels: Some(10_000) };
    let streamed = processor.process_bytes(bytes, &budget, workspace);
    if let Ok(image) = &image {
        match (processor.process(image.as_view(), &budget), &streamed) {
            (Ok(expected), Ok(found)) => assert!(expected == *found, "streamed pixels differ"),
            (Err(_), Err(_)) => {}
            (expected, found) => panic!("{:?} and {:?}", expected.is_ok(), found.is_ok()),
        }
    }

    let fast = processor.with_mode(Mode::Fast).process_bytes(bytes, &budget, workspace);
    assert_eq!(fast.map(|patches| patches.grid).ok(), streamed.map(|patches| patches.grid).ok());

    let canvas = Size { width: 24, height: 17 };
    for mode in [Mode::Exact, Mode::Fast] {
        let options = LetterboxOptions { limits: LIMITS, mode, ..LetterboxOptions::default() };
        let letterbox = Letterbox::new(canvas, options).expect("a sound canvas");
        let found = letterbox.process_bytes(bytes, workspace);
        assert_eq!(found.is_ok(), image.is_ok());
        if let (Mode::Exact, Ok(image), Ok(found)) = (mode, &image, found) {
            assert!(letterbox.process(image.as_view()) == found, "a streamed letterbox differs");
        }
    }
});
