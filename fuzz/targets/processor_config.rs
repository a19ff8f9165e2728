//! Any text as the configuration of a processor: an error, or a processor that works.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vision_preproc::{
    ImageProcessor, Limits, PixelBudget, Preprocessor, RgbImage, Size, Workspace,
};

/// Of what a configuration may ask for.
const MAX_PIXELS: u64 = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let limits = Limits { max_pixels: MAX_PIXELS, ..Limits::default() };
    let image = RgbImage::new(45, 30, (0..45 * 30 * 3).map(|at| (at * 7 % 256) as u8).collect());
    let image = image.expect("as many as there are");

    // The text as either of the files of a model, and both.
    let (first, second) = text.split_at(text.floor_char_boundary(text.len() / 2));
    let _ = ImageProcessor::from_configs(None, Some(text));
    let _ = ImageProcessor::from_configs(Some(first), Some(second));

    match Preprocessor::from_json(text) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(Preprocessor::Patches(processor)) => {
            let processor = processor.with_limits(limits);
            let (min, max) = processor.pixel_bounds(&PixelBudget::default());
            assert!(min <= max);
            let size = Size { width: 1000, height: 700 };
            if let Ok(plan) = processor.plan(size, &PixelBudget::default()) {
                assert_eq!(plan.patches, plan.grid.patches());
            }
            // Frames of a patch and its area multiply to what a row holds.
            let budget = PixelBudget { min_pixels: Some(1), max_pixels: Some(2_000) };
            if processor.row_values() > 1 << 20 {
                return;
            }
            if let Ok(patches) =
                processor.patches(image.as_view().into(), &budget, &mut Workspace::new())
            {
                assert_eq!(patches.values.len(), patches.grid.patches() * processor.row_values());
            }
        }
        Ok(Preprocessor::Frames(processor)) => {
            let processor = processor.with_limits(limits);
            if processor.frame_size().pixels() > MAX_PIXELS {
                return;
            }
            if let Ok(frames) = processor.process(image.as_view()) {
                let frame = frames.size.pixels() as usize * 3;
                assert_eq!(frames.values.len(), frames.count * frame);
                assert_eq!(frames.count, frames.rows * frames.columns + 1);
            }
        }
        Ok(_) => {}
    }
});
