//! The model against values that mlx-vlm computed on the same tiny checkpoints; see
//! `testdata/golden/README.md`.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use mlx_rs::{Array, ops::indexing::TryIndexOp};
use vision_preproc::{Grid, Input, Limits, PixelBudget, RgbImage, Workspace};

use crate::{
    checkpoint::Checkpoint,
    convert::convert,
    engine::{LoadSpec, build},
    image_reader::ImageReader,
    kv_cache::KvCache,
    models::{self, VisionLanguageModel},
    provider::image_reader,
    quantize::{QuantizationMode, Quantize},
    recipe::Recipe,
    rope::Rotation,
};

/// One case: a checkpoint, its images (and whether they are mirrored), and the greedy tokens.
struct Case {
    name: &'static str,
    checkpoint: &'static str,
    images: &'static [&'static str],
    mirrored: bool,
    greedy: [i32; 8],
}

const ONE: &[&str] = &["a_220x150.png"];
const CASES: [Case; 5] = [
    Case {
        name: "one_image",
        checkpoint: "tiny_fp32",
        images: ONE,
        mirrored: false,
        greedy: [302, 313, 99, 295, 155, 134, 46, 46],
    },
    Case {
        name: "two_images",
        checkpoint: "tiny_fp32",
        images: &["a_220x150.png", "b_130x180.png"],
        mirrored: false,
        greedy: [200, 99, 150, 37, 102, 153, 173, 239],
    },
    Case {
        name: "text_only",
        checkpoint: "tiny_fp32",
        images: &[],
        mirrored: false,
        greedy: [153, 37, 175, 213, 50, 156, 281, 46],
    },
    Case {
        name: "one_image_flipped",
        checkpoint: "tiny_fp32",
        images: ONE,
        mirrored: true,
        greedy: [241, 246, 124, 187, 239, 255, 203, 83],
    },
    Case {
        name: "q4_one_image",
        checkpoint: "tiny_q4",
        images: ONE,
        mirrored: false,
        greedy: [318, 175, 101, 203, 172, 163, 46, 130],
    },
];

pub(crate) fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden").join(name)
}

fn load(checkpoint: &Path) -> (Box<dyn VisionLanguageModel>, ImageReader) {
    load_packed(checkpoint, None)
}

fn load_packed(
    checkpoint: &Path,
    quantize: Option<Quantize>,
) -> (Box<dyn VisionLanguageModel>, ImageReader) {
    let checkpoint = Checkpoint::open(checkpoint).unwrap();
    let architecture = models::architecture(checkpoint.model_type()).unwrap();
    let model = build(&LoadSpec {
        quantize,
        dtype: Some(mlx_rs::Dtype::Float32),
        ..LoadSpec::new(&checkpoint, architecture)
    });
    (model.unwrap(), image_reader(&checkpoint, architecture).unwrap().unwrap())
}

fn decode(name: &str, mirrored: bool) -> RgbImage {
    let bytes = std::fs::read(golden(name)).unwrap();
    let image = vision_preproc::decode(&bytes, &Limits::default()).unwrap();
    if !mirrored {
        return image;
    }
    let (size, pixels) = (image.size(), image.as_view().pixels().to_vec());
    let row_bytes = size.width as usize * 3;
    let flipped: Vec<u8> = pixels
        .chunks(row_bytes)
        .flat_map(|row| row.chunks(3).rev().flatten().copied().collect::<Vec<u8>>())
        .collect();
    RgbImage::new(size.width, size.height, flipped).unwrap()
}

fn floats(array: &Array) -> Vec<f32> {
    // Sliced arrays are views; reshaping makes their values lie side by side.
    array.reshape(&[-1]).unwrap().to_vec_cast::<f32>().unwrap()
}

