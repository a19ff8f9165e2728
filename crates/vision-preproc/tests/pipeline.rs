//! The stream of rows gives what the steps one after the other give, on every level, into every kind of buffer.

use half::{bf16, f16};
use vision_preproc::{
    Element, Error, ImageProcessor, Input, Level, Limits, PassOrder, Patches, PixelBudget,
    RgbImage, Workspace, decode, probe, resize,
};

const CONFIG: &str = r#"{"image_processor_type": "Qwen2VLImageProcessor", "max_pixels": 200704"#;

fn processor(more: &str) -> ImageProcessor {
    ImageProcessor::from_json(&format!("{CONFIG}{more}}}")).unwrap()
}

fn noise(width: u32, height: u32, seed: u64) -> RgbImage {
    let mut state = seed;
    let pixels = (0..width * height * 3).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    });
    RgbImage::new(width, height, pixels.collect()).unwrap()
}

fn file(name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/preproc/formats");
    std::fs::read(format!("{folder}/{name}")).unwrap()
}

fn bits(patches: &Patches) -> Vec<u32> {
    patches.values.iter().map(|value| value.to_bits()).collect()
}

/// The layout as its definition, from an image that has the final size: `normalise(pixel)` at each place.
fn by_definition(image: &RgbImage, patch: usize, frames: usize, merge: usize) -> Vec<[usize; 2]> {
    let (h, w) = (image.height() as usize / patch, image.width() as usize / patch);
    let mut bytes = Vec::new();
    for (block_y, block_x) in (0..h / merge).flat_map(|y| (0..w / merge).map(move |x| (y, x))) {
        for (inner_y, inner_x) in (0..merge).flat_map(|y| (0..merge).map(move |x| (y, x))) {
            let top = (block_y * merge + inner_y) * patch;
            let left = (block_x * merge + inner_x) * patch;
            for channel in 0..3 {
                for _ in 0..frames {
                    for (y, x) in (0..patch).flat_map(|y| (0..patch).map(move |x| (y, x))) {
                        let pixel = (top + y) * image.width() as usize + left + x;
                        bytes.push([channel, usize::from(image.pixels()[pixel * 3 + channel])]);
                    }
                }
            }
        }
    }
    bytes
}

#[test]
fn patches_are_the_normalised_pixels_in_the_order_of_the_definition() {
    let (mean, std) = (
        [0.481_454_66_f32, 0.457_827_5, 0.408_210_73],
        [0.268_629_54_f32, 0.261_302_6, 0.275_777_1],
    );
    for (patch, frames, merge) in [(14, 2, 2), (16, 2, 2), (7, 1, 1), (20, 3, 3)] {
        let processor = processor(&format!(
            r#","patch_size":{patch},"temporal_patch_size":{frames},"merge_size":{merge}"#
        ));
        let image = noise(123, 217, 3);
        let plan = processor.plan(image.size(), &PixelBudget::default()).unwrap();
        let resized = resize(
            image.as_view(),
            plan.resized,
            vision_preproc::Filter::Bicubic,
            PassOrder::default(),
        );
        let expected: Vec<u32> = by_definition(&resized.unwrap(), patch, frames, merge)
            .into_iter()
            .map(|[c, byte]| (((byte as f64 * (1.0 / 255.0)) as f32 - mean[c]) / std[c]).to_bits())
            .collect();
        for level in Level::available() {
            let processor = processor.clone().with_level(level);
            let patches = processor.process(image.as_view(), &PixelBudget::default()).unwrap();
            assert!(bits(&patches) == expected, "{level:?}, patches of {patch}");
        }
    }
}

