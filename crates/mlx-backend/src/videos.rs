//! Videos through the models against values that transformers 5.23.0 computed in f32, with the built-in model and with
//! a tiny Qwen3-VL; `tools/golden/video` writes them.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use llm_core::{Image, Message, Part, Video};
use mlx_rs::{Array, ops::indexing::TryIndexOp};
use serde_json::Value;
use vision_preproc::{PixelBudget, RgbImage, Sampling, Workspace};

use crate::{
    checkpoint::Checkpoint,
    engine::{LoadSpec, build},
    generate::encode,
    kv_cache::KvCache,
    models::{self, Seen, VisionLanguageModel},
    prompt::timed_videos,
    provider::{image_reader, video_processor},
    rope::Rotation,
};

const TOLERANCE: f32 = 1e-3;
/// The script's.
const STRIDE: usize = 16;

/// An image (and the number of the frame that it is), or a video (frames and how many in a second).
#[derive(Clone, Copy, Debug)]
enum Shows {
    Image(usize),
    Video(usize, f64),
}

type Case = (&'static str, &'static [(Shows, u32, u32)]);

const TINY_VL: &str = "models/tiny-vl/full";
const QWEN3: &str = "testdata/families/qwen3_vl";

const CASES: [Case; 4] = [
    ("four_frames", &[(Shows::Video(4, 2.0), 112, 140)]),
    ("five_frames", &[(Shows::Video(5, 2.0), 196, 168)]),
    ("image_and_video", &[(Shows::Image(9), 140, 112), (Shows::Video(4, 4.0), 112, 140)]),
    ("slow", &[(Shows::Video(6, 0.5), 112, 112)]),
];

const QWEN3_CASES: [Case; 2] = [
    ("qwen3_video", &[(Shows::Video(5, 2.0), 96, 128)]),
    ("qwen3_image_and_video", &[(Shows::Image(9), 90, 64), (Shows::Video(4, 3.0), 128, 96)]),
];

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
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

fn floats(array: &Array) -> Vec<f32> {
    array.reshape(&[-1]).unwrap().to_vec_cast::<f32>().unwrap()
}

/// `at_a_time` frames are in the tower at a time.
fn check(model: &str, (name, shown): Case, at_a_time: usize) {
    let expected = root(&format!("testdata/video/{name}.safetensors"));
    let expected = Array::load_safetensors(expected).unwrap();
    let expected: HashMap<&str, &Array> = expected.iter().map(|(k, v)| (k.as_str(), v)).collect();
    let checkpoint = Checkpoint::open(&root(model)).unwrap();
    let architecture = models::architecture(checkpoint.model_type()).unwrap();
    let model = build(&LoadSpec {
        dtype: Some(mlx_rs::Dtype::Float32),
        ..LoadSpec::new(&checkpoint, architecture)
    });
    let model: Box<dyn VisionLanguageModel> = model.unwrap();
    let template = checkpoint.chat_template().unwrap();
    let videos = video_processor(&checkpoint, architecture, &template).unwrap().unwrap();
    let images = image_reader(&checkpoint, architecture).unwrap().unwrap();
    let (budget, mut workspace) = (PixelBudget::default(), Workspace::new());

    let (mut seen, mut features) = (Vec::new(), Vec::new());
    for &(what, width, height) in shown {
        let (patches, seconds) = match what {
            Shows::Image(index) => {
                let image = frame(index, width, height);
                (images.patches(image.as_view().into(), &budget, &mut workspace).unwrap(), None)
            }
            Shows::Video(count, fps) => {
                let size = frame(0, width, height).size();
                let mut patches = videos.patches(size, count, budget).unwrap();
                for index in 0..count {
                    let image = frame(index, width, height);
                    patches.push(image.as_view().into(), &mut workspace).unwrap();
                }
                (patches.finish().unwrap(), Some(videos.seconds_per_patch(fps)))
            }
        };
        seen.push(Seen { grid: patches.grid, seconds });
        features.push(encode(&*model, patches.into(), at_a_time).unwrap());
    }
    let ids: Vec<u32> = expected["input_ids"].to_vec_cast().unwrap();
    let positions = model.positions(&ids, &seen).unwrap();
    let reference: Vec<i32> = expected["position_ids"].to_vec_cast().unwrap();
    assert_eq!(positions.axes.concat(), reference, "{name}: positions");

    let tokens = Array::from_slice(&ids, &[1, ids.len() as i32]);
    let embeddings = model.merge(&model.embed(&tokens).unwrap(), &ids, &features).unwrap();
    let rotation = model.prompt_rotation(&positions, 0..ids.len()).unwrap();
    let mut caches = vec![KvCache::default(); model.layers()];
    let mut hidden = model.forward(embeddings, &rotation, &mut caches).unwrap();
    let found = floats(&model.logits(&hidden).unwrap());
    let width = found.len() / ids.len();
    let rows = found.chunks_exact(width);
    let kept = rows.clone().step_by(STRIDE).chain(rows.last()).flatten();
    let reference = floats(expected["logits"]);
    assert_eq!(kept.clone().count(), reference.len(), "{name}");
    let off = kept.zip(&reference).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(off < TOLERANCE, "{name}: logits differ by {off}");

    let reference: Vec<u32> = expected["greedy"].to_vec_cast().unwrap();
    let mut greedy = Vec::new();
    for _ in &reference {
        let last = floats(&model.logits(&hidden.try_index((.., -1, ..)).unwrap()).unwrap());
        let best = (0..).zip(&last).max_by(|(_, a), (_, b)| a.total_cmp(b)).unwrap();
        let token: u32 = best.0;
        greedy.push(token);
        let x = model.embed(&Array::from_slice(&[token], &[1, 1])).unwrap();
        let rotation = Rotation::from(caches[0].offset() + positions.delta);
        hidden = model.forward(x, &rotation, &mut caches).unwrap();
    }
    assert_eq!(greedy, reference, "{name}: greedy tokens");
}