pub(crate) fn largest_difference(found: &Array, expected: &Array) -> f32 {
    assert_eq!(found.size(), expected.size(), "{:?} {:?}", found.shape(), expected.shape());
    let pairs = floats(found).into_iter().zip(floats(expected));
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Runs a prompt through the model in one or several steps and returns all its logits.
pub(crate) fn prefill(
    model: &dyn VisionLanguageModel,
    embeddings: &Array,
    positions: &crate::rope::Positions,
    caches: &mut Vec<KvCache>,
    step: usize,
) -> Array {
    let total = embeddings.dim(1) as usize;
    let mut parts = Vec::new();
    for start in (0..total).step_by(step) {
        let end = total.min(start + step);
        let rotation = model.prompt_rotation(positions, start..end).unwrap();
        let x = embeddings.try_index((.., start as i32..end as i32, ..)).unwrap();
        parts.push(model.logits(&model.forward(x, &rotation, caches).unwrap()).unwrap());
    }
    mlx_rs::ops::concatenate(&parts, 1).unwrap()
}

fn check(case: &Case, step: usize) {
    let expected = Array::load_safetensors(golden(&format!("{}.safetensors", case.name))).unwrap();
    let expected: HashMap<&str, &Array> = expected.iter().map(|(k, v)| (k.as_str(), v)).collect();
    let (model, reader) = load(&golden(case.checkpoint));
    let ids: Vec<u32> = expected["input_ids"].to_vec_cast::<u32>().unwrap();

    let mut pixels: Vec<f32> = Vec::new();
    let mut grids: Vec<Grid> = Vec::new();
    let mut features = Vec::new();
    for name in case.images {
        let image = decode(name, case.mirrored);
        let patches = reader
            .patches(Input::Rgb(image.as_view()), &PixelBudget::default(), &mut Workspace::new())
            .unwrap();
        let rows = (patches.grid.h * patches.grid.w) as i32;
        let array = Array::from_slice(&patches.values, &[rows, 588]);
        features.push(model.encode(&array, patches.grid).unwrap());
        pixels.extend(&patches.values);
        grids.push(patches.grid);
    }
    if !grids.is_empty() {
        // Of the two frames of a patch, which are equal, one.
        let both = expected["pixel_values"].reshape(&[-1, 3, 2, 196]).unwrap();
        let reference = floats(&both.try_index((.., .., 0, ..)).unwrap());
        let same = reference.iter().zip(&pixels).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same && reference.len() == pixels.len(), "{}: pixel values", case.name);
        let found = mlx_rs::ops::concatenate(&features, 0).unwrap();
        let difference = largest_difference(&found, expected["vision_features"]);
        assert!(difference < 1e-4, "{}: features differ by {difference}", case.name);
    }

    let seen: Vec<_> = grids.iter().map(|&grid| grid.into()).collect();
    let positions = model.positions(&ids, &seen).unwrap();
    let reference: Vec<i32> = expected["position_ids"].to_vec_cast().unwrap();
    assert_eq!(positions.axes.concat(), reference, "{}: positions", case.name);
    let delta = expected["rope_delta"].to_vec_cast::<i32>().unwrap();
    assert_eq!([positions.delta], delta.as_slice(), "{}: delta", case.name);

    let tokens = Array::from_slice(&ids, &[1, ids.len() as i32]);
    let mut embeddings = model.embed(&tokens).unwrap();
    if !features.is_empty() {
        embeddings = model.merge(&embeddings, &ids, &features).unwrap();
    }
    let difference = largest_difference(&embeddings, expected["inputs_embeds"]);
    assert!(difference < 1e-4, "{}: embeddings differ by {difference}", case.name);

    let mut caches = vec![KvCache::default(); model.layers()];
    let logits = prefill(&*model, &embeddings, &positions, &mut caches, step);
    let difference = largest_difference(&logits, expected["logits"]);
    assert!(difference < 1e-3, "{}: logits differ by {difference}", case.name);

    let last = logits.try_index((.., -1, ..)).unwrap();
    let found = greedy(&*model, last, positions.delta, &mut caches, (case.name, &expected));
    assert_eq!(found, case.greedy, "{}: greedy tokens", case.name);
}

/// What a model makes of the prompt of a case with one image.
pub(crate) struct ReadCase {
    pub(crate) features: Array,
    /// Of the whole prompt.
    pub(crate) logits: Array,
    pub(crate) caches: Vec<KvCache>,
    pub(crate) delta: i32,
}