#[test]
fn a_file_gives_what_its_decoded_pixels_give() {
    let names = [
        "exif_1.jpg",
        "exif_2.jpg",
        "exif_3.jpg",
        "exif_4.jpg",
        "exif_5.jpg",
        "exif_6.jpg",
        "exif_7.jpg",
        "exif_8.jpg",
        "exif_8.png",
        "exif_8.webp",
        "jpeg_2.jpg",
        "jpeg_2_progressive.jpg",
        "jpeg_cmyk.jpg",
        "jpeg_grey.jpg",
        "gif.gif",
        "bmp_24.bmp",
        "png_palette.png",
    ];
    // One workspace for all, since no image may leave a trace for the next.
    let mut workspace = Workspace::new();
    for name in names {
        let bytes = file(name);
        let image = decode(&bytes, &Limits::default()).unwrap();
        // Smaller and larger than the file, so that both axes shrink, grow and stay.
        for budget in [(3136, 3136), (3136, 20_000), (150_000, 200_000)] {
            let budget = PixelBudget { min_pixels: Some(budget.0), max_pixels: Some(budget.1) };
            for order in [PassOrder::Pillow12, PassOrder::Pillow13] {
                let slow = processor("").with_pass_order(order).with_level(Level::SCALAR);
                let expected = bits(&slow.process(image.as_view(), &budget).unwrap());
                for level in Level::available() {
                    let processor = slow.clone().with_level(level);
                    let found = processor.process_bytes(&bytes, &budget, &mut workspace).unwrap();
                    assert!(bits(&found) == expected, "{name}, {budget:?}, {order:?}, {level:?}");
                }
            }
        }
    }
}

#[test]
fn other_kinds_of_numbers_are_the_floats_rounded() {
    fn check<T: Element + PartialEq>() {
        let image = noise(300, 200, 5);
        for level in Level::available() {
            let processor = processor("").with_level(level);
            let patches = processor.process(image.as_view(), &PixelBudget::default()).unwrap();
            let mut out = vec![T::from_f32(0.0); patches.values.len()];
            let grid = processor
                .process_into(
                    image.as_view(),
                    &PixelBudget::default(),
                    &mut Workspace::new(),
                    &mut out,
                )
                .unwrap();
            assert_eq!(grid, patches.grid);
            let rounded = patches.values.iter().map(|&value| T::from_f32(value));
            assert!(rounded.eq(out), "{level:?}");
        }
    }
    check::<f32>();
    check::<f16>();
    check::<bf16>();
}

#[test]
fn a_wrong_buffer_is_an_error() {
    let image = noise(56, 56, 1);
    let mut out = vec![0.0_f32; 16 * 1176 - 1];
    let result = processor("").process_into(
        image.as_view(),
        &PixelBudget::default(),
        &mut Workspace::new(),
        &mut out,
    );
    assert!(matches!(result, Err(Error::Shape { .. })));
}

#[test]
fn frames_of_a_video_share_patches_by_twos() {
    let images = [noise(70, 90, 1), noise(70, 90, 2), noise(70, 90, 3)];
    let views: Vec<_> = images.iter().map(RgbImage::as_view).collect();
    let budget = PixelBudget::default();
    for level in Level::available() {
        let processor = processor("").with_level(level);
        let video = processor.process_frames(&views, &budget, &mut Workspace::new()).unwrap();
        let stills =
            images.each_ref().map(|image| processor.process(image.as_view(), &budget).unwrap());
        let plane = 14 * 14;
        let len = stills[0].values.len();
        assert_eq!((video.grid.t, video.values.len()), (2, 2 * len));
        for (at, value) in video.values.iter().enumerate() {
            // The third frame stands alone and is repeated.
            let frame = (at / len * 2 + at / plane % 2).min(2);
            assert_eq!(value.to_bits(), stills[frame].values[at % len].to_bits(), "value {at}");
        }
    }
    let other = noise(70, 91, 4);
    let mixed = [views[0], other.as_view()];
    let mixed = processor("").process_frames(&mixed, &budget, &mut Workspace::new());
    assert!(matches!(mixed, Err(Error::Shape { .. })));
    assert!(processor("").process_frames(&[], &budget, &mut Workspace::new()).is_err());
}

