//! `check-image`: what images would cost.

use crate::{hostile, repository, run};

#[test]
fn costs_are_those_of_the_model_named() {
    let image = repository("models/tiny-vl/samples/scene.png");
    let run = run(["check-image", "--json", "--model", "tiny-vl", &image]);
    assert_eq!(run.code, 0, "{run:?}");
    let json = run.json();
    let cost = &json["images"][0];
    for (field, value) in [
        ("width", 336),
        ("resized_height", 336),
        ("grid_height", 24),
        ("patches", 576),
        ("tokens", 144),
        ("patch_bytes", 576 * 588 * 4),
        // 4 heads.
        ("attention_bytes_f32", 4 * 576 * 576 * 4),
    ] {
        assert_eq!(cost[field], value, "{field}");
    }
    assert_eq!((&json["model"], &json["total_tokens"]), (&"tiny-vl".into(), &144.into()));
}

#[test]
fn it_agrees_with_what_the_model_counts() {
    let image = repository("testdata/scenes/23-compare-2.png");
    let planned = run(["check-image", "--json", "--model", "tiny-vl", &image]).json();
    let used = run(["describe", "-q", "--json", "--max-tokens", "1", &image]).json();
    assert_eq!(planned["total_tokens"], used["usage"]["image_tokens"]);
}

#[test]
fn without_a_model_it_is_qwen2_5_vl() {
    let image = repository("models/tiny-vl/samples/scene.png");
    let json = run(["check-image", "--json", "--max-pixels", "50176", &image]).json();
    let cost = &json["images"][0];
    assert_eq!((&cost["resized_width"], &cost["patches"]), (&224.into(), &256.into()));
    assert_eq!(cost["attention_bytes_bf16"], 16 * 256 * 256 * 2);
}

#[test]
fn a_bad_image_does_not_hide_the_others() {
    let good = repository("models/tiny-vl/samples/scene.png");
    let run = run(["check-image", &good, &hostile("bomb_60000x60000.png"), &hostile("empty.png")]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stdout.contains("576, 24 rows of 24"), "{run:?}");
    assert_eq!(run.stderr.matches("error: image ").count(), 2, "{run:?}");
    assert!(run.stderr.contains("3600000000"), "{run:?}");
}
