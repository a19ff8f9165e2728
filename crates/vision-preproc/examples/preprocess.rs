//! Shows what an image file becomes: `cargo run -p vision-preproc --example preprocess -- image.jpg`
#![allow(clippy::print_stdout, reason = "a program for the terminal")]

use vision_preproc::{ImageProcessor, Limits, PixelBudget, decode, probe};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: preprocess IMAGE")?;
    println!("{}", describe(&std::fs::read(path)?)?);
    Ok(())
}

fn describe(bytes: &[u8]) -> Result<String, Box<dyn std::error::Error>> {
    let info = probe(bytes)?;
    let processor =
        ImageProcessor::from_json(r#"{"image_processor_type": "Qwen2VLImageProcessor"}"#)?;
    let image = decode(bytes, &Limits::default())?;
    let plan = processor.plan(image.size(), &PixelBudget::default())?;
    let patches = processor.process(image.as_view(), &PixelBudget::default())?;
    Ok([
        format!("{} {}, stored {:?}", info.format, info.size(), info.orientation),
        format!("resized to {}, {} tokens", plan.resized, plan.tokens),
        format!("{:?}, first values {:?}", patches.grid, &patches.values[..3]),
    ]
    .join("\n"))
}

#[cfg(test)]
mod tests {
    use super::describe;

    #[test]
    fn the_docs_show_what_it_prints() -> Result<(), Box<dyn std::error::Error>> {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
        let photo = std::fs::read(format!("{root}/testdata/preproc/photos/china.jpg"))?;
        let docs = std::fs::read_to_string(format!("{root}/docs/preprocessing.md"))?;
        let printed = describe(&photo)?;
        assert!(docs.contains(&printed), "docs/preprocessing.md does not show\n{printed}");
        Ok(())
    }
}