#[test]
fn logits_and_greedy_tokens_are_those_of_transformers() {
    for case in CASES {
        check(TINY_VL, case, usize::MAX);
    }
    for case in QWEN3_CASES {
        check(QWEN3, case, usize::MAX);
    }
}

#[test]
fn frames_do_not_see_each_other_in_the_tower() {
    for at_a_time in [1, 2] {
        check(TINY_VL, CASES[1], at_a_time);
        check(QWEN3, QWEN3_CASES[0], at_a_time);
    }
}

/// The text around the tokens of patches, which has their times.
#[test]
fn prompts_of_qwen3_are_those_of_transformers() {
    let checkpoint = Checkpoint::open(&root(QWEN3)).unwrap();
    let architecture = models::architecture(checkpoint.model_type()).unwrap();
    let template = checkpoint.chat_template().unwrap();
    let videos = video_processor(&checkpoint, architecture, &template).unwrap().unwrap();
    for ((name, shown), text) in QWEN3_CASES.into_iter().zip(["what moves?", "compare"]) {
        let (mut parts, mut times) = (Vec::new(), Vec::new());
        for &(what, width, height) in shown {
            let image = |index| {
                let pixels = frame(index, width, height).as_view().pixels().to_vec();
                Image::rgb(width, height, pixels).unwrap()
            };
            match what {
                Shows::Image(index) => parts.push(Part::from(image(index))),
                Shows::Video(count, fps) => {
                    parts.push(Video::frames((0..count).map(image), fps).unwrap().into());
                    let sampled = videos.sample_chosen(count, fps, &Sampling::default()).unwrap();
                    times.push(videos.patch_times(&sampled).unwrap());
                }
            }
        }
        parts.push(text.into());
        let rendered = template.render(&[Message::user(parts)], &[], true).unwrap();
        let times: Vec<&[f64]> = times.iter().map(Vec::as_slice).collect();
        let rendered = timed_videos(&rendered, &times).unwrap();
        let found = checkpoint.tokenizer().unwrap().encode(&rendered).unwrap();
        let expected = root(&format!("testdata/video/{name}.safetensors"));
        let expected = Array::load_safetensors(expected).unwrap();
        let mut ids: Vec<u32> = expected["input_ids"].to_vec_cast().unwrap();
        // Each patch and image as one token.
        ids.dedup_by(|a, b| a == b && [262, 263].contains(a));
        assert_eq!(found, ids, "{name}");
    }
}

/// Positions of prompts with images and videos, with and without time of its own.
#[test]
fn positions_are_those_of_transformers() {
    const TOKENS: [(&str, u32); 3] = [("text", 5), ("image", 900), ("video", 901)];
    let (mut same, mut other) = (0, 0);
    for line in std::fs::read_to_string(root("testdata/video/positions.jsonl")).unwrap().lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let rate = case["rate"].as_f64().map(|rate| rate as f32);
        let mut seconds = case["seconds"].as_array().unwrap().iter();
        let (mut ids, mut seen, mut end) = (Vec::new(), Vec::new(), None);
        for part in case["parts"].as_array().unwrap() {
            let kind = part[0].as_str().unwrap();
            let token = TOKENS.iter().find(|(name, _)| *name == kind).unwrap().1;
            let count = match part[1].as_array() {
                None => part[1].as_u64().unwrap() as usize,
                Some(grid) => {
                    let [t, h, w] = [0, 1, 2].map(|i| grid[i].as_u64().unwrap() as usize);
                    let is_video = kind == "video";
                    let seconds = is_video.then(|| match seconds.next() {
                        Some(seconds) => seconds.as_f64().unwrap() as f32,
                        None => 1.0,
                    });
                    seen.push(Seen { grid: vision_preproc::Grid { t, h, w }, seconds });
                    t * h * w / 4
                }
            };
            ids.extend(vec![token; count]);
            if kind == "video" && end.is_none() {
                end = Some(ids.len());
            }
        }
        let found = models::qwen_positions(&ids, &seen, rate).unwrap();
        let reference: Vec<Vec<i32>> = serde_json::from_value(case["axes"].clone()).unwrap();
        if case["text"] == true {
            assert_eq!(found.axes.to_vec(), reference, "{case}");
            assert_eq!(i64::from(found.delta), case["delta"].as_i64().unwrap(), "{case}");
            same += 1;
            continue;
        }
        // Transformers 5 has the text go on before the end of the video.
        let end = end.unwrap();
        for (found, reference) in found.axes.iter().zip(&reference) {
            assert_eq!(found[..end], reference[..end], "{case}");
        }
        let largest = found.axes.iter().flat_map(|axis| &axis[..end]).max().unwrap();
        assert!(found.axes.iter().all(|axis| axis[end] == largest + 1), "{case}");
        other += 1;
    }
    assert!(same > 50 && other > 10, "{same} {other}");
}