/// Reads the prompt of a case, whose tensors are `inputs`, `step` tokens at a time.
pub(crate) fn read_case(
    model: &dyn VisionLanguageModel,
    inputs: &HashMap<String, Array>,
    step: usize,
) -> ReadCase {
    let ids: Vec<u32> = inputs["input_ids"].to_vec_cast().unwrap();
    let grid: Vec<i32> = inputs["image_grid_thw"].to_vec_cast().unwrap();
    let grid = Grid { t: 1, h: grid[1] as usize, w: grid[2] as usize };
    let features = model.encode(&inputs["pixel_values"], grid).unwrap();
    let tokens = Array::from_slice(&ids, &[1, ids.len() as i32]);
    let embeddings = model.embed(&tokens).unwrap();
    let embeddings = model.merge(&embeddings, &ids, std::slice::from_ref(&features)).unwrap();
    let positions = model.positions(&ids, &[grid.into()]).unwrap();
    let mut caches = vec![KvCache::default(); model.layers()];
    let logits = prefill(model, &embeddings, &positions, &mut caches, step);
    ReadCase { features, logits, caches, delta: positions.delta }
}

/// Returns eight greedy tokens after a prompt whose last logits are `last`; those of each step must be
/// the ones of the reference. The first token follows from the prompt, the others from one step each.
pub(crate) fn greedy(
    model: &dyn VisionLanguageModel,
    mut last: Array,
    delta: i32,
    caches: &mut Vec<KvCache>,
    (name, expected): (&str, &HashMap<&str, &Array>),
) -> Vec<i32> {
    let mut greedy = Vec::new();
    for row in 0..8 {
        let reference = expected["greedy_logits"].try_index((row, ..)).unwrap();
        let difference = largest_difference(&last, &reference);
        assert!(difference < 1e-3, "{name}: step {row} differs by {difference}");
        let token = mlx_rs::ops::indexing::argmax_axis(&last, -1, false).unwrap();
        greedy.push(token.to_vec_cast::<i32>().unwrap()[0]);
        let x = model.embed(&token.reshape(&[1, 1]).unwrap()).unwrap();
        let rotation = Rotation::from(caches[0].offset() + delta);
        let hidden = model.forward(x, &rotation, caches).unwrap();
        last = model.logits(&hidden.try_index((.., -1, ..)).unwrap()).unwrap();
    }
    greedy
}

/// The checkpoint packed in every mode, by a recipe, and while it is loaded.
#[test]
fn every_packing_matches_the_reference() {
    let expected = Array::load_safetensors(golden("one_image.safetensors")).unwrap();
    let affine = |bits, group| Quantize::affine(bits, group).into();
    let mode = |mode| Quantize::from(mode).into();
    let cases: [(&str, Recipe); 9] = [
        ("affine2", affine(2, 32)),
        ("affine3", affine(3, 64)),
        ("affine5", affine(5, 32)),
        ("affine6", affine(6, 64)),
        ("affine8", affine(8, 32)),
        ("mxfp4", mode(QuantizationMode::Mxfp4)),
        ("mxfp8", mode(QuantizationMode::Mxfp8)),
        ("nvfp4", mode(QuantizationMode::Nvfp4)),
        ("mixed_3_6", Recipe::mixed("mixed_3_6").unwrap()),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (name, recipe) in cases {
        let packed = folder.path().join(name);
        convert(&golden("tiny_fp32"), &packed, &recipe, Arc::new(|_, _| {})).unwrap();
        let file = golden(&format!("quantized/{name}.safetensors"));
        let packed_expected = Array::load_safetensors(file).unwrap();
        let reference = packed_expected.iter().map(|(k, v)| (k.as_str(), v)).collect();
        let mut loaded = vec![load(&packed).0];
        if !name.starts_with("mixed") {
            // Packed while loading.
            loaded.push(load_packed(&golden("tiny_fp32"), Some(recipe.default())).0);
        }
        for model in loaded {
            let ReadCase { logits, mut caches, delta, .. } =
                read_case(&*model, &expected, usize::MAX >> 1);
            let last = logits.try_index((.., -1, ..)).unwrap();
            let case = (name, &reference);
            let found = greedy(&*model, last, delta, &mut caches, case);
            let expected: Vec<i32> = reference["greedy"].to_vec_cast().unwrap();
            assert_eq!(found, expected, "{name}: greedy tokens");
        }
    }
}

#[test]
fn every_case_matches_the_reference() {
    CASES.iter().for_each(|case| check(case, usize::MAX >> 1));
}

/// Steps that cut through images and through text give the same logits.
#[test]
fn a_prompt_read_in_steps_gives_the_same() {
    for step in [7, 64] {
        CASES.iter().for_each(|case| check(case, step));
    }
}
