//! Describes an image with the embedded model: `cargo run --example describe_image [IMAGE]`.
#![allow(clippy::print_stdout, reason = "an example prints")]

use abstractllm::{Image, Request, Result, blocking, create_llm};

fn main() -> Result<()> {
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tiny-vl/samples/scene.png");
    let image = std::env::args().nth(1).unwrap_or_else(|| sample.to_owned());

    let llm = create_llm("mlx", [("model", "tiny-vl"), ("max_tokens", "128")])?;
    let request = Request::images([Image::Path(image.into())], "Describe this image.");
    let answer = blocking::generate(&*llm, request)?;

    println!("{}", answer.text);
    Ok(())
}
