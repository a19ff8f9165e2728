//! Any sizes, filters and options: plans keep their promises, and every level gives the same values.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use vision_preproc::{
    ChannelOrder, Filter, ImageProcessor, Letterbox, LetterboxOptions, Level, PassOrder,
    PixelBudget, RgbImage, Size, Workspace, letterbox, resize, smart_resize,
};

#[derive(Arbitrary, Debug)]
struct Input {
    /// Sizes that are computed with, and no more.
    size: [u32; 2],
    canvas: [u32; 2],
    factor: u32,
    bounds: [u64; 2],
    /// An image that is made, and what it becomes.
    width: u8,
    height: u8,
    target: [u8; 2],
    filter: u8,
    pillow_12: bool,
    hwc: bool,
    enlarge: bool,
    seed: u32,
}

fn size([width, height]: [u32; 2]) -> Size {
    Size { width, height }
}

fuzz_target!(|input: Input| {
    numbers(&input);
    pixels(&input);
});

fn numbers(input: &Input) {
    let (from, canvas) = (size(input.size), size(input.canvas));
    let factor = input.factor.max(1);
    let [min, max] = [input.bounds[0], input.bounds[1].max(1)];
    if let Ok(resized) = smart_resize(from, factor, min, max) {
        assert_eq!((resized.width % factor, resized.height % factor), (0, 0));
        assert!(resized.pixels() > 0);
    }
    if from.pixels() > 0 && canvas.pixels() > 0 {
        let placed = letterbox(from, canvas);
        assert!(placed.size.pixels() > 0);
        assert!(u64::from(placed.left) + u64::from(placed.size.width) <= canvas.width.into());
        assert!(u64::from(placed.top) + u64::from(placed.size.height) <= canvas.height.into());
        assert!(placed.size.width == canvas.width || placed.size.height == canvas.height);
    }
    let config = r#"{"image_processor_type": "Qwen2VLImageProcessor"}"#;
    let processor = ImageProcessor::from_json(config).expect("a sound configuration");
    let budget = PixelBudget { min_pixels: Some(min), max_pixels: Some(input.bounds[1]) };
    if let Ok(plan) = processor.plan(from, &budget) {
        assert_eq!(plan.patches, plan.grid.patches());
        assert_eq!(plan.tokens * 4, plan.patches);
        assert_eq!(plan.grid.w as u64 * 14 * plan.grid.h as u64 * 14, plan.resized.pixels());
    }
}

fn pixels(input: &Input) {
    let (width, height) = (u32::from(input.width) + 1, u32::from(input.height) + 1);
    let mut state = u64::from(input.seed);
    let pixels = (0..width * height * 3).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    });
    let image = RgbImage::new(width, height, pixels.collect()).expect("as many as there are");
    let target = size(input.target.map(u32::from));
    let filters =
        [Filter::Box, Filter::Bilinear, Filter::Hamming, Filter::Bicubic, Filter::Lanczos];
    let filter = filters[usize::from(input.filter) % filters.len()];
    let order = if input.pillow_12 { PassOrder::Pillow12 } else { PassOrder::Pillow13 };
    let resized = resize(image.as_view(), target, filter, order);
    assert_eq!(resized.is_ok(), target.pixels() > 0);
    if let Ok(resized) = resized {
        assert_eq!(resized.size(), target);
    }

    let channels = if input.hwc { ChannelOrder::Hwc } else { ChannelOrder::Chw };
    let options = LetterboxOptions {
        filter,
        pass_order: order,
        channels,
        enlarge: input.enlarge,
        ..LetterboxOptions::default()
    };
    if let Ok(letterbox) = Letterbox::new(target, options) {
        let values = letterbox.process(image.as_view());
        assert!(values.iter().all(|value| (0.0..=1.0).contains(value)));
        let bytes = letterbox.image(image.as_view());
        let sum = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>();
        let (floats, bytes) = (
            sum(&mut values.iter().map(|&value| f64::from(value) * 255.0)),
            sum(&mut bytes.pixels().iter().map(|&byte| f64::from(byte))),
        );
        assert!((floats - bytes).abs() <= bytes * 1e-6 + 1e-3, "{floats} of {bytes}");
    }

    let config = r#"{"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 7}"#;
    let processor =
        ImageProcessor::from_json(config).expect("a sound configuration").with_pass_order(order);
    let budget = PixelBudget { min_pixels: Some(1), max_pixels: Some(20_000) };
    let mut expected = None;
    for level in Level::available() {
        let processor = processor.clone().with_level(level);
        let found = processor.patches(image.as_view().into(), &budget, &mut Workspace::new()).ok();
        match &expected {
            None => expected = Some(found),
            Some(expected) => assert!(*expected == found, "{level:?}"),
        }
    }
}
