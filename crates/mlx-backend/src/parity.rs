//! A checkpoint of true width against what mlx-vlm computed on it, `benches/generate/parity.py`:
//! `CHECKPOINT=FOLDER FIXTURE=FILE cargo test --release -p mlx-backend --lib parity -- --ignored --nocapture`
#![allow(clippy::print_stderr, reason = "the norms are for a person to read")]

use std::{collections::HashMap, path::PathBuf};

use mlx_rs::{Array, Dtype, Stream, ops::indexing::TryIndexOp, with_stream};
use vision_preproc::Grid;

use crate::{
    checkpoint::Checkpoint,
    device::Backend,
    engine::{LoadSpec, build, compute_dtype},
    kv_cache::KvCache,
    models::{self, VisionLanguageModel},
    rope::Rotation,
};

fn load(checkpoint: &Checkpoint, dtype: Option<Dtype>) -> Box<dyn VisionLanguageModel> {
    let architecture = models::architecture(checkpoint.model_type()).unwrap();
    build(&LoadSpec { dtype, ..LoadSpec::new(checkpoint, architecture) }).unwrap()
}

/// Logits of the prompt's last token and of every one of `tokens` but the last, a row each.
fn logits(
    model: &dyn VisionLanguageModel,
    fixture: &HashMap<String, Array>,
    tokens: &[u32],
) -> Vec<Vec<f32>> {
    let ids: Vec<u32> = fixture["input_ids"].to_vec_cast().unwrap();
    let grid: Vec<i32> = fixture["image_grid_thw"].to_vec_cast().unwrap();
    let grid = Grid { t: grid[0] as usize, h: grid[1] as usize, w: grid[2] as usize };
    let features = model.encode(&fixture["pixel_values"], grid).unwrap();
    let embeddings = model.embed(&Array::from_slice(&ids, &[1, ids.len() as i32])).unwrap();
    let embeddings = model.merge(&embeddings, &ids, &[features]).unwrap();
    let positions = model.positions(&ids, &[grid.into()]).unwrap();
    let rotation = model.prompt_rotation(&positions, 0..ids.len()).unwrap();
    let mut caches = vec![KvCache::default(); model.layers()];
    let mut hidden = model.forward(embeddings, &rotation, &mut caches).unwrap();
    let mut rows = Vec::new();
    for &token in tokens {
        let last = model.logits(&hidden.try_index((.., -1, ..)).unwrap()).unwrap();
        rows.push(last.reshape(&[-1]).unwrap().to_vec_cast::<f32>().unwrap());
        let x = model.embed(&Array::from_slice(&[token], &[1, 1])).unwrap();
        let rotation = Rotation::from(caches[0].offset() + positions.delta);
        hidden = model.forward(x, &rotation, &mut caches).unwrap();
    }
    rows
}

fn likeliest(row: &[f32]) -> u32 {
    let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
    best.unwrap().0 as u32
}

/// `‖a - b‖ / ‖b‖` over all rows, and how many rows have the same likeliest token.
fn compare(what: &str, a: &[Vec<f32>], b: &[Vec<f32>]) -> (f64, usize) {
    let pairs = || a.iter().flatten().zip(b.iter().flatten());
    let difference: f64 = pairs().map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let norm: f64 = b.iter().flatten().map(|&b| f64::from(b).powi(2)).sum();
    let largest = pairs().map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    let same = a.iter().zip(b).filter(|(a, b)| likeliest(a) == likeliest(b)).count();
    let relative = (difference / norm).sqrt();
    eprintln!(
        "{what}: norm of the difference {relative:.2e} of the logits', largest {largest:.2e}, \
         {same} of {} likeliest tokens equal",
        a.len()
    );
    (relative, same)
}

#[test]
#[ignore = "needs a checkpoint of gigabytes and what mlx-vlm computed on it"]
fn logits_are_as_near_to_f32_as_those_of_mlx_vlm() {
    crate::ffi::load_library().unwrap();
    let path = |name| PathBuf::from(std::env::var_os(name).unwrap_or_else(|| panic!("no {name}")));
    let checkpoint = Checkpoint::open(&path("CHECKPOINT")).unwrap();
    with_stream(&Stream::new(), || {
        let fixture = Array::load_safetensors(path("FIXTURE")).unwrap();
        let tokens: Vec<u32> = fixture["tokens"].to_vec_cast().unwrap();
        let rows = |name: &str| -> Vec<Vec<f32>> {
            let all: Vec<f32> = fixture[name].to_vec_cast().unwrap();
            all.chunks(all.len() / tokens.len()).map(<[f32]>::to_vec).collect()
        };
        let (exact, theirs) = (rows("logits_f32"), rows("logits_own"));
        let ours_exact = logits(&*load(&checkpoint, Some(Dtype::Float32)), &fixture, &tokens);
        let (relative, same) = compare("f32: ours against theirs", &ours_exact, &exact);
        assert!(relative < 1e-4, "{relative}");
        assert_eq!(same, tokens.len(), "greedy tokens in f32");
        // On a GPU the type is the checkpoint's own.
        let own = compute_dtype(None, Backend::Cuda, checkpoint.config());
        let ours = logits(&*load(&checkpoint, Some(own)), &fixture, &tokens);
        compare(&format!("{own:?}: ours against theirs"), &ours, &theirs);
        let (noise, _) = compare(&format!("theirs, {own:?} against f32"), &theirs, &exact);
        let (our_noise, _) = compare(&format!("ours, {own:?} against f32"), &ours, &ours_exact);
        assert!(our_noise <= 1.25 * noise, "{our_noise} against {noise}");
    });
}