#[test]
fn one_frame_of_a_still_image_is_each_of_its_frames() {
    let image = noise(300, 170, 5);
    let budget = PixelBudget::default();
    for level in Level::available() {
        let all = processor("").with_level(level);
        let one = all.clone().with_one_frame();
        assert_eq!((all.row_values(), one.row_values()), (1176, 588));
        let (all, one) = [all, one].map(|p| p.process(image.as_view(), &budget).unwrap()).into();
        assert_eq!(all.grid, one.grid);
        for frame in 0..2 {
            let rows = all.values.chunks_exact(392).flat_map(|both| &both[frame * 196..][..196]);
            assert!(rows.eq(&one.values), "frame {frame}, {level:?}");
        }
    }
}

#[test]
fn a_file_that_ends_early_is_an_error_also_after_rows_were_used() {
    let bytes = file("jpeg_0.jpg");
    let cut = &bytes[..bytes.len() - 200];
    assert!(probe(cut).is_ok());
    let mut workspace = Workspace::new();
    let result = processor("").process_bytes(cut, &PixelBudget::default(), &mut workspace);
    assert!(matches!(result, Err(Error::Decode { .. })));
    let whole =
        processor("").process_bytes(&bytes, &PixelBudget::default(), &mut workspace).unwrap();
    let again = processor("")
        .process_bytes(&bytes, &PixelBudget::default(), &mut Workspace::new())
        .unwrap();
    assert!(whole == again, "an error left something in the workspace");
}

#[test]
fn a_batch_gives_what_one_after_the_other_gives_in_the_same_order() {
    let files = ["exif_6.jpg", "png_rgb.png", "jpeg_2.jpg", "webp.webp", "jpeg_1.jpg"].map(file);
    let image = noise(333, 222, 7);
    let mut inputs: Vec<Input<'_>> = files.iter().map(|bytes| Input::Encoded(bytes)).collect();
    inputs.insert(1, Input::Rgb(image.as_view()));
    // An image that fails in its header, and one that fails after rows of it were used.
    inputs.insert(3, Input::Encoded(b"nothing"));
    inputs.push(Input::Encoded(&files[2][..files[2].len() - 100]));
    let (processor, budget) = (processor(""), PixelBudget::default());
    let mut alone = vec![Workspace::new()];
    let expected = processor.process_batch(&inputs, &budget, &mut alone);
    let failed: Vec<bool> = expected.iter().map(Result::is_err).collect();
    assert_eq!(failed, [false, false, false, true, false, false, false, true]);
    for (input, found) in inputs.iter().zip(&expected) {
        if let (Input::Encoded(bytes), Ok(found)) = (input, found) {
            let one = processor.process_bytes(bytes, &budget, &mut Workspace::new()).unwrap();
            assert!(one == *found);
        }
    }
    for threads in [2, 3, 20] {
        let mut workspaces: Vec<Workspace> = (0..threads).map(|_| Workspace::new()).collect();
        let found = processor.process_batch(&inputs, &budget, &mut workspaces);
        for (found, expected) in found.iter().zip(&expected) {
            assert!(found.as_ref().ok() == expected.as_ref().ok(), "{threads} threads");
        }
        assert_eq!(found.len(), expected.len());
        let len = |patches: &Patches| patches.values.len();
        let mut values: Vec<Vec<f32>> = expected
            .iter()
            .map(|expected| vec![0.5; expected.as_ref().map_or(1176, len)])
            .collect();
        let mut outputs: Vec<&mut [f32]> =
            values.iter_mut().map(|values| &mut values[..]).collect();
        let grids = processor.process_batch_into(&inputs, &budget, &mut workspaces, &mut outputs);
        for ((grid, values), expected) in grids.iter().zip(&values).zip(&expected) {
            assert_eq!(grid.as_ref().ok(), expected.as_ref().ok().map(|patches| &patches.grid));
            assert!(expected.as_ref().map_or(true, |expected| *values == expected.values));
        }
    }
    assert!(processor.process_batch(&[], &budget, &mut []).is_empty());
}
