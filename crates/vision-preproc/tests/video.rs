//! Videos against transformers 5.23.0: which frames are looked at, and their patches. `tools/golden/video/preproc.py`
//! writes what is expected.

use serde_json::Value;
use sha2::{Digest, Sha256};
use vision_preproc::{
    Error, Input, Limits, Patches, PixelBudget, RgbImage, Sampling, Size, VideoFamily,
    VideoProcessor, Workspace,
};

fn lines(text: &str) -> impl Iterator<Item = Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap())
}

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn qwen3(config: &str) -> VideoProcessor {
    VideoProcessor::from_configs(VideoFamily::Qwen3Vl, Some(config), None, None).unwrap()
}

fn processor(config: &str) -> VideoProcessor {
    VideoProcessor::from_configs(VideoFamily::Qwen2Vl, Some(config), None, None).unwrap()
}

/// The script's: all in integers.
fn frame(index: usize, width: u32, height: u32) -> RgbImage {
    let pixel = |x: usize, y: usize, c: usize| {
        ((x * 5 + y * 3 + index * 17 + c * 41 + x * y * (c + 1) / 7) % 256) as u8
    };
    let pixels = (0..height as usize)
        .flat_map(|y| (0..width as usize).flat_map(move |x| (0..3).map(move |c| pixel(x, y, c))));
    RgbImage::new(width, height, pixels.collect()).unwrap()
}

fn patches(processor: &VideoProcessor, frames: &[RgbImage]) -> Result<Patches, Error> {
    let mut workspace = Workspace::new();
    let size = frames[0].size();
    let mut patches = processor.patches(size, frames.len(), PixelBudget::default())?;
    for frame in frames {
        patches.push(frame.as_view().into(), &mut workspace)?;
    }
    patches.finish()
}

#[test]
fn the_frames_are_those_of_transformers() {
    let processor = processor("{}");
    let mut count = 0;
    for case in lines(include_str!("../../../testdata/video/sampling.jsonl")) {
        let number = |key: &str| case[key].as_u64();
        let asked = Sampling {
            fps: case["asked"].as_f64(),
            min_frames: number("min"),
            max_frames: number("max"),
        };
        let total = number("total").unwrap() as usize;
        let found = processor.sample(total, case["fps"].as_f64().unwrap(), &asked).unwrap();
        assert_eq!(found.indices.len() as u64, number("count").unwrap(), "{case}");
        assert_eq!(Some(found.fps), case["sampled_fps"].as_f64(), "{case}");
        match &case["indices"] {
            Value::String(expected) => {
                let text: Vec<String> = found.indices.iter().map(usize::to_string).collect();
                assert_eq!(&sum(text.join(",").as_bytes()), expected, "{case}");
            }
            expected => assert_eq!(&serde_json::json!(found.indices), expected, "{case}"),
        }
        count += 1;
    }
    assert!(count > 400, "{count} cases");
}

#[test]
fn patches_are_those_of_transformers() {
    let cases = include_str!("../../../testdata/video/patches.jsonl");
    assert_eq!(same_patches(processor, cases), 10);
    let cases = include_str!("../../../testdata/video/qwen3_patches.jsonl");
    assert_eq!(same_patches(qwen3, cases), 9);
}

fn same_patches(processor: fn(&str) -> VideoProcessor, cases: &str) -> usize {
    let mut count = 0;
    for case in lines(cases) {
        let number = |key: &str| case[key].as_u64().unwrap() as u32;
        let (width, height) = (number("width"), number("height"));
        let frames: Vec<_> =
            (0..number("frames") as usize).map(|index| frame(index, width, height)).collect();
        let processor = processor(&case["config"].to_string());
        let found = patches(&processor, &frames).unwrap();
        let grid = serde_json::json!([found.grid.t, found.grid.h, found.grid.w]);
        assert_eq!(grid, case["grid"], "{case}");
        let plan = processor.plan(frames[0].size(), frames.len(), &PixelBudget::default()).unwrap();
        assert_eq!((plan.grid, plan.patches), (found.grid, found.grid.patches()), "{case}");
        let bytes: Vec<u8> = found.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(sum(&bytes), case["values"].as_str().unwrap(), "{case}");
        count += 1;
    }
    count
}

/// Frames of Qwen3-VL, and what its prompts say of their times.
#[test]
fn frames_and_times_of_qwen3_are_those_of_transformers() {
    let processor = qwen3("{}");
    let short = |values: Vec<String>, json: Value| match values.len() {
        ..=8 => json,
        _ => Value::String(sum(values.join(",").as_bytes())),
    };
    let mut count = 0;
    for case in lines(include_str!("../../../testdata/video/qwen3_sampling.jsonl")) {
        let number = |key: &str| case[key].as_u64();
        let (min_frames, max_frames) = (number("min"), number("max"));
        let asked = Sampling { fps: case["asked"].as_f64(), min_frames, max_frames };
        let total = number("total").unwrap() as usize;
        let found = processor.sample(total, case["fps"].as_f64().unwrap(), &asked).unwrap();
        assert_eq!(found.indices.len() as u64, number("count").unwrap(), "{case}");
        let indices: Vec<String> = found.indices.iter().map(usize::to_string).collect();
        let json = serde_json::json!(found.indices);
        assert_eq!(short(indices, json), case["indices"], "{case}");
        let times = processor.patch_times(&found).unwrap();
        let times: Vec<String> = times.iter().map(|time| format!("{time:.1}")).collect();
        assert_eq!(short(times.clone(), serde_json::json!(times)), case["times"], "{case}");
        count += 1;
    }
    assert!(count > 300, "{count} cases");
}

