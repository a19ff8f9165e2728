//! Shows what an image file becomes: `cargo run -p vision-preproc --example preprocess -- image.jpg`
#![allow(clippy::print_stdout, reason = "a program for the terminal")]

use vision_preproc::{ImageProcessor, Limits, PixelBudget, decode, probe};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: preprocess IMAGE")?;
    let bytes = std::fs::read(path)?;
    let info = probe(&bytes)?;
    println!("{} {}, stored {:?}", info.format, info.size(), info.orientation);
    let processor =
        ImageProcessor::from_json(r#"{"image_processor_type": "Qwen2VLImageProcessor"}"#)?;
    let image = decode(&bytes, &Limits::default())?;
    let plan = processor.plan(image.size(), &PixelBudget::default())?;
    println!("resized to {}, {} tokens", plan.resized, plan.tokens);
    let patches = processor.process(image.as_view(), &PixelBudget::default())?;
    println!("{:?}, first values {:?}", patches.grid, &patches.values[..3]);
    Ok(())
}
