//! The guard's estimate against what MLX takes, on random weights. Alone in its process, since MLX
//! counts memory process-wide.
#![allow(clippy::print_stdout, reason = "the numbers are worth a look")]

#[allow(dead_code, reason = "not every test uses all of it")]
mod common;

use std::{collections::BTreeMap, num::NonZeroU32};

use futures_executor::block_on;
use llm_core::{GenerateParams, Image, Provider, Request};
use mlx_backend::{
    CacheLimits, Caches, MemoryCheck, MemoryStage, MlxOptions, MlxProvider, check_memory,
};
use vision_preproc::Size;

/// An image of soft waves, whose sides are multiples of 28.
fn image(side: u32) -> Image {
    let pixels: Vec<u8> = (0..side * side)
        .flat_map(|i| {
            let (x, y) = ((i % side) as f32, (i / side) as f32);
            [(x * 0.01).sin(), (y * 0.013).sin(), ((x + y) * 0.007).cos()]
        })
        .map(|wave| (wave * 127.0 + 128.0) as u8)
        .collect();
    let side = NonZeroU32::new(side).unwrap();
    Image::Rgb8 { width: side, height: side, pixels: pixels.into() }
}

/// What the check says MLX will hold: no term of the host, and not what else the process holds.
fn on_device(check: &MemoryCheck) -> u64 {
    let of = |stage| {
        let terms = check.terms.iter().filter(|t| t.stage == stage && !t.host);
        terms.filter(|t| t.name != "all else that is held").map(|t| t.bytes).sum::<u64>()
    };
    let stages = [MemoryStage::Vision, MemoryStage::Prompt, MemoryStage::Answer];
    of(MemoryStage::Always) + stages.map(of).into_iter().max().unwrap_or(0)
}

/// Checks the estimate for square images of `sides`, and prints hidden size, patches, bytes measured,
/// bytes estimated and their ratio: `docs/memory.md` has them.
fn check(sizes: common::Sizes, sides: &[u32], adapted: bool) {
    let (folder, adapter) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    common::write_checkpoint(sizes, folder.path());
    common::write_adapter(sizes, adapter.path());
    let name = adapted.then(|| "all".to_owned());
    let adapters: BTreeMap<_, _> =
        name.iter().map(|name| (name.clone(), adapter.path().to_owned())).collect();
    for &side in sides {
        // Caches of its own each time: what an earlier request left there is no part of this one.
        let caches = Caches::new(CacheLimits::default());
        let adapters = adapters.clone();
        let options = MlxOptions { caches, adapters, ..MlxOptions::default() };
        let model = MlxProvider::load(folder.path().to_str().unwrap(), options.clone()).unwrap();
        mlx_rs::memory::reset_peak_memory().unwrap();
        let adapter = name.clone();
        let params = GenerateParams { max_tokens: Some(4), adapter, ..GenerateParams::default() };
        let size = Size { width: side, height: side };
        let check = check_memory(folder.path(), &[size], &params, &options).unwrap();
        let request = Request::images([image(side)], "What?").with_params(params);
        let usage = block_on(model.generate(request)).unwrap().completion.usage;
        assert_eq!(usage.image_tokens as u32, side * side / 784);
        let measured = mlx_rs::memory::peak_memory().unwrap() as u64;
        let estimated = on_device(&check);
        let ratio = estimated as f64 / measured as f64;
        let (hidden, patches) = (sizes.vision_hidden, side * side / 196);
        println!("{hidden} {patches} {measured} {estimated} {ratio:.2} {adapted}");
        // Of an adapter, all that it may add is charged at the same time, of which small images need little.
        let most = if adapted { 2.5 } else { 2.0 };
        assert!((1.0..=most).contains(&ratio), "{hidden} {patches} {measured} {check:#?}");
        let scores = sizes.vision_heads as u64 * u64::from(patches).pow(2) * 4;
        // From here on the scores of one block would be more than everything else.
        assert!(patches < 4000 || measured < scores, "{hidden} {patches} {measured} {scores}");
    }
}

/// A long prompt that is read at once takes far less than its scores would.
fn check_long_prompt() {
    let folder = tempfile::tempdir().unwrap();
    common::write_checkpoint(NARROW, folder.path());
    let caches = Caches::new(CacheLimits::none());
    let options = MlxOptions { caches, prefill_step_tokens: 100_000, ..MlxOptions::default() };
    let model = MlxProvider::load(folder.path().to_str().unwrap(), options).unwrap();
    mlx_rs::memory::reset_peak_memory().unwrap();
    let params = GenerateParams { max_tokens: Some(1), ..GenerateParams::default() };
    let request = Request::text("a red square ".repeat(2000)).with_params(params);
    let tokens = block_on(model.generate(request)).unwrap().completion.usage.prompt_tokens as u64;
    let measured = mlx_rs::memory::peak_memory().unwrap() as u64;
    let scores = NARROW.heads as u64 * tokens * tokens * 4;
    println!("{tokens} tokens at once: measured {measured}, scores of a layer {scores}");
    assert!(tokens > 5000 && measured < scores / 2, "{tokens} {measured} {scores}");
}

const NARROW: common::Sizes = common::Sizes {
    depth: 2,
    vision_hidden: 320,
    vision_inner: 856,
    vision_heads: 4,
    layers: 4,
    hidden: 256,
    inner: 688,
    heads: 4,
};

#[test]
fn the_estimate_is_an_upper_bound_within_a_factor_of_two() {
    check(NARROW, &[448, 784, 1176], false);
    check(NARROW, &[448, 784, 1176], true);
    let wide = common::Sizes { vision_hidden: 640, vision_inner: 1712, vision_heads: 8, ..NARROW };
    check(wide, &[448, 672, 896], false);
    check(wide, &[448, 672, 896], true);
    check_long_prompt();
}

/// As wide as the published model, with two blocks and two layers; takes minutes.
#[test]
#[ignore = "takes minutes"]
fn so_it_is_at_the_width_of_qwen2_5_vl_3b() {
    let published = common::Sizes {
        depth: 2,
        vision_hidden: 1280,
        vision_inner: 3420,
        vision_heads: 16,
        layers: 2,
        hidden: 2048,
        inner: 11_008,
        heads: 16,
    };
    check(published, &[448, 896, 1344], false);
}