/// A budget is of one frame, and does not lift the bound of all.
#[test]
fn budgets_of_qwen3_are_of_a_frame() {
    let processor = qwen3(r#"{"size": {"shortest_edge": 4096, "longest_edge": 400000}}"#);
    let size = Size { width: 640, height: 640 };
    let pixels = |frames, max_pixels| {
        let budget = PixelBudget { max_pixels, ..PixelBudget::default() };
        processor.plan(size, frames, &budget).map(|plan| plan.resized.pixels())
    };
    assert_eq!(pixels(4, None).unwrap(), 288 * 288);
    assert_eq!(pixels(4, Some(10_000)).unwrap(), 96 * 96);
    assert_eq!(pixels(4, Some(1 << 40)).unwrap(), 288 * 288);
    assert_eq!(pixels(usize::MAX / 2, Some(10_000)).ok(), None);
    assert!(matches!(pixels(4, Some(0)), Err(Error::Config { .. })));
    // Less than a patch is taken for one.
    assert_eq!(pixels(1, None).unwrap(), pixels(2, None).unwrap());
    assert!(qwen3("{}").sample(0, 10.0, &Sampling::default()).is_err());
    let many = qwen3("{}").sample(usize::MAX, 1e-6, &Sampling::default()).unwrap();
    assert_eq!(many.indices.len(), 768);
}

#[test]
fn the_file_that_counts_is_the_first() {
    let bounds = |video, preprocessor, processor| {
        let found =
            VideoProcessor::from_configs(VideoFamily::Qwen2Vl, video, preprocessor, processor)
                .unwrap();
        found.pixel_bounds(&PixelBudget::default())
    };
    let image =
        Some(r#"{"image_processor_type": "Qwen2VLImageProcessor", "max_pixels": 12845056}"#);
    let video = Some(r#"{"size": {"shortest_edge": 5000, "longest_edge": 6000}}"#);
    let nested = Some(r#"{"video_processor": {"min_pixels": 7000}, "image_processor": {}}"#);
    assert_eq!(bounds(None, image, None), (100_352, 12_845_056));
    assert_eq!(bounds(video, image, None), (5000, 6000));
    assert_eq!(bounds(video, image, nested), (7000, 602_112));
    for text in ["[]", r#"{"fps": 0}"#, r#"{"min_frames": -1}"#, r#"{"patch_size": 0}"#] {
        let error =
            VideoProcessor::from_configs(VideoFamily::Qwen2Vl, Some(text), None, None).unwrap_err();
        assert!(matches!(error, Error::Config { .. }), "{text}: {error}");
    }
    assert!(VideoProcessor::from_configs(VideoFamily::Qwen2Vl, None, None, None).is_err());
}

#[test]
fn absurd_numbers_are_errors_or_bounded() {
    let processor = processor("{}");
    let none = Sampling::default();
    for fps in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e300] {
        assert!(processor.sample(10, fps, &none).is_err(), "{fps}");
        let asked = Sampling { fps: Some(fps), ..none };
        assert!(processor.sample(10, 10.0, &asked).is_err(), "{fps}");
    }
    assert!(processor.sample(0, 10.0, &none).is_err());
    assert!(processor.sample_chosen(0, 10.0, &none).is_err());
    // A million frames and more: no more than configured are looked at.
    for total in [1_000_000, usize::MAX] {
        let found = processor.sample(total, 1e-6, &none).unwrap();
        assert_eq!(found.indices.len(), 768);
        assert!(found.indices.iter().all(|&index| index < total));
        assert_eq!(processor.sample_chosen(total, 30.0, &none).unwrap().indices.len(), 768);
    }
    let one = processor.sample(1, 10.0, &none).unwrap();
    assert_eq!((one.indices, one.fps), (vec![0], 10.0));
    let size = Size { width: 5000, height: 5000 };
    let plan = processor.plan(size, usize::MAX, &PixelBudget::default());
    assert!(matches!(plan, Err(Error::Limit { .. })), "{plan:?}");
    let small = processor.clone().with_limits(Limits { max_pixels: 1000, ..Limits::default() });
    assert!(matches!(small.plan(size, 2, &PixelBudget::default()), Err(Error::Limit { .. })));
    assert!(matches!(processor.plan(size, 0, &PixelBudget::default()), Err(Error::Shape { .. })));
}

#[test]
fn frames_of_a_list_are_all_taken() {
    let processor = processor("{}");
    let all = processor.sample_chosen(5, 3.0, &Sampling::default()).unwrap();
    assert_eq!((all.indices, all.fps), (vec![0, 1, 2, 3, 4], 3.0));
    let asked = Sampling { fps: Some(1.0), ..Sampling::default() };
    assert_eq!(processor.sample_chosen(12, 3.0, &asked).unwrap().indices, [0, 3, 6, 9]);
    let few = Sampling { max_frames: Some(2), ..Sampling::default() };
    assert_eq!(processor.sample_chosen(5, 3.0, &few).unwrap().indices, [0, 2]);
}

#[test]
fn frames_of_other_sizes_and_numbers_are_named() {
    let processor = processor("{}");
    let error = patches(&processor, &[frame(0, 64, 80), frame(1, 80, 64)]).unwrap_err();
    assert_eq!(error.to_string(), "expected 2 frames of 64x80, found 80x64 as frame 2");
    let (image, mut workspace) = (frame(0, 64, 80), Workspace::new());
    let begin = || processor.patches(image.size(), 1, PixelBudget::default()).unwrap();
    let mut patches = begin();
    patches.push(image.as_view().into(), &mut workspace).unwrap();
    assert!(patches.push(image.as_view().into(), &mut workspace).is_err());
    assert!(begin().finish().is_err());
    assert!(begin().push(Input::Encoded(b"no image"), &mut workspace).is_err());
}
